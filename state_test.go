package consulexec

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/consulexec/consulexec/internal/reader"
	"github.com/consulexec/consulexec/internal/runner"
)

// TestStateDone plays sequences of records and checks when the run is done.
func TestStateDone(t *testing.T) {
	// One word for each thing that happens to a node, at a second; a listing at
	// that second follows.
	type step struct {
		second int
		what   string // "ack", "out", "exit", "lose", or "" for nothing
		node   string
		done   bool // after the listing
	}
	known := []string{"a", "b"}
	tests := []struct {
		name     string
		expected []string // nil: not known
		minNodes int
		steps    []step
	}{
		{"all expected exit", known, 0, []step{
			{0, "", "", false}, {1, "ack", "a", false}, {2, "exit", "a", false}, {3, "ack", "b", false}, {9, "exit", "b", true},
		}},
		{"the first exits before the second acks", known, 0, []step{
			{1, "ack", "a", false}, {1, "exit", "a", false}, {4, "", "", false}, {4, "ack", "b", false}, {4, "exit", "b", true},
		}},
		{"one never acks", known, 0, []step{
			{1, "ack", "a", false}, {1, "exit", "a", false}, {4, "", "", false}, {5, "", "", true},
		}},
		{"nobody acks", known, 0, []step{{4, "", "", false}, {5, "", "", true}}},
		{"one is lost", known, 0, []step{
			{1, "ack", "a", false}, {1, "ack", "b", false}, {2, "exit", "b", false}, {3, "lose", "a", true},
		}},
		{"others run on after no response", known, 0, []step{
			{1, "ack", "a", false}, {6, "out", "a", false}, {8, "exit", "a", true},
		}},
		{"a stranger that acks is waited for", known, 0, []step{
			{1, "ack", "a", false}, {1, "ack", "b", false}, {1, "ack", "c", false}, {1, "exit", "a", false}, {1, "exit", "b", false}, {2, "exit", "c", true},
		}},
		{"more than the expected are asked for", known, 3, []step{
			{1, "ack", "a", false}, {1, "ack", "b", false}, {1, "exit", "a", false}, {2, "exit", "b", false},
			{3, "ack", "c", false}, {4, "exit", "c", true},
		}},
		{"and do not come", known, 3, []step{
			{1, "ack", "a", false}, {1, "exit", "a", false}, {1, "ack", "b", false}, {8, "exit", "b", false}, {12, "", "", false}, {13, "", "", true},
		}},
		{"silence ends it", nil, 0, []step{
			{1, "", "", false}, {1, "ack", "a", false}, {8, "out", "a", false}, {9, "exit", "a", false}, {10, "", "", false}, {11, "", "", true},
		}},
		{"silence from the start", nil, 0, []step{{1, "", "", false}, {2, "", "", true}}},
		{"the least number, without knowing", nil, 1, []step{
			{3, "", "", false}, {4, "ack", "a", false}, {5, "exit", "a", true},
		}},
		{"the least number and one still running", nil, 1, []step{
			{1, "ack", "a", false}, {1, "ack", "b", false}, {2, "exit", "a", false}, {9, "", "", false}, {10, "exit", "b", true},
		}},
		{"the least number does not come", nil, 2, []step{
			{1, "ack", "a", false}, {2, "exit", "a", false}, {6, "", "", false}, {7, "", "", true},
		}},
	}
	start := time.Now()
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := testConfig(t, WithMinNodes(test.minNodes)) // wait 2 s, ack timeout 5 s
			s := newState(c)
			if test.expected != nil {
				s.expect(test.expected)
			}
			dispatchTo(s, s.next(), start, nil)
			for i, step := range test.steps {
				now := start.Add(time.Duration(step.second) * time.Second)
				counts := true
				switch step.what {
				case "ack":
					counts = s.ack(step.node, "", now)
				case "out":
					_, _, counts = s.output(step.node, "", []byte("x"), now)
				case "exit":
					counts = s.exit(step.node, 0, "", now)
				case "lose":
					counts = s.lose(step.node, errors.New("gone"), now) != nil
				}
				if !counts {
					t.Fatalf("step %d: %s of %s does not count", i, step.what, step.node)
				}
				giveUp(s, now)
				if got := s.done(now); got != step.done {
					t.Fatalf("step %d, second %d: done = %v", i, step.second, got)
				}
				if due := s.deadline(); !step.done && !due.After(now) {
					t.Fatalf("step %d, second %d: not done, but nothing is due after %v", i, step.second, due.Sub(start))
				}
			}
		})
	}
}

