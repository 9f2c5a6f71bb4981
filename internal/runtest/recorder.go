package runtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
)

// A Recorder records every callback of one run. It fails the test if the
// callbacks break a rule: all come on one goroutine and none after the end.
// Targets are the first, then comes submit, and done or error is the last. Each node has its ack, then
// output and heartbeats, then its exit or its loss.
type Recorder struct {
	// Reach says how the run reaches Consul. Nil means WithClient, with the
	// recorder's client.
	Reach consulexec.Option

	// AnySize allows pieces of output of any size, which only strangers write.
	AnySize bool

	// Hook, if not nil, runs in each callback, after the callback was recorded.
	Hook func(call string)

	Start   time.Time         // of the first call of Options
	Targets []string          // of OnTargets
	Calls   []string          // "submit", "ack a", "output a", "exit a 0", …, "done"; without OnTargets
	Output  map[string][]byte // by node
	Err     error             // of OnError

	tb     testing.TB
	client *api.Client

	mu        sync.Mutex // guards Calls and the rest from a callback on a wrong goroutine
	goroutine string
	targeted  bool // OnTargets was called
	closed    bool
}

// NewRecorder returns a recorder for one run. The checks ask client what the run
// left behind.
func NewRecorder(tb testing.TB, client *api.Client) *Recorder {
	return &Recorder{tb: tb, client: client, Output: make(map[string][]byte)}
}

// Execute is Run with a new recorder and the context of the test.
func Execute(tb testing.TB, client *api.Client, command string, options ...consulexec.Option) (*Recorder, *consulexec.Result, error) {
	tb.Helper()
	rec := NewRecorder(tb, client)
	result, err := rec.Run(tb.Context(), command, options...)
	return rec, result, err
}

// Run runs the command and makes all checks.
func (r *Recorder) Run(ctx context.Context, command string, options ...consulexec.Option) (*consulexec.Result, error) {
	r.tb.Helper()
	e := r.New(command, options...)
	result, err := e.Run(ctx)
	r.Check(e, result, err)
	return result, err
}

// New returns an Exec whose callbacks the recorder records. The result captures
// up to 2 MiB of output of each node, unless the options say otherwise.
func (r *Recorder) New(command string, options ...consulexec.Option) *consulexec.Exec {
	r.tb.Helper()
	e, err := consulexec.New(command, r.Options(options...)...)
	if err != nil {
		r.tb.Fatal(err)
	}
	return e
}

// Options returns the options of New, in case the test does not call
// consulexec.New itself.
func (r *Recorder) Options(more ...consulexec.Option) []consulexec.Option {
	r.Start = time.Now()
	reach := r.Reach
	if reach == nil {
		reach = consulexec.WithClient(r.client)
	}
	return append([]consulexec.Option{
		reach,
		consulexec.WithCapture(2 << 20),
		consulexec.OnTargets(r.recordTargets),
		consulexec.OnSubmit(func() { r.record("submit", "") }),
		consulexec.OnAck(func(node string) { r.record("ack", node) }),
		consulexec.OnOutput(func(node string, output []byte) {
			if len(output) == 0 || len(output) > 4096 && !r.AnySize {
				r.tb.Errorf("%d bytes of output from %s in one call, want 1 to 4096", len(output), node)
			}
			r.Output[node] = append(r.Output[node], output...)
			r.record("output", node)
		}),
		consulexec.OnHeartbeat(func(node string) { r.record("heartbeat", node) }),
		consulexec.OnExit(func(node string, code int) { r.record("exit", fmt.Sprintf("%s %d", node, code)) }),
		consulexec.OnLost(func(node string, err error) {
			if err == nil || !strings.Contains(err.Error(), node) {
				r.tb.Errorf("node %s is lost with error %v, which does not name it", node, err)
			}
			r.record("lost", node)
		}),
		consulexec.OnNoResponse(func(node string) { r.record("no-response", node) }),
		consulexec.OnDone(func() { r.record("done", "") }),
		consulexec.OnError(func(err error) {
			r.Err = err
			r.record("error", "")
		}),
	}, more...)
}

func (r *Recorder) recordTargets(nodes []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.targeted || len(r.Calls) > 0 {
		r.tb.Errorf("OnTargets comes twice, or after %v", r.Calls)
	}
	r.Targets, r.targeted = nodes, true
	r.checkCall("targets")
}

