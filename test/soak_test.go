package test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
	"github.com/consulexec/consulexec/internal/runtest"
)

var (
	soakTime = flag.Duration("soak", 2*time.Second, "how long TestSoak runs")
	soakSeed = flag.Uint64("seed", 0, "repeat only the run with this seed")
)

// TestSoak makes one run after the other, with random options, nodes, accidents
// and cancellations. It compares each result with what the nodes did. If a run
// fails, the test prints its seed for -seed.
func TestSoak(t *testing.T) {
	if *soakSeed != 0 {
		soak(t, *soakSeed)
		return
	}
	runs, recovering := 0, 0
	for start := time.Now(); time.Since(start) < *soakTime && !t.Failed(); runs++ {
		if soak(t, rand.Uint64()).recovery > 0 {
			recovering++
		}
	}
	t.Logf("%d runs, %d of them with recovery", runs, recovering)
}

// soak makes the run with the seed.
func soak(t *testing.T, seed uint64) *soaking {
	s := newSoaking(seed)
	t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
		var nodes []exectest.Option
		for _, name := range s.names {
			nodes = append(nodes, runtest.Node(name, s.handler(name), s.nodes[name].options...))
		}
		runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) { s.run(t, srv) })
		if t.Failed() {
			t.Logf("repeat this run with: go test ./test -run Soak -seed %d", seed)
		}
	})
	return s
}

// soaking is one random run.
type soaking struct {
	drawn

	mu    sync.Mutex // guards the rest
	truth map[string]*truth
	most  int // how many commands ran at once
}

// truth is what the command of a node did.
type truth struct {
	runs   int
	output strings.Builder
	exited time.Time // zero while it runs
	ended  bool      // its context ended before it did
}

func newSoaking(seed uint64) *soaking {
	s := &soaking{drawn: draw(seed), truth: make(map[string]*truth)}
	for _, name := range s.names {
		s.truth[name] = new(truth)
	}
	return s
}

// handler returns the command of a node.
func (s *soaking) handler(name string) exectest.Handler {
	node, truth := s.nodes[name], s.truth[name]
	return func(ctx context.Context, j *exectest.Job) int {
		s.begin(truth)
		for i := 0; i < node.steps && ctx.Err() == nil; i++ {
			if i == node.silentAt {
				j.Silence()
			}
			out := strings.Repeat(fmt.Sprint(i), node.size)
			s.mu.Lock()
			truth.output.WriteString(out)
			s.mu.Unlock()
			fmt.Fprint(j.Output, out)
			runtest.Sleeps(node.pause)(ctx, j)
		}
		if node.silentAt == node.steps {
			j.Silence()
		}
		if node.dies {
			j.Die()
		}
		if node.endless {
			<-ctx.Done()
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		truth.exited, truth.ended = time.Now(), ctx.Err() != nil
		return node.code
	}
}

// begin records that a command begins.
func (s *soaking) begin(of *truth) {
	s.mu.Lock()
	defer s.mu.Unlock()
	of.runs++
	running := 0
	for _, truth := range s.truth {
		if truth.runs > 0 && truth.exited.IsZero() {
			running++
		}
	}
	s.most = max(s.most, running)
}

// run makes the run and checks it.
func (s *soaking) run(t *testing.T, srv *exectest.Server) {
	ctx := t.Context()
	if s.patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.patience)
		defer cancel()
	}
	end := s.haveAccidents(srv)
	rec := runtest.NewRecorder(t, srv.Client())
	if s.withConfig {
		rec.Reach = consulexec.WithConfig(srv.Config())
	}
	e := rec.New("x", s.options...)
	start := time.Now()
	var submitted time.Time
	rec.Hook = func(call string) {
		if call == "submit" {
			submitted = time.Now()
		}
	}
	result, err := e.Run(ctx)
	took := time.Since(start)
	end()
	rec.CheckCalls(err)
	c := &soakCheck{soaking: s, srv: srv, result: result, err: err, took: took, failedAfter: time.Since(submitted)}
	c.check(t)
	c.checkNothingLeft(t, e.ID())
}