func TestStateOverdue(t *testing.T) {
	c := testConfig(t, WithWait(time.Second), WithLostTimeout(10*time.Second))
	s := newState(c)
	start := time.Now()
	at := func(second int) time.Time { return start.Add(time.Duration(second) * time.Second) }
	s.expect([]string{"a", "b", "c", "d"})
	dispatchTo(s, s.next(), start, nil)
	s.ack("a", "", at(1))
	s.ack("b", "", at(1))
	s.output("b", "", nil, at(3)) // a heartbeat is a sign of life
	for _, step := range []struct {
		second     int
		noResponse []string
		silent     []string
		next       int // deadline
	}{
		{4, nil, nil, 5},
		{5, []string{"c", "d"}, nil, 11},
		{6, nil, nil, 11},
		{10, nil, nil, 11},
		{11, nil, []string{"a"}, 13},
		{12, nil, nil, 13},
		{13, nil, []string{"b"}, 0},
	} {
		noResponse, silent := giveUp(s, at(step.second))
		var names []string
		for _, n := range silent {
			names = append(names, n.Node)
			s.lose(n.Node, errors.New("silent"), at(step.second))
		}
		if !slices.Equal(noResponse, step.noResponse) || !slices.Equal(names, step.silent) {
			t.Errorf("second %d: no response %v, silent %v", step.second, noResponse, names)
		}
		if step.next > 0 && !s.deadline().Equal(at(step.next)) {
			t.Errorf("second %d: deadline after %v, want %d s", step.second, s.deadline().Sub(start), step.next)
		}
	}
	if !s.done(at(13)) {
		t.Error("not done when nobody is left")
	}
}

// TestStatePause checks that nobody ages in an outage.
func TestStatePause(t *testing.T) {
	c := testConfig(t, WithWait(time.Second), WithLostTimeout(10*time.Second))
	s := newState(c)
	start := time.Now()
	at := func(second int) time.Time { return start.Add(time.Duration(second) * time.Second) }
	s.expect([]string{"a", "b"})
	dispatchTo(s, s.next(), start, nil)
	s.ack("a", "", at(1))
	s.pause(20*time.Second, at(22))
	if noResponse, silent := giveUp(s, at(24)); noResponse != nil || silent != nil {
		t.Errorf("no response %v, silent %v", noResponse, silent)
	}
	if noResponse, _ := giveUp(s, at(25)); !slices.Equal(noResponse, []string{"b"}) {
		t.Errorf("no response %v", noResponse)
	}
	if _, silent := giveUp(s, at(31)); len(silent) != 1 {
		t.Errorf("silent %v", silent)
	}
	s.output("a", "", nil, at(31))
	s.expect([]string{"queued", "waits"})
	dispatchTo(s, []string{"queued"}, at(40), nil) // gossip carries it later
	s.pause(time.Hour, at(31))
	if got := s.nodes["queued"].dispatchedAt; !got.Equal(at(40)) {
		t.Errorf("queued was dispatched to after %v", got.Sub(start))
	}
	if got := s.nodes["waits"].dispatchedAt; !got.IsZero() {
		t.Errorf("waits was dispatched to at %v", got)
	}
	if seen := s.nodes["a"].seen; seen.After(at(31)) {
		t.Errorf("seen %v in the future", seen.Sub(at(31)))
	}
}

