package main

import (
	"cmp"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
)

// These limits bound the memory. Each of maxRunning+maxEnded runs holds up to
// maxOutput bytes of output and some 700 bytes for each node. Each of
// maxStreams readers holds one batch.
const (
	maxBody    = 64 << 10         // bytes of a request
	bodyTime   = 10 * time.Second // for reading a request
	maxRunning = 16               // runs at once
	maxEnded   = 32               // ended runs that can still be read
	keepEnded  = 10 * time.Minute // for how long they can be read
	maxStreams = 100              // readers of events at once

	// heartbeat is how long a reader of events waits for a sign of life. Many
	// proxies cut a connection that is silent for 30 or 60 seconds.
	heartbeat = 15 * time.Second

	// writeTimeout is how long a reader may take to read a batch. A reader that
	// was cut off reconnects with Last-Event-ID.
	writeTimeout = 30 * time.Second
)

// policy lets the page load its own script and style sheet and talk to this
// server, and nothing else. It keeps scripts from turning text into HTML.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"

//go:embed page
var page embed.FS

// A server holds the runs. Its methods are safe for concurrent use.
type server struct {
	client  *api.Client
	ctx     context.Context // ends all runs
	cancel  context.CancelFunc
	running sync.WaitGroup
	streams chan struct{} // holds an element for each reader

	mu     sync.Mutex // guards the fields below
	runs   map[string]*run
	closed bool
}

func newServer(client *api.Client) *server {
	s := &server{client: client, streams: make(chan struct{}, maxStreams), runs: map[string]*run{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// close ends all runs and waits until they have cleaned up. No run can start
// after it.
func (s *server) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.running.Wait()
}

func (s *server) handler() http.Handler {
	files, err := fs.Sub(page, "page")
	if err != nil {
		panic(err) // the folder is embedded in this program
	}
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(files))
	mux.HandleFunc("POST /runs", s.start)
	mux.HandleFunc("GET /runs/{id}/events", s.events)
	mux.HandleFunc("DELETE /runs/{id}", s.stop)
	return guard(mux)
}

// guard refuses requests that a foreign web page makes a browser send: a POST
// or DELETE from another origin, and any request for a host that is not
// loopback. With DNS rebinding, a foreign page reaches this service under its
// own host name, so that its requests count as same-origin.
func guard(next http.Handler) http.Handler {
	sameOrigin := http.NewCrossOriginProtection()
	sameOrigin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		writeError(w, http.StatusForbidden, errors.New("cross-site requests are refused"))
	}))
	next = sameOrigin.Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", policy)
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Cross-Origin-Resource-Policy", "same-origin")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cache-Control", "no-store")
		if !loopback(r.Host) {
			writeError(w, http.StatusForbidden, fmt.Errorf("host %q is not this machine's loopback", r.Host))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// loopback reports whether the host of a request is a loopback address or
// localhost.
func loopback(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = strings.Trim(host, "[]") // without a port
	}
	address, err := netip.ParseAddr(name)
	return name == "localhost" || err == nil && address.IsLoopback()
}

// An order says what to run, and on which nodes.
type order struct {
	Command string   `json:"command"`
	Node    string   `json:"node"`  // a regular expression for names; empty matches all
	Nodes   []string `json:"nodes"` // names; empty for all nodes
}

// start starts a run.
func (s *server) start(w http.ResponseWriter, req *http.Request) {
	if kind, _, err := mime.ParseMediaType(req.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		writeError(w, http.StatusUnsupportedMediaType, errors.New("the Content-Type must be application/json"))
		return
	}
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime))
	var o order
	decoder := json.NewDecoder(http.MaxBytesReader(w, req.Body, maxBody))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&o)
	if err == nil && decoder.Decode(new(any)) != io.EOF {
		err = errors.New("the request has more than one JSON value")
	}
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		writeError(w, http.StatusRequestEntityTooLarge, err)
		return
	} else if err != nil {
		writeError(w, http.StatusBadRequest, fmt.Errorf("read the request: %w", err))
		return
	}
	options := []consulexec.Option{consulexec.WithClient(s.client), consulexec.WithKillOnCancel()}
	if o.Node != "" {
		options = append(options, consulexec.WithNode(o.Node))
	}
	if len(o.Nodes) > 0 {
		options = append(options, consulexec.WithNodes(o.Nodes...))
	}
	e, err := consulexec.New(o.Command, options...)
	if err != nil {
		writeError(w, http.StatusBadRequest, err)
		return
	}
	if err := checkConsul(req.Context(), s.client); err != nil {
		w.Header().Set("Retry-After", "10")
		writeError(w, http.StatusServiceUnavailable, fmt.Errorf("no usable Consul agent: %w", err))
		return
	}
	r, err := s.add(e, o)
	if err != nil {
		w.Header().Set("Retry-After", "10")
		writeError(w, http.StatusServiceUnavailable, err)
		return
	}
	w.Header().Set("Location", "/runs/"+r.id)
	writeJSON(w, http.StatusCreated, map[string]string{"id": r.id, "events": "/runs/" + r.id + "/events"})
}

