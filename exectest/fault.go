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

// A Fault is something that goes wrong between a client and the cluster. What nodes write does not pass through it.
type Fault struct {
	// Match chooses the requests. Nil is every request. It is called under a lock: it must not call the Server.
	Match func(*http.Request) bool

	// Times is how many requests it happens to. Zero is all, until the fault is removed.
	Times int

	// Delay is how long the request waits before anything else.
	Delay time.Duration

	// Do is what happens then. Nil answers as if nothing were wrong.
	Do Action
}

// An Action answers a request in the cluster's place, or does not: [Refuse], [Drop], [Hang], [Respond], [Denied],
// [FilteredByACLs], or any other function. What next answers is the cluster's own answer.
type Action func(w http.ResponseWriter, r *http.Request, next http.Handler)

// Fault switches a fault on and returns what switches it off. Where several match a request, the one that was switched on
// first is outermost.
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

// withFaults wraps the handler in the faults that match the request, and counts them. Server.mu is held.
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

// sleep waits, and tells whether it did so to the end.
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

// Path matches the requests of a method, or for "" of any, whose path begins with prefix, such as /v1/kv/.
func Path(method, prefix string) func(*http.Request) bool {
	return func(r *http.Request) bool {
		return (method == "" || r.Method == method) && strings.HasPrefix(r.URL.Path, prefix)
	}
}

var errRefused = errors.New("exectest: connection refused")

// Refuse keeps the request from reaching the cluster: the client's connection is refused. Over a socket, where it is too
// late for that, it is closed without an answer.
func Refuse(http.ResponseWriter, *http.Request, http.Handler) { panic(errRefused) }

// Drop lets the cluster do what the request asks and loses the answer: the client's connection is closed.
func Drop(_ http.ResponseWriter, r *http.Request, next http.Handler) {
	next.ServeHTTP(newRecorder(), r)
	panic(http.ErrAbortHandler)
}

// Hang keeps the request from reaching the cluster and never answers: it lasts until the client gives up.
func Hang(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
	<-r.Context().Done()
	panic(http.ErrAbortHandler)
}

// Respond answers with a status and a text.
func Respond(status int, body string) Action {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { writeText(w, status, body) }
}

// Denied answers that the token does not suffice.
func Denied(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
	writeText(w, http.StatusForbidden, "Permission denied")
}

// FilteredByACLs answers a list that comes back empty, since the token may read nothing in it.
func FilteredByACLs(w http.ResponseWriter, r *http.Request, next http.Handler) {
	answer := newRecorder()
	next.ServeHTTP(answer, r)
	for name, values := range answer.header {
		w.Header()[name] = values
	}
	w.Header().Set("X-Consul-Results-Filtered-By-ACLs", "true")
	w.Header().Set("Content-Length", "2")
	w.WriteHeader(answer.status)
	if strings.HasPrefix(answer.body.String(), "{") { // the services' names are an object
		io.WriteString(w, "{}")
		return
	}
	io.WriteString(w, "[]")
}