// TestStateWindow checks which nodes get the job at which time.
func TestStateWindow(t *testing.T) {
	type step struct {
		what string // "ack", "exit", "fail", "lose" or "silent"; the nodes that may get the job next are dispatched to
		node string
		next []string
	}
	tests := []struct {
		name    string
		options []Option
		absent  string
		steps   []step
		skipped int
	}{
		{"no limit", nil, "", []step{{"", "", []string{"c", "a", "d", "b"}}, {"exit", "a", nil}}, 0},
		{"one at a time", []Option{WithConcurrency(1)}, "", []step{
			{"", "", []string{"c"}}, {"ack", "c", nil}, {"exit", "c", []string{"a"}}, {"exit", "a", []string{"d"}}, {"exit", "d", []string{"b"}}, {"exit", "b", nil},
		}, 0},
		{"two at a time, one slow", []Option{WithConcurrency(2)}, "", []step{
			{"", "", []string{"c", "a"}}, {"exit", "a", []string{"d"}}, {"exit", "d", []string{"b"}}, {"exit", "b", nil}, {"exit", "c", nil},
		}, 0},
		{"any end makes room", []Option{WithConcurrency(1)}, "", []step{
			{"", "", []string{"c"}}, {"lose", "c", []string{"a"}}, {"silent", "a", []string{"d"}}, {"fail", "d", []string{"b"}},
		}, 0},
		{"half of them", []Option{WithConcurrencyPercent(50)}, "", []step{{"", "", []string{"c", "a"}}, {"exit", "c", []string{"d"}}}, 0},
		{"at least one of them", []Option{WithConcurrencyPercent(1)}, "", []step{{"", "", []string{"c"}}}, 0},
		{"the first failure", []Option{WithConcurrency(1), WithMaxFailures(1)}, "", []step{
			{"", "", []string{"c"}}, {"exit", "c", []string{"a"}}, {"fail", "a", nil},
		}, 2},
		{"each kind of failure", []Option{WithConcurrency(1), WithMaxFailures(3)}, "", []step{
			{"", "", []string{"c"}}, {"lose", "c", []string{"a"}}, {"silent", "a", []string{"d"}}, {"fail", "d", nil},
		}, 1},
		{"a timeout is one, too", []Option{WithConcurrency(1), WithMaxFailures(1)}, "", []step{
			{"", "", []string{"c"}}, {"time out", "c", nil},
		}, 3},
		{"no response is final", []Option{WithConcurrency(1), WithMaxFailures(2)}, "", []step{
			{"", "", []string{"c"}}, {"silent", "c", []string{"a"}}, {"ack", "c", nil}, {"exit", "c", nil}, {"fail", "a", nil},
		}, 2},
		{"an absent node is one", []Option{WithConcurrency(1), WithMaxFailures(2)}, "z", []step{
			{"", "", []string{"c"}}, {"fail", "c", nil},
		}, 3},
		{"a limit", []Option{WithLimit(2)}, "", []step{
			{"", "", []string{"c", "a"}}, {"ack", "a", nil}, {"ack", "c", nil}, {"exit", "a", nil}, {"exit", "c", nil},
		}, 0},
		{"a limit passes silent nodes over", []Option{WithLimit(2), WithMaxFailures(1)}, "z", []step{
			{"", "", []string{"c", "a"}}, {"ack", "a", nil}, {"silent", "c", []string{"d"}}, {"silent", "d", []string{"b"}}, {"ack", "b", nil}, {"exit", "b", nil},
		}, 0},
		{"a limit counts nodes that fail", []Option{WithLimit(2), WithConcurrency(1)}, "", []step{
			{"", "", []string{"c"}}, {"fail", "c", []string{"a"}}, {"lose", "a", nil},
		}, 0},
		{"and may be enough", []Option{WithMaxFailures(1)}, "z", []step{{"", "", nil}}, 4},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := testConfig(t, test.options...)
			s := newState(c)
			now := time.Now()
			if test.absent != "" {
				s.addAbsent(test.absent, errors.New("is not alive"))
			}
			s.expect([]string{"c", "a", "d", "b"})
			for i, step := range test.steps {
				switch step.what {
				case "ack", "exit", "fail", "time out", "lose":
					s.ack(step.node, "", now)
				}
				switch step.what {
				case "exit":
					s.exit(step.node, 0, "", now)
				case "fail":
					s.exit(step.node, 1, "", now)
				case "time out":
					s.exit(step.node, 0, runner.NoteTimedOut, now)
				case "lose":
					s.lose(step.node, errors.New("gone"), now)
				case "silent":
					now = now.Add(defaultAckTimeout)
					giveUp(s, now)
				}
				next := s.next()
				if !slices.Equal(next, step.next) {
					t.Fatalf("step %d, %s of %q: dispatched to %q, want %q", i, step.what, step.node, next, step.next)
				}
				dispatchTo(s, next, now, nil)
			}
			if s.skipped != test.skipped {
				t.Errorf("%d skipped, want %d", s.skipped, test.skipped)
			}
			if waits := len(s.waiting) > 0; waits && s.done(now) {
				t.Error("done while some wait")
			}
		})
	}
}

