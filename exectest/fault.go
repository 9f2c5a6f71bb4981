package exectest

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

// A Fault is a failure between clients and the cluster. It does not affect the
// writes of nodes.
type Fault struct {
	// Match selects requests; nil selects all. It is called on the goroutine of
	// the request, under the Server's lock: it must not call the Server or
	// consume the request's body.
	Match func(*http.Request) bool

	// Times limits the number of affected requests. Zero means no limit.
	Times int

	// Delay is how long a request waits before Do. Zero means no wait.
	Delay time.Duration

	// Do answers the request after Delay. Nil means the cluster answers.
	Do Action
}

// An Action replaces the cluster's answer to a request: [Refuse], [Drop],
// [Hang], [Respond], [Denied], [FilteredByACLs] or any other function. The
// handler next gives the cluster's answer, after any faults that were switched
// on later. An Action runs on the goroutine of the request, without a lock.
type Action func(w http.ResponseWriter, r *http.Request, next http.Handler)

// Fault switches a fault on and returns a function that switches it off. That
// function may be called more than once. If several faults match a request, the
// oldest one is outermost.
func (s *Server) Fault(f Fault) (remove func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fault := &f
	s.faults = append(s.faults, fault)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.removeFault(fault)
	}
}

func (s *Server) removeFault(fault *Fault) {
	s.faults = slices.DeleteFunc(s.faults, func(f *Fault) bool { return f == fault })
}

// withFaults wraps the handler in the matching faults and counts them. The
// caller holds Server.mu.
func (s *Server) withFaults(r *http.Request, handler http.Handler) http.Handler {
	for _, fault := range slices.Backward(slices.Clone(s.faults)) {
		if fault.Match != nil && !fault.Match(r) {
			continue
		}
		if fault.Times > 0 {
			if fault.Times--; fault.Times == 0 {
				s.removeFault(fault)
			}
		}
		handler = fault.wrap(handler)
	}
	return handler
}

// sleep waits for d and reports whether d passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (f *Fault) wrap(next http.Handler) http.Handler {
	delay, do := f.Delay, f.Do
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !sleep(r.Context(), delay) {
			panic(http.ErrAbortHandler)
		}
		if do == nil {
			next.ServeHTTP(w, r)
		} else {
			do(w, r, next)
		}
	})
}

// Path returns a match for requests with the method and a path that begins with
// prefix, such as /v1/kv/. An empty method matches all methods.
func Path(method, prefix string) func(*http.Request) bool {
	return func(r *http.Request) bool {
		return (method == "" || r.Method == method) && strings.HasPrefix(r.URL.Path, prefix)
	}
}

var errRefused = errors.New("exectest: connection refused")

// Refuse keeps the request from the cluster. A client from [Server.Client] gets
// a refused connection. A client of [Server.URL] is already connected, so its
// connection is closed without an answer.
func Refuse(http.ResponseWriter, *http.Request, http.Handler) { panic(errRefused) }

// Drop lets the cluster execute the request and loses the answer: the client's
// connection is closed.
func Drop(_ http.ResponseWriter, r *http.Request, next http.Handler) {
	next.ServeHTTP(newRecorder(), r)
	panic(http.ErrAbortHandler)
}

// Hang keeps the request from the cluster and never answers. It returns when
// the client gives up or the Server closes.
func Hang(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
	<-r.Context().Done()
	panic(http.ErrAbortHandler)
}

// Respond answers with an HTTP status and a text body.
func Respond(status int, body string) Action {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { writeText(w, status, body) }
}

// Denied answers 403 with "Permission denied", as Consul does if the token
// lacks a permission.
func Denied(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
	writeText(w, http.StatusForbidden, "Permission denied")
}

// FilteredByACLs answers a list request with an empty list, as Consul does if
// the token can read no item. The header X-Consul-Results-Filtered-By-ACLs is
// true.
func FilteredByACLs(w http.ResponseWriter, r *http.Request, next http.Handler) {
	answer := newRecorder()
	next.ServeHTTP(answer, r)
	for name, values := range answer.header {
		w.Header()[name] = values
	}
	w.Header().Set("X-Consul-Results-Filtered-By-ACLs", "true")
	w.Header().Set("Content-Length", "2")
	w.WriteHeader(answer.status)
	if strings.HasPrefix(answer.body.String(), "{") { // /v1/catalog/services answers with an object
		io.WriteString(w, "{}")
		return
	}
	io.WriteString(w, "[]")
}
