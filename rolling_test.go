package consulexec_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
	"github.com/consulexec/consulexec/internal/devcluster"
)

// TestManyNames runs on two thousand nodes of given names, in few events.
func TestManyNames(t *testing.T) {
	var nodes []exectest.Option
	var names []string
	for i := range 2000 {
		name := fmt.Sprintf("web-%04d.eu-west-1.example.com", 3*i)
		names = append(names, name)
		nodes = append(nodes, node(name, ok), node("not-"+name, ok))
	}
	bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		_, result, err := execute(t, srv.Client(), "x", consulexec.WithNodes(names...))
		if err != nil || result.Err() != nil || len(result.Nodes) != len(names) {
			t.Fatalf("error %v, result %v, %d nodes", err, result.Err(), len(result.Nodes))
		}
		for _, name := range names {
			if n := srv.Executions(name); n != 1 {
				t.Errorf("%s ran %d times", name, n)
			}
		}
		events := 0
		for _, r := range srv.Requests() {
			if strings.HasPrefix(r.Path, "/v1/event/fire") {
				events++
			}
		}
		if events > 20 {
			t.Errorf("%d events", events)
		}
	})
}

// TestNodesDown checks what is said of named nodes that can't answer.
func TestNodesDown(t *testing.T) {
	nodes := []exectest.Option{node("a", ok), node("down", ok, exectest.Down()), node("no-agent", ok, exectest.External())}
	bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		start := time.Now()
		rec, result, err := execute(t, srv.Client(), "x", consulexec.WithNodes("no-agent", "down", "gone", "a"))
		if got, want := states(result), "a: exit 0, down: no response, gone: no response, no-agent: no response"; err != nil || got != want {
			t.Errorf("error %v, states %s", err, got)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("took %v", took)
		}
		if got, want := rec.calls[:4], []string{"submit", "no-response no-agent", "no-response down", "no-response gone"}; !slices.Equal(got, want) {
			t.Errorf("calls %v", rec.calls)
		}
		for name, want := range map[string]string{"down": "not alive", "gone": "no such agent", "no-agent": "no such agent"} {
			n, _ := result.Node(name)
			var nodeErr *consulexec.NodeError
			if !errors.As(n.Err, &nodeErr) || !strings.Contains(n.Err.Error(), want) {
				t.Errorf("%s: %v", name, n.Err)
			}
		}
	})
}

// TestRollingFailures lets each kind of failure make room, and count.
func TestRollingFailures(t *testing.T) {
	nodes := []exectest.Option{
		node("first", ok), // holds the session
		node("a", dies(time.Second)), node("b", ok, exectest.ExecDisabled()), node("c", exectest.Answer("", 1)),
		node("d", ok), node("e", ok),
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
		bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
			_, result, err := execute(t, srv.Client(), "x", consulexec.WithNode("^.$"), consulexec.WithConcurrency(1), consulexec.WithMaxFailures(test.max))
			if got := states(result); err != nil || got != test.want {
				t.Errorf("at most %d: error %v, states %s, want %s", test.max, err, got, test.want)
			}
			for _, n := range result.Nodes {
				if n.State == consulexec.StateSkipped && srv.Executions(n.Node) > 0 {
					t.Errorf("at most %d: %s is skipped, and ran", test.max, n.Node)
				}
			}
		})
	}
}

// TestRollingNeedsNodes checks that nobody is told where the nodes are not known.
func TestRollingNeedsNodes(t *testing.T) {
	bubble(t, []exectest.Option{node("a", ok), node("b", ok)}, func(t *testing.T, srv *exectest.Server) {
		remove := srv.Fault(exectest.Fault{Do: exectest.Denied, Match: exectest.Path("GET", "/v1/health/")})
		defer remove()
		_, _, err := execute(t, srv.Client(), "x", consulexec.WithConcurrency(1))
		if !errors.Is(err, consulexec.ErrPermissionDenied) || !strings.Contains(err.Error(), "WithConcurrency(1): the nodes are not known") || !strings.Contains(err.Error(), "node:read") {
			t.Errorf("error %v", err)
		}
		if srv.Executions("a")+srv.Executions("b") > 0 {
			t.Error("a node was told")
		}
		_, result, err := execute(t, srv.Client(), "x", consulexec.WithConcurrency(1), consulexec.WithNodes("b", "a"))
		if got, want := states(result), "a: exit 0, b: exit 0"; err != nil || got != want || !errors.Is(result.DiscoveryErr, consulexec.ErrPermissionDenied) {
			t.Errorf("with names: error %v, states %s, discovery %v", err, got, result.DiscoveryErr)
		}
	})
}