// takesOutput sends a chunk of a node.
func takesOutput(s *state, name string, now time.Time) bool {
	_, _, ok := s.output(name, "", []byte("x"), now)
	return ok
}

// TestStateIgnores checks that nothing counts for a node that is not running.
func TestStateIgnores(t *testing.T) {
	c := testConfig(t)
	now := time.Now()
	s := newState(c)
	dispatchTo(s, s.next(), now, nil)
	if takesOutput(s, "a", now) || s.exit("a", 0, "", now) || s.lose("a", errors.New("gone"), now) != nil {
		t.Error("something counts before the ack")
	}
	s.ack("a", "", now)
	if s.ack("a", "", now) {
		t.Error("a second ack counts")
	}
	s.exit("a", 3, "", now)
	if s.ack("a", "", now) || takesOutput(s, "a", now) || s.exit("a", 0, "", now) || s.lose("a", errors.New("gone"), now) != nil {
		t.Error("something counts after the exit")
	}
	if r := s.results(); len(r) != 1 || r[0].State != StateExited || r[0].ExitCode != 3 || r[0].OutputBytes != 0 {
		t.Errorf("results %+v", r)
	}
}

// TestStateMaxOutput checks which output of a node counts.
func TestStateMaxOutput(t *testing.T) {
	for _, test := range []struct {
		name      string
		options   []Option
		chunks    []string
		want      []string // of each chunk
		captured  string
		truncated bool
	}{
		{"no limit", nil, []string{"abc", "def"}, []string{"abc", "def"}, "abcdef", false},
		{"under it", []Option{WithMaxOutput(7)}, []string{"abc", "def"}, []string{"abc", "def"}, "abcdef", false},
		{"up to it", []Option{WithMaxOutput(6)}, []string{"abc", "def", ""}, []string{"abc", "def", ""}, "abcdef", false},
		{"one more", []Option{WithMaxOutput(5)}, []string{"abc", "def"}, []string{"abc", "de"}, "abcde", true},
		{"a chunk beyond", []Option{WithMaxOutput(3)}, []string{"abc", "d", "", "ef"}, []string{"abc", "", "", ""}, "abc", true},
		{"nothing", []Option{WithMaxOutput(0)}, []string{"", "a", "b"}, []string{"", "", ""}, "", true},
		{"nothing of nothing", []Option{WithMaxOutput(0)}, []string{""}, []string{""}, "", false},
		{"a shorter capture", []Option{WithMaxOutput(5), WithCapture(2)}, []string{"abc", "def"}, []string{"abc", "de"}, "ab", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newState(testConfig(t, append([]Option{WithCapture(100)}, test.options...)...))
			now := time.Now()
			s.ack("a", "", now)
			var bytes int64
			for i, chunk := range test.chunks {
				now = now.Add(time.Second)
				_, part, counts := s.output("a", "", []byte(chunk), now)
				if !counts || string(part) != test.want[i] || !s.nodes["a"].seen.Equal(now) {
					t.Errorf("chunk %d: %q counts %v, want %q, and the node was seen at its time", i, part, counts, test.want[i])
				}
				bytes += int64(len(part))
			}
			if n := s.results()[0]; string(n.Output) != test.captured || n.OutputBytes != bytes || n.Truncated != test.truncated {
				t.Errorf("captured %q of %d bytes, truncated %v; want %q of %d, %v", n.Output, n.OutputBytes, n.Truncated, test.captured, bytes, test.truncated)
			}
		})
	}
}

