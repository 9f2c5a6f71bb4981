package consulexec_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
	"github.com/consulexec/consulexec/internal/runtest"
)

// TestRollingFailures has a failure of each kind. Each makes room for the next node
// and counts towards WithMaxFailures.
func TestRollingFailures(t *testing.T) {
	nodes := []exectest.Option{
		runtest.Node("first", runtest.Up), // holds the session
		runtest.Node("a", runtest.Dies(time.Second)), runtest.Node("b", runtest.Up, exectest.ExecDisabled()), runtest.Node("c", exectest.Answer("", 1)),
		runtest.Node("d", runtest.Up), runtest.Node("e", runtest.Up),
	}
	for _, test := range []struct {
		max  int
		want string
	}{
		{1, "a: lost, b: skipped, c: skipped, d: skipped, e: skipped"},
		{2, "a: lost, b: no response, c: skipped, d: skipped, e: skipped"},
		{3, "a: lost, b: no response, c: exit 1, d: skipped, e: skipped"},
		{4, "a: lost, b: no response, c: exit 1, d: exit 0, e: exit 0"},
	} {
		runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
			_, result, err := runtest.Execute(t, srv.Client(), "x", consulexec.WithNode("^.$"), consulexec.WithConcurrency(1), consulexec.WithMaxFailures(test.max))
			if got := runtest.States(result); err != nil || got != test.want {
				t.Errorf("WithMaxFailures(%d): error %v, states %s, want %s", test.max, err, got, test.want)
			}
			for _, n := range result.Nodes {
				if n.State == consulexec.StateSkipped && srv.Executions(n.Node) > 0 {
					t.Errorf("WithMaxFailures(%d): %s is skipped, but ran the command", test.max, n.Node)
				}
			}
		})
	}
}

// TestRollingLongName has a node whose name is too long for an event. It is
// known before any node gets the job, and the others run the command.
func TestRollingLongName(t *testing.T) {
	long := strings.Repeat("n", 300)
	nodes := []exectest.Option{runtest.Node("a", runtest.Up), runtest.Node(long, runtest.Up), runtest.Node("z", runtest.Up)}
	runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		rec, result, err := runtest.Execute(t, srv.Client(), "x", consulexec.WithConcurrency(1))
		if got, want := runtest.States(result), "a: exit 0, "+long+": no response, z: exit 0"; err != nil || got != want {
			t.Errorf("error %v, states %s, want %s", err, got, want)
		}
		if n, _ := result.Node(long); n.Err == nil || !strings.Contains(n.Err.Error(), "its name has 300 bytes") {
			t.Errorf("error %v", n.Err)
		}
		if len(rec.Calls) < 2 || rec.Calls[1] != "no-response "+long {
			t.Errorf("the long name is not reported at once: %q", rec.Calls)
		}
	})
}

// TestOddNodeNames has nodes whose names are no clean paths, so that their agents
// spell them in another way in keys. Each runs the command once.
func TestOddNodeNames(t *testing.T) {
	nodes := []exectest.Option{
		runtest.Node("a//b", runtest.Up), runtest.Node("x/", runtest.Up), runtest.Node("./y", runtest.Up),
		runtest.Node("slow//z", runtest.Up, exectest.AckAfter(1500*time.Millisecond)),
	}
	runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		for _, options := range [][]consulexec.Option{nil, {consulexec.WithConcurrency(1)}} {
			before := srv.Executions("slow//z")
			_, result, err := runtest.Execute(t, srv.Client(), "x", options...)
			if got, want := runtest.States(result), "./y: exit 0, a//b: exit 0, slow//z: exit 0, x/: exit 0"; err != nil || got != want {
				t.Errorf("error %v, states %s, want %s", err, got, want)
			}
			if n := srv.Executions("slow//z") - before; n != 1 {
				t.Errorf("slow//z ran the command %d times, want 1", n)
			}
		}
	})
}

