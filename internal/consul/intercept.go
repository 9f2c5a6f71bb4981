package consul

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
)

// bodyInterceptor is a transport that takes the body of an answer before
// consul/api decodes it. It leaves null in its place, or nothing if the body
// was empty. It does so for requests with the context of WithBody.
type bodyInterceptor struct{ http.RoundTripper }

type bodyKey struct{}

// InterceptBodies gives client a transport that serves WithBody.
func InterceptBodies(client *http.Client) {
	if client.Transport == nil {
		client.Transport = http.DefaultTransport
	}
	client.Transport = bodyInterceptor{client.Transport}
}

// WithBody returns a context for a request whose answer's body goes to buffer
// instead of to consul/api's decoder. buffer stays empty if the client has no
// interceptor, or if the answer's status is not 200.
func WithBody(ctx context.Context, buffer *bytes.Buffer) context.Context {
	buffer.Reset()
	return context.WithValue(ctx, bodyKey{}, buffer)
}

func (i bodyInterceptor) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := i.RoundTripper.RoundTrip(request)
	buffer, asked := request.Context().Value(bodyKey{}).(*bytes.Buffer)
	if err != nil || !asked || response.StatusCode != http.StatusOK {
		return response, err
	}
	_, err = buffer.ReadFrom(response.Body)
	response.Body.Close()
	if err != nil {
		return nil, err
	}
	left := ""
	if buffer.Len() > 0 {
		left = "null"
	}
	response.Body = io.NopCloser(strings.NewReader(left))
	return response, nil
}