// TestStateHintOrTwice checks that a command that may have run twice is the more
// important news, whether it comes before the exit or after it.
func TestStateHintOrTwice(t *testing.T) {
	for _, twiceFirst := range []bool{true, false} {
		s := newState(testConfig(t))
		now := time.Now()
		s.ack("a", "", now)
		if twiceFirst {
			s.ranTwice("a")
		}
		s.exit("a", 1, "", now)
		if !twiceFirst {
			s.ranTwice("a")
		}
		if err := s.results()[0].Err; !errors.Is(err, errRanTwice) {
			t.Errorf("error %v does not say that the command may have run twice", err)
		}
	}
}

func TestStateCapture(t *testing.T) {
	c := testConfig(t, WithCapture(5))
	now := time.Now()
	s := newState(c)
	s.ack("a", "", now)
	for _, chunk := range []string{"abc", "", "def", "ghi"} {
		s.output("a", "", []byte(chunk), now)
	}
	if got := s.results()[0]; string(got.Output) != "abcde" || got.OutputBytes != 9 {
		t.Errorf("captured %q of %d bytes", got.Output, got.OutputBytes)
	}
}

func TestResult(t *testing.T) {
	c := testConfig(t)
	now := time.Now()
	s := newState(c)
	s.expect([]string{"d", "c", "b", "a"})
	dispatchTo(s, s.next(), now, nil)
	s.addAbsent("g", errors.New("is not alive"))
	s.expect([]string{"h"})
	for _, name := range []string{"a", "b", "c", "e", "f"} {
		s.ack(name, "", now)
	}
	s.exit("a", 0, "", now)
	s.exit("b", 3, "", now)
	s.lose("c", errors.New("silent for 15s"), now)
	s.exit("e", -1, "", now)
	r := &Result{Nodes: s.results()}

	want := `node b: exit status 3
node c: lost: silent for 15s
node d: no response
node e: ended by a signal
node f: running
node g: no response: is not alive
node h: skipped`
	if got := r.Err(); got == nil || got.Error() != want {
		t.Errorf("Err() = %v, want %v", got, want)
	}
	var first *NodeError
	if !errors.As(r.Err(), &first) || first.Node != "b" || first.State != StateExited || first.ExitCode != 3 {
		t.Errorf("errors.As finds %+v", first)
	}
	if n, ok := r.Node("c"); !ok || n.State != StateLost || n.ExitCode != -1 || n.Acked.IsZero() {
		t.Errorf("Node(c) = %+v, %v", n, ok)
	}
	if n, ok := r.Node("a"); !ok || n.Err != nil {
		t.Errorf("Node(a) = %+v, %v", n, ok)
	}
	if _, ok := r.Node("x"); ok {
		t.Error("there is no node x")
	}
	if err := (&Result{}).Err(); err != nil {
		t.Errorf("Err() of an empty result: %v", err)
	}
}

// TestStateExpectedName has an agent that spells its node's name in another way
// than the catalog.
func TestStateExpectedName(t *testing.T) {
	s := newState(testConfig(t))
	s.expect([]string{"web-1", "web-2", "a//b", "..", "c/../web-1"})
	for name, want := range map[string]bool{"web-1": false, "a//b": false, "..": true, "c/../web-1": true} {
		if got := s.nodes[name].unfenceable; got != want {
			t.Errorf("%q is unfenceable: %v, want %v", name, got, want)
		}
	}
	for name, want := range map[string]string{"web-1": "web-1", "Web-1": "web-1", "WEB-2": "web-2", "web-3": "web-3", "a/b": "a//b"} {
		for range 2 {
			if got := s.expectedName(name); got != want {
				t.Errorf("%q means %q, want %q", name, got, want)
			}
		}
	}
}

