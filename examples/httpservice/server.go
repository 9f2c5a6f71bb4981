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

// What the service holds in memory at most: for each of maxRunning+maxEnded runs,
// maxOutput of output and some 700 bytes for each node; and for each of maxStreams
// readers, one batch of what it is being sent.
const (
	maxBody    = 64 << 10         // of a request,
	bodyTime   = 10 * time.Second // and how long it may take
	maxRunning = 16               // runs at once
	maxEnded   = 32               // runs that have ended and can still be looked at,
	keepEnded  = 10 * time.Minute // for this long
	maxStreams = 100              // readers of events at once

	// heartbeat is how often a reader of events hears something. A proxy cuts a
	// silent connection after a minute, or half.
	heartbeat = 15 * time.Second

	// writeTimeout is how long a reader may take to read a batch. One that is cut off
	// comes back with Last-Event-ID.
	writeTimeout = 30 * time.Second
)

// policy lets the page load its own script and style sheet, talk to this server,
// and nothing else; and no script turn text into HTML.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"

//go:embed page
var page embed.FS

// A server has the runs. Its methods may be called by several goroutines.
type server struct {
	client  *api.Client
	ctx     context.Context // ends all runs
	cancel  context.CancelFunc
	running sync.WaitGroup
	streams chan struct{} // has an element for each reader

	mu     sync.Mutex // guards what follows
	runs   map[string]*run
	closed bool
}

func newServer(client *api.Client) *server {
	s := &server{client: client, streams: make(chan struct{}, maxStreams), runs: map[string]*run{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// close ends all runs, waits until they have left nothing behind, and lets no other
// begin.
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
		panic(err) // it is in this program
	}
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(files))
	mux.HandleFunc("POST /runs", s.start)
	mux.HandleFunc("GET /runs/{id}/events", s.events)
	mux.HandleFunc("DELETE /runs/{id}", s.stop)
	return guard(mux)
}

// guard refuses what the web page of somebody else has a browser send: a POST or
// DELETE from another origin; and anything at all under another name than this
// machine's, which is how such a page passes for ours (DNS rebinding).
func guard(next http.Handler) http.Handler {
	sameOrigin := http.NewCrossOriginProtection()
	sameOrigin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fail(w, http.StatusForbidden, errors.New("cross-site requests are refused"))
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
			fail(w, http.StatusForbidden, fmt.Errorf("host %q is not this machine's loopback", r.Host))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// loopback tells whether the host of a request is a loopback address or localhost.
func loopback(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = strings.Trim(host, "[]") // the port is HTTP's own
	}
	address, err := netip.ParseAddr(name)
	return name == "localhost" || err == nil && address.IsLoopback()
}

// An order is what a run is to do.
type order struct {
	Command string   `json:"command"`
	Node    string   `json:"node"`  // a regular expression, or empty
	Nodes   []string `json:"nodes"` // or none
}

// start begins a run.
func (s *server) start(w http.ResponseWriter, req *http.Request) {
	if kind, _, err := mime.ParseMediaType(req.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		fail(w, http.StatusUnsupportedMediaType, errors.New("the Content-Type has to be application/json"))
		return
	}
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime))
	var o order
	decoder := json.NewDecoder(http.MaxBytesReader(w, req.Body, maxBody))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&o)
	if err == nil && decoder.Decode(new(any)) != io.EOF {
		err = errors.New("there is more than one JSON value")
	}
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		fail(w, http.StatusRequestEntityTooLarge, err)
		return
	} else if err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("read the request: %w", err))
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
		fail(w, http.StatusBadRequest, err)
		return
	}
	if err := checkConsul(req.Context(), s.client); err != nil {
		w.Header().Set("Retry-After", "10")
		fail(w, http.StatusServiceUnavailable, fmt.Errorf("no usable Consul agent: %w", err))
		return
	}
	r, err := s.add(e, o)
	if err != nil {
		w.Header().Set("Retry-After", "10")
		fail(w, http.StatusServiceUnavailable, err)
		return
	}
	w.Header().Set("Location", "/runs/"+r.id)
	answer(w, http.StatusCreated, map[string]string{"id": r.id, "events": "/runs/" + r.id + "/events"})
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
		return nil, fmt.Errorf("%d runs are under way already", running)
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

// retire sees to it that runs that have ended are forgotten, by and by.
func (s *server) retire(r *run) {
	time.AfterFunc(keepEnded, func() { s.forget(r) })
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

func (s *server) forget(r *run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.runs, r.id)
}

// find returns the run that a request is about, or answers that there is none.
func (s *server) find(w http.ResponseWriter, req *http.Request) *run {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.runs[req.PathValue("id")]
	if r == nil {
		fail(w, http.StatusNotFound, errors.New("there is no such run, or not any more"))
	}
	return r
}

// stop ends a run. It answers when session, keys and commands are gone.
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
		fail(w, http.StatusInternalServerError, r.err) // it may still run there
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// events sends what happens in a run, from its start or from what the reader has
// seen already, until its end.
func (s *server) events(w http.ResponseWriter, req *http.Request) {
	r := s.find(w, req)
	if r == nil {
		return
	}
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		fail(w, http.StatusServiceUnavailable, fmt.Errorf("%d readers are connected already", maxStreams))
		return
	}
	seen, _ := strconv.Atoi(cmp.Or(req.Header.Get("Last-Event-ID"), "0")) // one that is not ours counts as none
	if r.seenAll(seen) {
		w.WriteHeader(http.StatusNoContent) // tells an EventSource not to come back
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

// answer sends a value as JSON.
func answer(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(value)
}

func fail(w http.ResponseWriter, status int, err error) {
	answer(w, status, map[string]string{"error": err.Error()})
}
