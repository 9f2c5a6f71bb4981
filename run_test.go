package consulexec_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
)

// TestMain proves that no goroutine of this package outlives the tests.
func TestMain(m *testing.M) {
	code := m.Run()
	if left := lingering(); left != "" {
		fmt.Fprintf(os.Stderr, "goroutines left behind:\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}

// lingering returns the stacks of the goroutines that run code of the package,
// once they have had time to end.
func lingering() string {
	var left []string
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		left = nil
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		for stack := range strings.SplitSeq(string(stacks), "\n\n") {
			if strings.Contains(stack, "consulexec/consulexec") && !strings.Contains(stack, "TestMain") {
				left = append(left, stack)
			}
		}
		if left == nil {
			return ""
		}
	}
	return strings.Join(left, "\n\n")
}

// A recorder writes down every callback, and complains about those that break
// the rules: all on one goroutine, none after the end, submit first, and done or
// error last and once; for each node ack, output and heartbeats, then exit or
// lost.
type recorder struct {
	t *testing.T

	start time.Time

	mu        sync.Mutex // guards the rest, although only one goroutine should come
	goroutine string
	closed    bool
	calls     []string // "submit", "ack a", "output a", …, "done"
	output    map[string][]byte
	err       error // of OnError
	hook      func(call string)
}

// options returns the options that record.
func (r *recorder) options() []consulexec.Option {
	r.start = time.Now()
	r.output = make(map[string][]byte)
	return []consulexec.Option{
		consulexec.OnSubmit(func() { r.call("submit", "") }),
		consulexec.OnAck(func(node string) { r.call("ack", node) }),
		consulexec.OnOutput(func(node string, output []byte) {
			if len(output) == 0 || len(output) > 4096 {
				r.t.Errorf("%d bytes of output from %s", len(output), node)
			}
			r.output[node] = append(r.output[node], output...)
			r.call("output", node)
		}),
		consulexec.OnHeartbeat(func(node string) { r.call("heartbeat", node) }),
		consulexec.OnExit(func(node string, code int) { r.call("exit", fmt.Sprintf("%s %d", node, code)) }),
		consulexec.OnLost(func(node string, err error) {
			if err == nil || !strings.Contains(err.Error(), node) {
				r.t.Errorf("error %v of lost node %s", err, node)
			}
			r.call("lost", node)
		}),
		consulexec.OnNoResponse(func(node string) { r.call("no-response", node) }),
		consulexec.OnDone(func() { r.call("done", "") }),
		consulexec.OnError(func(err error) {
			r.err = err
			r.call("error", "")
		}),
	}
}

func (r *recorder) call(what, of string) {
	r.mu.Lock()
	call := strings.TrimSpace(what + " " + of)
	r.calls = append(r.calls, call)
	on, _, _ := bytes.Cut(debugStack(), []byte(" ["))
	if r.goroutine == "" {
		r.goroutine = string(on)
	}
	if r.goroutine != string(on) {
		r.t.Errorf("%s on %s, the others on %s", call, on, r.goroutine)
	}
	if r.closed {
		r.t.Errorf("%s after the end", call)
	}
	r.mu.Unlock()
	if r.hook != nil {
		r.hook(call)
	}
}

func debugStack() []byte {
	buf := make([]byte, 64)
	return buf[:runtime.Stack(buf, false)]
}

// count returns how many calls begin with what.
func (r *recorder) count(what string) int {
	n := 0
	for _, call := range r.calls {
		if strings.HasPrefix(call, what) {
			n++
		}
	}
	return n
}

// acks returns the nodes in the order of their acks.
func (r *recorder) acks() []string {
	var nodes []string
	for _, call := range r.calls {
		if node, ok := strings.CutPrefix(call, "ack "); ok {
			nodes = append(nodes, node)
		}
	}
	return nodes
}

// check looks at the order of the calls, once the run has ended with err.
func (r *recorder) check(err error) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	last := "done"
	if err != nil {
		last = "error"
		if r.err != err {
			r.t.Errorf("OnError got %v, Wait returned %v", r.err, err)
		}
	}
	state := make(map[string]string)
	for i, call := range r.calls {
		what, node, _ := strings.Cut(call, " ")
		node, _, _ = strings.Cut(node, " ")
		was := state[node]
		ok := true
		switch what {
		case "submit":
			ok = i == 0
		case "done", "error":
			ok = i == len(r.calls)-1 && what == last
		case "ack":
			ok = was == "" || was == "no-response"
		case "no-response":
			ok = was == ""
		default:
			ok = was == "ack" || was == "output" || was == "heartbeat"
		}
		if what != "submit" && what != "error" && r.calls[0] != "submit" {
			ok = false
		}
		if !ok {
			r.t.Errorf("%s at the wrong place in %v", call, r.calls)
		}
		state[node] = what
	}
	if len(r.calls) == 0 || r.calls[len(r.calls)-1] != last {
		r.t.Errorf("calls %v do not end with %s", r.calls, last)
	}
}

// execute runs command with the options and a recorder, checks the rules, and
// that nothing is left behind.
func execute(t *testing.T, client *api.Client, command string, options ...consulexec.Option) (*recorder, *consulexec.Result, error) {
	t.Helper()
	return executeContext(t.Context(), t, client, new(recorder), command, options...)
}

func executeContext(ctx context.Context, t *testing.T, client *api.Client, rec *recorder, command string, options ...consulexec.Option) (*recorder, *consulexec.Result, error) {
	t.Helper()
	rec.t = t
	options = slices.Concat([]consulexec.Option{consulexec.WithClient(client), consulexec.WithCapture(2 << 20)}, rec.options(), options)
	e, err := consulexec.New(command, options...)
	if err != nil {
		t.Fatal(err)
	}
	result, err := e.Run(ctx)
	if result == nil {
		t.Fatalf("no result, error %v", err)
	}
	rec.check(err)
	checkResult(t, rec, result)
	checkNothingLeft(t, client, e, result)
	return rec, result, err
}

// checkResult compares a result with what was called.
func checkResult(t *testing.T, rec *recorder, result *consulexec.Result) {
	t.Helper()
	for _, n := range result.Nodes {
		if !bytes.Equal(n.Output, rec.output[n.Node]) || n.OutputBytes != int64(len(n.Output)) {
			t.Errorf("node %s: %d bytes captured, %d counted, %d called", n.Node, len(n.Output), n.OutputBytes, len(rec.output[n.Node]))
		}
		unseen := n.State == consulexec.StateNoResponse || n.State == consulexec.StateSkipped
		if n.Acked.IsZero() != unseen || n.Exited.IsZero() != (n.State != consulexec.StateExited) {
			t.Errorf("node %s is %v, but acked %v and exited %v", n.Node, n.State, n.Acked, n.Exited)
		}
		call := map[consulexec.State]string{
			consulexec.StateExited: fmt.Sprintf("exit %s %d", n.Node, n.ExitCode),
			consulexec.StateLost:   "lost " + n.Node,
		}[n.State]
		if call != "" && !slices.Contains(rec.calls, call) {
			t.Errorf("node %s is %v, but there was no call %q in %v", n.Node, n.State, call, rec.calls)
		}
	}
}

// checkNothingLeft looks for sessions and keys of the run, in all datacenters.
func checkNothingLeft(t *testing.T, client *api.Client, e *consulexec.Exec, result *consulexec.Result) {
	t.Helper()
	datacenters, err := client.Catalog().Datacenters()
	if err != nil {
		t.Fatal(err)
	}
	for _, dc := range datacenters {
		checkNothingLeftIn(t, client, dc, e, result)
	}
}

func checkNothingLeftIn(t *testing.T, client *api.Client, dc string, e *consulexec.Exec, result *consulexec.Result) {
	t.Helper()
	q := &api.QueryOptions{Datacenter: dc}
	sessions, _, err := client.Session().List(q)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sessions {
		if strings.Contains(s.Name, e.ID()) {
			t.Errorf("session %s (%s) left in %s", s.ID, s.Name, dc)
		}
	}
	keys, _, err := client.KV().Keys("", "", q)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		if result.Session != "" && strings.Contains(key, result.Session) {
			t.Errorf("key %s left in %s", key, dc)
		}
	}
}

// states returns the states of a result's nodes in words.
func states(result *consulexec.Result) string {
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
