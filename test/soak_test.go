package test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
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

// TestSoak makes one run after the other, with random nodes, faults, deaths and
// cancellations. It compares each result with what the nodes did. If a run
// fails, the test prints its seed for -seed.
func TestSoak(t *testing.T) {
	if *soakSeed != 0 {
		soak(t, *soakSeed)
		return
	}
	runs := 0
	for start := time.Now(); time.Since(start) < *soakTime && !t.Failed(); runs++ {
		soak(t, rand.Uint64())
	}
	t.Logf("%d runs", runs)
}

// soak makes the run with the seed.
func soak(t *testing.T, seed uint64) {
	t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
		s := &soaking{Rand: rand.New(rand.NewPCG(seed, 0)), truth: make(map[string]*truth)}
		nodes := s.nodes()
		runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) { s.run(t, srv) })
		if t.Failed() {
			t.Logf("repeat this run with: go test ./test -run Soak -seed %d", seed)
		}
	})
}

// soaking is one random run.
type soaking struct {
	*rand.Rand
	names   []string
	endless bool        // the command of a node does not end by itself
	deletes atomic.Bool // the troubles delete keys

	mu    sync.Mutex // guards the rest
	truth map[string]*truth
}

// truth is what a node did.
type truth struct {
	output strings.Builder
	code   int
	exited bool
}

// upTo draws a duration below d.
func (s *soaking) upTo(d time.Duration) time.Duration { return time.Duration(s.Int64N(int64(d))) }

// one draws true once in so many times.
func (s *soaking) one(in int) bool { return s.IntN(in) == 0 }

// nodes draws the cluster. The first node holds the session, and stays alive.
func (s *soaking) nodes() []exectest.Option {
	options := []exectest.Option{runtest.Node("first", s.handler("first"))}
	s.names = []string{"first"}
	for i := range s.IntN(6) {
		name := fmt.Sprint("node-", i)
		s.names = append(s.names, name)
		var how []exectest.NodeOption
		switch {
		case s.one(5):
			how = append(how, exectest.AckAfter(s.upTo(8*time.Second)))
		case s.one(10):
			how = append(how, exectest.ExecDisabled())
		case s.one(10):
			how = append(how, exectest.Down())
		}
		options = append(options, runtest.Node(name, s.handler(name), how...))
	}
	return options
}

