package consul

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
)

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// testBody is an answer's body that may fail in the middle. It records its
// close.
type testBody struct {
	io.Reader
	closed bool
}

func (b *testBody) Close() error { b.closed = true; return nil }

// TestInterceptBodies sends answers of several kinds through the transport.
func TestInterceptBodies(t *testing.T) {
	broken := errors.New("broken")
	for _, test := range []struct {
		name        string
		asked       bool
		status      int
		err         error // of the request
		bodyErr     error
		sent        string
		left, taken string
	}{
		{name: "asked", asked: true, status: 200, sent: "some text", left: "null", taken: "some text"},
		{name: "not asked", status: 200, sent: "some text", left: "some text"},
		{name: "not found", asked: true, status: 404, sent: "some text", left: "some text"},
		{name: "empty", asked: true, status: 200},
		{name: "failed", asked: true, err: broken},
		{name: "cut short", asked: true, status: 200, sent: "some text", bodyErr: broken},
	} {
		sent := &testBody{Reader: strings.NewReader(test.sent)}
		if test.bodyErr != nil {
			sent.Reader = io.MultiReader(sent.Reader, iotest.ErrReader(test.bodyErr))
		}
		client := &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
			if test.err != nil {
				return nil, test.err
			}
			return &http.Response{StatusCode: test.status, Body: sent}, nil
		})}
		InterceptBodies(client)
		ctx := t.Context()
		buffer := bytes.NewBufferString("what was there before")
		if test.asked {
			ctx = WithBody(ctx, buffer)
		}
		request, err := http.NewRequestWithContext(ctx, "GET", "http://consul/", nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(request)
		if want := errors.Join(test.err, test.bodyErr); (err != nil) != (want != nil) || err != nil && !errors.Is(err, broken) {
			t.Errorf("%s: error %v, want %v", test.name, err, want)
		}
		if err == nil {
			left, err := io.ReadAll(response.Body)
			if err != nil || string(left) != test.left {
				t.Errorf("%s: %q left, error %v, want %q", test.name, left, err, test.left)
			}
			response.Body.Close()
		}
		if test.asked && test.bodyErr == nil && buffer.String() != test.taken {
			t.Errorf("%s: took %q, want %q", test.name, buffer, test.taken)
		}
		if test.err == nil && !sent.closed {
			t.Errorf("%s: the body was left open", test.name)
		}
	}
}