// TestRollingEventFails has the event of each turn fail in each way: no node may
// run twice, and each is told or known not to have answered.
func TestRollingEventFails(t *testing.T) {
	for name, way := range waysToFail {
		t.Run(name, func(t *testing.T) {
			nodes := []exectest.Option{node("a", ok), node("b", ok), node("c", ok)}
			bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
				var events atomic.Int32
				remove := srv.Fault(exectest.Fault{Do: way, Match: func(r *http.Request) bool {
					return strings.HasPrefix(r.URL.Path, "/v1/event/") && events.Add(1) == 2
				}})
				defer remove()
				_, result, err := execute(t, srv.Client(), "x", consulexec.WithConcurrency(1))
				if err != nil {
					t.Fatal(err)
				}
				for _, n := range result.Nodes {
					switch ran := srv.Executions(n.Node); {
					case ran > 1, ran == 1 && n.State != consulexec.StateExited:
						t.Errorf("%s is %v, and ran %d times", n.Node, n.State, ran)
					case ran == 0 && (n.Node != "b" || n.State != consulexec.StateNoResponse || !strings.Contains(n.Err.Error(), "fire event")):
						t.Errorf("%s did not run: %v", n.Node, n.Err)
					}
				}
			})
		})
	}
}

// TestRollingCancelled checks that nobody is told once the context has ended.
func TestRollingCancelled(t *testing.T) {
	nodes := []exectest.Option{node("a", sleeps(time.Second)), node("b", sleeps(time.Minute)), node("c", ok), node("d", ok)}
	bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, result, err := executeContext(ctx, t, srv.Client(), new(recorder), "x", consulexec.WithConcurrency(1))
		if got, want := states(result), "a: exit 0, b: running, c: skipped, d: skipped"; err == nil || got != want {
			t.Errorf("error %v, states %s, want %s", err, got, want)
		}
		if err := result.Err(); !strings.Contains(err.Error(), "node c: skipped") {
			t.Errorf("result %v", err)
		}
	})
}

// TestKillNobody cancels a run before it has told anybody: nothing may be run then.
func TestKillNobody(t *testing.T) {
	bubble(t, []exectest.Option{node("a", ok), node("b", ok)}, func(t *testing.T, srv *exectest.Server) {
		remove := srv.Fault(exectest.Fault{Match: exectest.Path("GET", "/v1/health/"), Delay: 3 * time.Second})
		defer remove()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, _, err := executeContext(ctx, t, srv.Client(), new(recorder), "x", consulexec.WithNodes("a"), consulexec.WithKillOnCancel())
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		if n := srv.Executions("a") + srv.Executions("b"); n > 0 {
			t.Errorf("%d executions", n)
		}
	})
}

// TestKillFails checks that a cancelled run whose command can't be ended was
// cancelled, and had no deadline.
func TestKillFails(t *testing.T) {
	bubble(t, []exectest.Option{node("a", exectest.NeverExit)}, func(t *testing.T, srv *exectest.Server) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		time.AfterFunc(time.Second, cancel)
		_, _, err := executeContext(ctx, t, srv.Client(), new(recorder), "x", consulexec.WithKillOnCancel())
		var nodeErr *consulexec.NodeError
		if !errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &nodeErr) || nodeErr.Node != "a" {
			t.Errorf("error %v", err)
		}
	})
}