// TestUnfenceable has nodes whose acks have no key of their own. If they do not
// answer, nobody knows whether they took the job.
func TestUnfenceable(t *testing.T) {
	off := exectest.ExecDisabled()
	nodes := []exectest.Option{runtest.Node("a/b", runtest.Up), runtest.Node("a//b", runtest.Up, off), runtest.Node("c", runtest.Up, off)}
	runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		_, result, err := runtest.Execute(t, srv.Client(), "x")
		if got, want := runtest.States(result), "a//b: lost, a/b: exit 0, c: no response"; err != nil || got != want {
			t.Errorf("error %v, states %s, want %s", err, got, want)
		}
		if n, _ := result.Node("a//b"); n.Err == nil || !strings.Contains(n.Err.Error(), "may have taken the job") {
			t.Errorf("error %v", n.Err)
		}
	})
}

// TestRollingNeedsNodes checks that a rolling run dispatches to no node if it does
// not know the nodes.
func TestRollingNeedsNodes(t *testing.T) {
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Up), runtest.Node("b", runtest.Up)}, func(t *testing.T, srv *exectest.Server) {
		remove := srv.Fault(exectest.Fault{Do: exectest.Denied, Match: exectest.Path("GET", "/v1/health/")})
		defer remove()
		_, result, err := runtest.Execute(t, srv.Client(), "x", consulexec.WithConcurrency(1))
		if !errors.Is(err, consulexec.ErrPermissionDenied) || !strings.Contains(err.Error(), "WithConcurrency(1): the nodes are not known") || !strings.Contains(err.Error(), "node:read") {
			t.Errorf("error %v", err)
		}
		if got := result.Err(); got.Error() != err.Error() {
			t.Errorf("Result.Err is %v, want %v alone", got, err)
		}
		if srv.Executions("a")+srv.Executions("b") > 0 {
			t.Error("a node ran the command")
		}
		_, result, err = runtest.Execute(t, srv.Client(), "x", consulexec.WithConcurrency(1), consulexec.WithNodes("b", "a"))
		if got, want := runtest.States(result), "a: exit 0, b: exit 0"; err != nil || got != want || !errors.Is(result.DiscoveryErr, consulexec.ErrPermissionDenied) {
			t.Errorf("with names: error %v, states %s, discovery %v", err, got, result.DiscoveryErr)
		}
	})
}

// TestRollingCancelled checks that the run dispatches to no further node after the
// context has ended.
func TestRollingCancelled(t *testing.T) {
	nodes := []exectest.Option{runtest.Node("a", runtest.Sleeps(time.Second)), runtest.Node("b", runtest.Sleeps(time.Minute)), runtest.Node("c", runtest.Up), runtest.Node("d", runtest.Up)}
	runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		result, err := runtest.NewRecorder(t, srv.Client()).Run(ctx, "x", consulexec.WithConcurrency(1))
		if got, want := runtest.States(result), "a: exit 0, b: running, c: skipped, d: skipped"; err == nil || got != want {
			t.Errorf("error %v, states %s, want %s", err, got, want)
		}
		if err := result.Err(); !strings.Contains(err.Error(), "node c: skipped") {
			t.Errorf("result %v", err)
		}
	})
}

// TestMaxFailuresAndMinNodes checks that Result.Err has both reasons, and that the
// run does not wait for nodes that it will skip.
func TestMaxFailuresAndMinNodes(t *testing.T) {
	nodes := []exectest.Option{runtest.Node("a", exectest.Answer("", 1)), runtest.Node("b", runtest.Up), runtest.Node("c", runtest.Up)}
	runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		start := time.Now()
		_, result, err := runtest.Execute(t, srv.Client(), "x", consulexec.WithConcurrency(1), consulexec.WithMaxFailures(1), consulexec.WithMinNodes(3))
		if err != nil || time.Since(start) > 3*time.Second {
			t.Errorf("error %v after %v, want none within 3s", err, time.Since(start))
		}
		for _, want := range []string{"1 failed, and 2 skipped: WithMaxFailures(1)", "2 are missing: WithMinNodes(3)"} {
			if !strings.Contains(result.Err().Error(), want) {
				t.Errorf("result %v lacks %q", result.Err(), want)
			}
		}
	})
}
