package main

import (
	"context"
	"embed"
	"io/fs"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

// These limits and that of runs at once bound the memory. Each run holds up to
// maxOutput bytes of output, and some 700 bytes for each node.
const (
	maxEnded  = 32               // ended runs that can still be read
	keepEnded = 10 * time.Minute // for how long they can be read
)

//go:embed page
var page embed.FS

// settings are how the service is set up.
type settings struct {
	maxRuns int           // runs at once
	auth    authenticator // nil lets everybody in who reaches the service
	hosts   []string      // names of this service beside those of loopback
}

// A server holds the runs. Its methods are safe for concurrent use.
type server struct {
	settings
	client  *api.Client
	ctx     context.Context // ends all runs
	cancel  context.CancelFunc
	metrics *metrics
	streams chan struct{}  // holds an element for each reader
	running sync.WaitGroup // the goroutines of the runs

	mu     sync.Mutex // guards the fields below
	runs   map[string]*run
	keys   keys
	closed bool
}

func newServer(client *api.Client, set settings) *server {
	s := &server{settings: set, client: client, streams: make(chan struct{}, maxStreams), runs: map[string]*run{}, keys: keys{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.metrics = newMetrics(s.countRunning, func() int { return len(s.streams) })
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
	mux.HandleFunc("GET /runs", s.list)
	mux.HandleFunc("GET /runs/{id}/events", s.events)
	mux.HandleFunc("DELETE /runs/{id}", s.stop)
	mux.HandleFunc("POST /targets", s.targets)
	mux.Handle("GET /metrics", s.metrics.handler())
	return s.metrics.counted(guard(s.hosts, authenticated(s.auth, mux)))
}

// add starts a run, unless there are too many, or the key has started one in the
// meantime. It returns the ID.
func (s *server) add(r *run, key string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id, err := s.startedLocked(key, r.order); id != "" || err != nil {
		return id, err
	}
	if s.closed {
		return "", refuse(http.StatusServiceUnavailable, "the service is shutting down")
	}
	if n := s.countRunningLocked(); n >= s.maxRuns {
		return "", refuse(http.StatusTooManyRequests, "too many runs: %d are under way", n)
	}
	if err := s.keys.add(key, r.order, r.id); err != nil {
		return "", err
	}
	s.runs[r.id] = r
	ctx, cancel := context.WithCancel(s.ctx)
	r.cancel = cancel
	s.metrics.started.Inc()
	if r.user != "" {
		slog.Info("run", "user", r.user, "run", r.id, "command", r.order.Command, "node", r.order.Node, "nodes", r.order.Nodes)
	}
	s.running.Go(func() {
		defer cancel()
		r.follow(ctx)
		s.metrics.count(r)
		s.retire(r, key)
	})
	return r.id, nil
}

// startedLocked returns the ID of the run that the key has started, or "" if there
// is none. The caller holds mu. A key lives longer than its run: the command must
// not run again, although nothing is known of it any more.
func (s *server) startedLocked(key string, o order) (string, error) {
	id, err := s.keys.find(key, o)
	if id != "" && s.runs[id] == nil {
		return "", refuse(http.StatusGone, "this Idempotency-Key has started run %s, which ended too long ago", id)
	}
	return id, err
}

// countRunning returns how many runs are under way.
func (s *server) countRunning() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.countRunningLocked()
}

// countRunningLocked is countRunning for a caller who holds mu.
func (s *server) countRunningLocked() (n int) {
	for _, r := range s.runs {
		if !r.over() {
			n++
		}
	}
	return n
}

// retire removes an ended run after keepEnded, and the oldest ended runs at
// once if there are more than maxEnded. It removes the key after keepKeys.
func (s *server) retire(r *run, key string) {
	s.later(keepEnded, func() { delete(s.runs, r.id) })
	s.later(keepKeys, func() { delete(s.keys, key) })
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

// later calls f after a time, with mu held.
func (s *server) later(d time.Duration, f func()) {
	time.AfterFunc(d, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		f()
	})
}
