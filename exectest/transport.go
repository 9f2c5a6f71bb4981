package exectest

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"syscall"
)

// A transport calls the cluster's handler without a socket, on the client's
// goroutine.
type transport struct{ srv *Server }

// RoundTrip fails as a network connection would. It returns a dial error if the
// request did not reach the cluster, io.EOF if the answer was lost, and the
// context's cause if the client gave up.
func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if ctx := r.Context(); ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err := t.srv.misplaced(); err != nil {
		return nil, err
	}
	req, err := asServed(r)
	if err != nil {
		return nil, err
	}
	answer := newRecorder()
	err = t.serve(answer, req)
	if ctx := r.Context(); ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, err
	}
	return answer.response(r), nil
}

func (t transport) serve(w http.ResponseWriter, r *http.Request) (err error) {
	defer func() {
		switch p := recover(); p {
		case nil:
		case errRefused:
			err = &net.OpError{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{}, Err: syscall.ECONNREFUSED}
		case http.ErrAbortHandler:
			err = io.EOF
		default:
			panic(p)
		}
	}()
	t.srv.serve(w, r)
	return nil
}

// asServed returns the request in the form in which a handler gets it from
// net/http's server.
func asServed(r *http.Request) (*http.Request, error) {
	req := r.Clone(r.Context())
	req.RequestURI = r.URL.RequestURI()
	req.RemoteAddr = "127.0.0.1:1"
	if req.Host == "" {
		req.Host = r.URL.Host
	}
	if r.Body == nil {
		req.Body = http.NoBody
		return req, nil
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	req.Body = io.NopCloser(bytes.NewReader(body))
	if r.ContentLength <= 0 && len(body) > 0 {
		req.ContentLength = -1 // a network client would send it chunked
	}
	return req, nil
}

// A recorder is a ResponseWriter that stores the answer.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func newRecorder() *recorder { return &recorder{header: http.Header{}, status: http.StatusOK} }

func (w *recorder) Header() http.Header         { return w.header }
func (w *recorder) WriteHeader(status int)      { w.status = status }
func (w *recorder) Write(p []byte) (int, error) { return w.body.Write(p) }

func (w *recorder) response(r *http.Request) *http.Response {
	return &http.Response{
		Status:        strconv.Itoa(w.status) + " " + http.StatusText(w.status),
		StatusCode:    w.status,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        w.header,
		Body:          io.NopCloser(&w.body),
		ContentLength: int64(w.body.Len()),
		Request:       r,
	}
}