// handler draws a command: its output, its pauses and its end.
func (s *soaking) handler(name string) exectest.Handler {
	steps, pause := s.IntN(10), s.upTo(5*time.Second)
	size := 1 << s.IntN(14)
	if s.one(5) {
		steps, pause, size = s.IntN(300), s.upTo(200*time.Millisecond), 4096 // so much that the run deletes what it has read
	}
	code := 0
	if s.one(4) {
		code = s.IntN(256)
	}
	givesUp, dies, endless := s.one(10), name != "first" && s.one(10), s.one(20)
	s.endless = s.endless || endless
	return func(ctx context.Context, j *exectest.Job) int {
		for i := range steps {
			out := strings.Repeat(fmt.Sprint(i), size)
			s.mu.Lock()
			if s.truth[name] == nil {
				s.truth[name] = new(truth)
			}
			s.truth[name].output.WriteString(out)
			s.mu.Unlock()
			fmt.Fprint(j.Output, out)
			runtest.Sleeps(pause)(ctx, j)
		}
		switch {
		case givesUp:
			j.Silence()
		case dies:
			j.Die()
		case endless:
			<-ctx.Done()
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.truth[name] == nil {
			s.truth[name] = new(truth)
		}
		s.truth[name].code, s.truth[name].exited = code, true
		return code
	}
}

// options draws the run's settings.
func (s *soaking) options() []consulexec.Option {
	wait := 200*time.Millisecond + s.upTo(3*time.Second)
	options := []consulexec.Option{consulexec.WithCapture(1 << 22), consulexec.WithWait(wait)}
	if s.one(3) {
		options = append(options, consulexec.WithLostTimeout(3*wait+s.upTo(20*time.Second)))
	}
	if s.one(3) {
		options = append(options, consulexec.WithAckTimeout(time.Second+s.upTo(10*time.Second)))
	}
	if s.one(5) {
		options = append(options, consulexec.WithoutDiscovery())
	}
	if s.one(5) {
		options = append(options, consulexec.WithMinNodes(s.IntN(8)))
	}
	if s.one(3) {
		names := append([]string{"nobody"}, s.names...)
		s.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		options = append(options, consulexec.WithNodes(names[:1+s.IntN(len(names))]...))
		if s.one(2) {
			options = append(options, consulexec.WithConcurrency(1+s.IntN(4)))
		}
		if s.one(2) {
			options = append(options, consulexec.WithMaxFailures(1+s.IntN(3)))
		}
	}
	return options
}

// waysToTrouble are the ways in which a request can fail, in a fixed order, so
// that a seed repeats a run.
var waysToTrouble = []exectest.Action{
	exectest.Refuse, exectest.Drop, exectest.Hang, doThenFail,
	exectest.Respond(500, "No cluster leader"), exectest.Respond(500, "rpc error making call: EOF"), exectest.Respond(429, "slow down"),
}

// troubles draws what goes wrong in the first half minute. End stops it.
func (s *soaking) troubles(srv *exectest.Server) (end func()) {
	var ends []func()
	for range s.IntN(5) {
		way, share := waysToTrouble[s.IntN(len(waysToTrouble))], s.Float64()
		begins := time.Now().Add(s.upTo(20 * time.Second))
		stops := begins.Add(s.upTo(12 * time.Second))
		dice := rand.New(rand.NewPCG(s.Uint64(), 0))
		ends = append(ends, srv.Fault(exectest.Fault{Do: way, Match: func(*http.Request) bool {
			now := time.Now()
			return now.After(begins) && now.Before(stops) && dice.Float64() < share
		}}))
	}
	victim := s.names[s.IntN(len(s.names))]
	for _, trouble := range []struct {
		in int
		do func()
	}{
		{5, func() {
			if victim != "first" {
				srv.Kill(victim)
			}
		}},
		{20, func() {
			for _, id := range srv.Sessions() {
				srv.DestroySession(id)
			}
		}},
		{10, srv.RewindIndex},
		{20, func() {
			s.deletes.Store(true)
			for _, key := range srv.Keys("_rexec/") {
				srv.Delete(key)
			}
		}},
		{5, func() {
			for _, id := range srv.Sessions() {
				for _, key := range []string{"stranger/ack", "stranger/exit", "first/out/fffff", "first/out/x", "job/job", "x"} {
					srv.Put("_rexec/"+id+"/"+key, []byte("0"))
				}
			}
		}},
	} {
		if s.one(trouble.in) {
			timer := time.AfterFunc(s.upTo(20*time.Second), trouble.do)
			ends = append(ends, func() { timer.Stop() })
		}
	}
	return func() {
		for _, end := range ends {
			end()
		}
	}
}

// run makes the run and checks it.
func (s *soaking) run(t *testing.T, srv *exectest.Server) {
	ctx, patience := t.Context(), 10*time.Minute
	if s.endless || s.one(4) {
		patience = s.upTo(40 * time.Second)
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	end := s.troubles(srv)
	rec := runtest.NewRecorder(t, srv.Client())
	if s.one(2) {
		rec.Reach = consulexec.WithConfig(srv.Config())
	}
	e := rec.New("x", s.options()...)
	start := time.Now()
	result, err := e.Run(ctx)
	took := time.Since(start)
	end()
	rec.CheckCalls(err)
	s.check(t, srv, result, err)
	if took > patience+6*time.Second {
		t.Errorf("took %v, want at most %v", took, patience+6*time.Second)
	}
	// If Consul could not be reached at the end, it removes the rest after twice
	// the TTL, which is a minute for fences.
	time.Sleep(125 * time.Second)
	if left := srv.Sessions(); len(left) > 0 {
		t.Errorf("sessions %v are left", left)
	}
	for _, key := range srv.Keys("") {
		if strings.HasSuffix(key, "/job") && !strings.HasSuffix(key, "/job/job") {
			t.Errorf("key %s is left", key)
		}
	}
}

// check compares the result with the truth.
func (s *soaking) check(t *testing.T, srv *exectest.Server, result *consulexec.Result, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range result.Nodes {
		if n.Node == "stranger" {
			t.Error("stranger is among the nodes")
			continue
		}
		if n.Node == "nobody" {
			// It is lost if the catalog can't be read and the run ends early.
			unfenced := n.State == consulexec.StateLost && n.Acked.IsZero() && err != nil
			if n.State != consulexec.StateNoResponse && n.State != consulexec.StateSkipped && !unfenced {
				t.Errorf("nobody is %v", n.State)
			}
			continue
		}
		executions := srv.Executions(n.Node)
		truth := s.truth[n.Node]
		switch {
		case executions > 1:
			t.Errorf("%s ran the command %d times", n.Node, executions)
		case n.State != consulexec.StateExited:
			if n.Err == nil || result.Err() == nil {
				t.Errorf("%s is %v, without an error", n.Node, n.State)
			}
		case n.ExitCode == 255 && (truth == nil || !truth.exited || truth.code != 255):
			// Its agent gave up.
		case truth == nil || !truth.exited || truth.code != n.ExitCode:
			t.Errorf("%s exited with %d, but it did %+v", n.Node, n.ExitCode, truth)
		case truth.output.String() != string(n.Output) && !s.deletes.Load():
			t.Errorf("%s: output of %d bytes, not the %d bytes that it printed", n.Node, len(n.Output), truth.output.Len())
		}
		if n.State == consulexec.StateSkipped && executions > 0 {
			t.Errorf("%s is skipped, but ran", n.Node)
		}
		if n.State == consulexec.StateNoResponse && executions > 0 && !s.deletes.Load() {
			t.Errorf("%s is not responding, but ran", n.Node)
		}
		if !n.Acked.IsZero() && executions == 0 {
			t.Errorf("%s is %v, but did not run", n.Node, n.State)
		}
	}
	if err == nil && len(result.Nodes) == 0 {
		t.Error("done without any node")
	}
}