// TestMayRun checks which nodes may still run the command when the context
// ends.
func TestMayRun(t *testing.T) {
	now := time.Now()
	s := newState(&config{concurrency: 6, ackTimeout: time.Second, lostTimeout: time.Minute})
	s.expect([]string{"exits", "runs", "is lost", "is silent", "is given up", "may have the job", "waits"})
	names := s.next()
	dispatchTo(s, names[:5], now, nil)
	dispatchTo(s, names[5:], now, errors.New("the context ended amid the event"))
	for _, name := range []string{"exits", "runs", "is lost"} {
		s.ack(name, "", now)
	}
	s.exit("exits", 0, "", now)
	s.lose("is lost", errors.New("silent"), now)
	s.noResponse("is given up")
	s.addAbsent("is absent", errors.New("not in the catalog"))
	s.ack("a stranger", "", now)
	s.pause(time.Second, now.Add(time.Minute)) // which dispatches to nobody
	acked, unacked := s.mayRun()
	if want := []string{"a stranger", "is lost", "runs"}; !slices.Equal(acked, want) {
		t.Errorf("acked %q, want %q", acked, want)
	}
	if want := []string{"is silent", "may have the job"}; !slices.Equal(unacked, want) {
		t.Errorf("unacked %q, want %q", unacked, want)
	}
}

// BenchmarkReport records and reports the output of a node.
func BenchmarkReport(b *testing.B) {
	c := testConfig(b, WithNode("^web"))
	r := &run{config: c, log: c.logger, listen: c.handlers.listener(), state: newState(c)}
	r.report(reader.Record{Node: "web-1", Kind: reader.Ack}, time.Now())
	chunk := reader.Record{Node: "web-1", Kind: reader.Output, Value: make([]byte, 4096)}
	b.ReportAllocs()
	for b.Loop() {
		r.apply([]reader.Record{chunk})
	}
}

// dispatchTo makes a dispatch whose event goes out at a time.
func dispatchTo(s *state, names []string, at time.Time, err error) {
	s.enqueue([]firing{{names: names}})
	next := s.nextEvent()
	s.dispatched(next, at, err)
}

// giveUp gives up the nodes whose ack time is over, as if all were fenced. It
// does not dispatch to any again.
func giveUp(s *state, listed time.Time) (noResponse []string, silent []*node) {
	for {
		again, final, silent := s.overdue(listed)
		s.repeat(again, func([]string) [][]string { return nil })
		noResponse = append(noResponse, namesOf(final)...)
		for _, n := range final {
			s.noResponse(n.Node)
		}
		if again == nil {
			return noResponse, silent
		}
	}
}

// TestStateDue does at random what happens to a run. What is due is never later
// than a look at all nodes says.
func TestStateDue(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		options := []Option{WithWait(time.Second), WithAckTimeout(time.Duration(1+rng.IntN(10)) * time.Second), WithLostTimeout(time.Duration(2+rng.IntN(20)) * time.Second)}
		s := newState(testConfig(t, options...))
		names := []string{"a", "b", "c", "d"}
		if rng.IntN(3) > 0 {
			s.expect(names)
		}
		now := time.Now()
		for step := range 60 {
			now = now.Add(time.Duration(rng.IntN(1500)) * time.Millisecond)
			name := names[rng.IntN(len(names))]
			switch rng.IntN(9) {
			case 0:
				dispatchTo(s, s.next(), now, nil)
			case 1, 2:
				s.ack(name, "", now)
			case 3:
				s.output(name, "", nil, now)
			case 4:
				s.exit(name, 0, "", now)
			case 5:
				giveUp(s, now)
			case 6:
				s.lose(name, errors.New("gone"), now)
			case 7:
				if _, due := s.lookUp(now, now); due {
					s.sighted(sighting{failed: []string{name}})
				}
			case 8:
				s.pause(time.Second, now)
			}
			got := s.due(now)
			want := s.deadline()
			if lookUp := s.nextLookUp(); want.IsZero() || !lookUp.IsZero() && lookUp.Before(want) {
				want = lookUp
			}
			if !want.IsZero() && got.After(want) {
				t.Fatalf("seed %d, step %d: due %v too late", seed, step, got.Sub(want))
			}
			if again, final, silent := s.overdue(now); s.isQuiet(now) && len(again)+len(final)+len(silent) > 0 {
				t.Fatalf("seed %d, step %d: quiet although nodes are overdue", seed, step)
			}
		}
	}
}