func (r *Recorder) record(what, of string) {
	r.mu.Lock()
	call := strings.TrimSpace(what + " " + of)
	r.Calls = append(r.Calls, call)
	r.checkCall(call)
	r.mu.Unlock()
	if r.Hook != nil {
		r.Hook(call)
	}
}

// checkCall checks what holds for every callback. The caller holds mu.
func (r *Recorder) checkCall(call string) {
	on := goroutine()
	if r.goroutine == "" {
		r.goroutine = on
	}
	if r.goroutine != on {
		r.tb.Errorf("callback %s is on %s, the others are on %s", call, on, r.goroutine)
	}
	if r.closed {
		r.tb.Errorf("callback %s comes after the end", call)
	}
}

// goroutine returns the name of the goroutine that calls it, as in a stack trace.
func goroutine() string {
	buf := make([]byte, 64)
	name, _, _ := bytes.Cut(buf[:runtime.Stack(buf, false)], []byte(" ["))
	return string(name)
}

// Count returns how many calls begin with what.
func (r *Recorder) Count(what string) int {
	n := 0
	for _, call := range r.Calls {
		if strings.HasPrefix(call, what) {
			n++
		}
	}
	return n
}

// Acks returns the nodes in the order of their acks.
func (r *Recorder) Acks() []string {
	var nodes []string
	for _, call := range r.Calls {
		if node, ok := strings.CutPrefix(call, "ack "); ok {
			nodes = append(nodes, node)
		}
	}
	return nodes
}

// Check makes all checks of a run that has ended: of its callbacks, of its result
// and of what it left behind.
func (r *Recorder) Check(e *consulexec.Exec, result *consulexec.Result, err error) {
	r.tb.Helper()
	if result == nil {
		r.tb.Fatalf("no result, error %v", err)
	}
	r.CheckCalls(err)
	if own := !errors.Is(err, consulexec.ErrLoopLeft); own && err != nil && !errors.Is(result.Err(), err) {
		r.tb.Errorf("Result.Err is %v, which lacks %v", result.Err(), err)
	}
	r.checkResult(result)
	CheckNothingLeft(r.tb, r.client, e, result)
}

// CheckCalls checks the order of the callbacks of a run that has ended with err.
func (r *Recorder) CheckCalls(err error) {
	r.tb.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	last := "done"
	if err != nil {
		last = "error"
		if r.Err != err {
			r.tb.Errorf("OnError got %v, Wait returned %v", r.Err, err)
		}
	}
	state := make(map[string]string)
	for i, call := range r.Calls {
		what, node, _ := strings.Cut(call, " ")
		node, _, _ = strings.Cut(node, " ")
		was := state[node]
		ok := true
		switch what {
		case "submit":
			ok = i == 0
		case "done", "error":
			ok = i == len(r.Calls)-1 && what == last
		case "ack":
			ok = was == "" || was == "no-response"
		case "no-response":
			ok = was == ""
		default:
			ok = was == "ack" || was == "output" || was == "heartbeat"
		}
		if what != "submit" && what != "error" && r.Calls[0] != "submit" {
			ok = false
		}
		if !ok {
			r.tb.Errorf("callback %s is at the wrong place in %v", call, r.Calls)
		}
		state[node] = what
	}
	if r.Count("submit") > 0 && !r.targeted {
		r.tb.Errorf("no OnTargets before %v", r.Calls)
	}
	if len(r.Calls) == 0 || r.Calls[len(r.Calls)-1] != last {
		r.tb.Errorf("the last callback is not %s: %v", last, r.Calls)
	}
}

