package consulexec

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
)

// bodyTaker is a transport that takes an answer's body before consul/api decodes it,
// and leaves null in its place, or nothing in the place of nothing. It does so for the
// requests of takeBody.
type bodyTaker struct{ http.RoundTripper }

type bodyKey struct{}

// takeBodies gives a client such a transport.
func takeBodies(client *http.Client) {
	if client.Transport == nil {
		client.Transport = http.DefaultTransport
	}
	client.Transport = bodyTaker{client.Transport}
}

// takeBody returns a context for a request whose answer's body is to go to buffer.
// That stays empty where the client was made by somebody else, and where the answer
// is not OK.
func takeBody(ctx context.Context, buffer *bytes.Buffer) context.Context {
	buffer.Reset()
	return context.WithValue(ctx, bodyKey{}, buffer)
}

func (t bodyTaker) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := t.RoundTripper.RoundTrip(request)
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