// add starts a run, unless there are too many.
func (s *server) add(e *consulexec.Exec, o order) (*run, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	running := 0
	for _, r := range s.runs {
		if !r.over() {
			running++
		}
	}
	switch {
	case s.closed:
		return nil, errors.New("the service is shutting down")
	case running >= maxRunning:
		return nil, fmt.Errorf("too many runs: %d are under way", running)
	}
	r := newRun(e)
	s.runs[r.id] = r
	ctx, cancel := context.WithCancel(s.ctx)
	r.cancel = cancel
	s.running.Go(func() {
		defer cancel()
		r.follow(ctx, o)
		s.retire(r)
	})
	return r, nil
}

// retire removes an ended run after keepEnded, and the oldest ended runs at
// once if there are more than maxEnded.
func (s *server) retire(r *run) {
	time.AfterFunc(keepEnded, func() { s.remove(r) })
	s.mu.Lock()
	defer s.mu.Unlock()
	var ended []*run
	for _, r := range s.runs {
		if r.over() {
			ended = append(ended, r)
		}
	}
	slices.SortFunc(ended, func(a, b *run) int { return b.ended.Compare(a.ended) })
	for _, r := range ended[min(maxEnded, len(ended)):] {
		delete(s.runs, r.id)
	}
}

func (s *server) remove(r *run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.runs, r.id)
}

// find returns the run that the path names. If there is none, it answers the
// request and returns nil.
func (s *server) find(w http.ResponseWriter, req *http.Request) *run {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.runs[req.PathValue("id")]
	if r == nil {
		writeError(w, http.StatusNotFound, errors.New("there is no such run, or it ended too long ago"))
	}
	return r
}

// stop ends a run. It answers when the session, keys and commands are gone.
func (s *server) stop(w http.ResponseWriter, req *http.Request) {
	r := s.find(w, req)
	if r == nil {
		return
	}
	r.cancel()
	select {
	case <-r.done:
	case <-req.Context().Done():
		return
	}
	if left := (*consulexec.NodeError)(nil); errors.As(r.err, &left) {
		writeError(w, http.StatusInternalServerError, r.err) // the command may still run on that node
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// events sends the events of a run until its end. It begins after the event
// that the reader has seen last, or at the start.
func (s *server) events(w http.ResponseWriter, req *http.Request) {
	r := s.find(w, req)
	if r == nil {
		return
	}
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		writeError(w, http.StatusServiceUnavailable, fmt.Errorf("too many readers: %d are connected", maxStreams))
		return
	}
	seen, _ := strconv.Atoi(cmp.Or(req.Header.Get("Last-Event-ID"), "0")) // an ID that is no number counts as 0
	if r.seenAll(seen) {
		w.WriteHeader(http.StatusNoContent) // makes an EventSource stop reconnecting
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	control := http.NewResponseController(w)
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		batch, more := r.after(seen)
		if len(batch) > 0 {
			control.SetWriteDeadline(time.Now().Add(writeTimeout))
			for _, m := range batch {
				if seen = max(seen, m.id); m.id > 0 {
					fmt.Fprintf(w, "id: %d\n", m.id)
				}
				fmt.Fprintf(w, "data: %s\n\n", m.data)
			}
			if control.Flush() != nil || r.seenAll(seen) {
				return
			}
			continue
		}
		select {
		case <-more:
		case <-beat.C:
			control.SetWriteDeadline(time.Now().Add(writeTimeout))
			io.WriteString(w, ": the run goes on\n\n")
			if control.Flush() != nil {
				return
			}
		case <-req.Context().Done():
			return
		}
	}
}

// writeJSON answers with a value as JSON.
func writeJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(value)
}

func writeError(w http.ResponseWriter, status int, err error) {
	writeJSON(w, status, map[string]string{"error": err.Error()})
}