// checkResult compares a result with the callbacks.
func (r *Recorder) checkResult(result *consulexec.Result) {
	r.tb.Helper()
	r.checkTargets(result)
	if result.ID == "" || result.Started.IsZero() || result.Ended.Before(result.Started) || time.Now().Before(result.Ended) {
		r.tb.Errorf("run %q began at %v and ended at %v", result.ID, result.Started, result.Ended)
	}
	if acked := slices.ContainsFunc(result.Nodes, func(n consulexec.NodeResult) bool { return !n.Acked.IsZero() }); acked && !result.Submitted {
		r.tb.Errorf("nothing was submitted, but nodes have acknowledged: %+v", result.Nodes)
	}
	for _, n := range result.Nodes {
		if at := n.Exited; !at.IsZero() && (at.Before(result.Started) || at.After(result.Ended)) {
			r.tb.Errorf("node %s ended at %v, the run was from %v to %v", n.Node, at, result.Started, result.Ended)
		}
		if !bytes.Equal(n.Output, r.Output[n.Node]) || n.OutputBytes != int64(len(n.Output)) {
			r.tb.Errorf("node %s: output of %d bytes captured, %d counted, %d in callbacks", n.Node, len(n.Output), n.OutputBytes, len(r.Output[n.Node]))
		}
		mayHaveTaken := n.State == consulexec.StateLost && strings.Contains(n.Err.Error(), "may have taken the job")
		neverAcked := n.State == consulexec.StateNoResponse || n.State == consulexec.StateSkipped || mayHaveTaken
		ended := n.State == consulexec.StateExited || n.State == consulexec.StateLost || n.State == consulexec.StateKilled
		if n.Acked.IsZero() != neverAcked || n.Exited.IsZero() == ended {
			r.tb.Errorf("node %s is %v, but acked %v and exited %v", n.Node, n.State, n.Acked, n.Exited)
		}
		call := map[consulexec.State]string{
			consulexec.StateExited: fmt.Sprintf("exit %s %d", n.Node, n.ExitCode),
			consulexec.StateLost:   "lost " + n.Node,
		}[n.State]
		if call != "" && !mayHaveTaken && !slices.Contains(r.Calls, call) {
			r.tb.Errorf("node %s is %v, but no callback is %q: %v", n.Node, n.State, call, r.Calls)
		}
	}
}

// checkTargets checks that the result has each node that was expected, and that
// a node of which nobody knew has a reason.
func (r *Recorder) checkTargets(result *consulexec.Result) {
	r.tb.Helper()
	for _, name := range r.Targets {
		if _, found := result.Node(name); !found {
			r.tb.Errorf("%s was expected and has no result", name)
		}
	}
	if r.targeted && r.Targets == nil && result.DiscoveryErr == nil {
		r.tb.Error("OnTargets got nil, and the result does not say why")
	}
}

// CheckNothingLeft checks that a run left no session and no key in any
// datacenter.
func CheckNothingLeft(tb testing.TB, client *api.Client, e *consulexec.Exec, result *consulexec.Result) {
	tb.Helper()
	checkNothingLeft(tb, client, e.ID(), result)
}

func checkNothingLeft(tb testing.TB, client *api.Client, id string, result *consulexec.Result) {
	tb.Helper()
	datacenters, err := client.Catalog().Datacenters()
	if err != nil {
		tb.Fatal(err)
	}
	for _, dc := range datacenters {
		checkNothingLeftIn(tb, client, dc, id, result)
	}
}

// CheckNothingLeftIn is CheckNothingLeft for one datacenter only, in case the
// others have no servers.
func CheckNothingLeftIn(tb testing.TB, client *api.Client, dc string, e *consulexec.Exec, result *consulexec.Result) {
	tb.Helper()
	checkNothingLeftIn(tb, client, dc, e.ID(), result)
}

// checkNothingLeftIn finds the run's session by its own ID, and by the run's ID
// if that is known.
func checkNothingLeftIn(tb testing.TB, client *api.Client, dc, id string, result *consulexec.Result) {
	tb.Helper()
	q := &api.QueryOptions{Datacenter: dc}
	sessions, _, err := client.Session().List(q)
	if err != nil {
		tb.Fatal(err)
	}
	for _, s := range sessions {
		if s.ID == result.Session || id != "" && strings.Contains(s.Name, id) {
			tb.Errorf("session %s (%s) is left in %s", s.ID, s.Name, dc)
		}
	}
	if result.Session == "" {
		return // there are no keys without a session
	}
	keys, _, err := client.KV().Keys("", "", q)
	if err != nil {
		tb.Fatal(err)
	}
	for _, key := range keys {
		if strings.Contains(key, result.Session) {
			tb.Errorf("key %s is left in %s", key, dc)
		}
	}
}

// States returns the states of a result's nodes as text.
func States(result *consulexec.Result) string {
	var all []string
	for _, n := range result.Nodes {
		state := n.State.String()
		if n.State == consulexec.StateExited {
			state = fmt.Sprint("exit ", n.ExitCode)
		}
		all = append(all, n.Node+": "+state)
	}
	return strings.Join(all, ", ")
}