// TestMaxFailuresAndMinNodes checks that Result.Err has both reasons, and that nobody
// is waited for who will not be told.
func TestMaxFailuresAndMinNodes(t *testing.T) {
	nodes := []exectest.Option{node("a", exectest.Answer("", 1)), node("b", ok), node("c", ok)}
	bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		start := time.Now()
		_, result, err := execute(t, srv.Client(), "x", consulexec.WithConcurrency(1), consulexec.WithMaxFailures(1), consulexec.WithMinNodes(3))
		if err != nil || time.Since(start) > 3*time.Second {
			t.Errorf("error %v after %v", err, time.Since(start))
		}
		for _, want := range []string{"1 failed, and 2 skipped: WithMaxFailures(1)", "2 are missing: WithMinNodes(3)"} {
			if !strings.Contains(result.Err().Error(), want) {
				t.Errorf("%v does not say %q", result.Err(), want)
			}
		}
	})
}

// TestSixtyNames runs by sixty names of thirty letters, of which the agents of three
// are there and the others seem to be.
func TestSixtyNames(t *testing.T) {
	if !realTest(t) {
		return
	}
	var names []string
	for i := range 60 {
		names = append(names, strings.Repeat(string(rune('a'+i%26)), 27)+fmt.Sprintf("-%02d", i))
	}
	var nodes []devcluster.Node
	for _, i := range []int{0, 31, 59} {
		nodes = append(nodes, devcluster.Node{Name: names[i], Server: i == 0})
	}
	nodes = append(nodes, devcluster.Node{Name: names[59] + "x"})
	cluster := devcluster.Start(t, devcluster.Config{Nodes: nodes})
	client := cluster.Client(names[31])
	for _, name := range names {
		if slices.Contains(cluster.Nodes(), name) {
			continue
		}
		// Not by the client's type, which has fields that older Consuls refuse.
		seems := map[string]any{"Node": name, "Address": "127.0.0.1", "Check": map[string]string{"CheckID": "serfHealth", "Status": api.HealthPassing}}
		if _, err := client.Raw().Write("/v1/catalog/register", seems, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	y := newTally(t, 3)
	_, result, err := execute(t, client, y.command, consulexec.WithNodes(names...))
	y.check(t, result, 3)
	exited := 0
	for _, n := range result.Nodes {
		there := slices.Contains(cluster.Nodes(), n.Node)
		if want := map[bool]consulexec.State{true: consulexec.StateExited, false: consulexec.StateNoResponse}[there]; n.State != want {
			t.Errorf("%s is %v, want %v", n.Node, n.State, want)
		}
		if there {
			exited++
		}
	}
	if err != nil || exited != 3 || len(result.Nodes) != 60 {
		t.Errorf("error %v, %d exited of %d", err, exited, len(result.Nodes))
	}
}

// TestRollingOnNine has nine real nodes run two at a time, and measures on the nodes
// how many did.
func TestRollingOnNine(t *testing.T) {
	if !realTest(t) {
		return
	}
	cluster := devcluster.Start(t, devcluster.Config{Nodes: devcluster.Nodes(1, 8)})
	command, most := busy(t)
	// In a cluster of this size gossip misses a node in every tenth event. Anti-entropy
	// reaches it, in a young cluster up to a minute later.
	patient := consulexec.WithAckTimeout(75 * time.Second)
	rec, result, err := execute(t, cluster.Client("server-1"), command, consulexec.WithConcurrency(2), patient)
	if err != nil || result.Err() != nil || len(result.Nodes) != 9 {
		t.Errorf("error %v, result %v, %d nodes", err, result.Err(), len(result.Nodes))
	}
	missed := slices.ContainsFunc(result.Nodes, func(n consulexec.NodeResult) bool {
		return n.Acked.Sub(rec.start) > 15*time.Second
	})
	if got := most(); got > 2 || got < 2 && !missed {
		t.Errorf("%d nodes ran it at once", got)
	}
	_, result, err = execute(t, cluster.Client("client-1"), "exit 7", consulexec.WithConcurrency(2), consulexec.WithMaxFailures(3), patient)
	if err != nil {
		t.Fatal(err)
	}
	counted := make(map[consulexec.State]int)
	for _, n := range result.Nodes {
		counted[n.State]++
	}
	// The one beside the third to fail was told already.
	if failed := counted[consulexec.StateExited]; failed < 3 || failed > 4 || failed+counted[consulexec.StateSkipped] != 9 {
		t.Errorf("states %s", states(result))
	}
}
