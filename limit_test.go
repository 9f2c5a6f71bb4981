package consulexec_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
	"github.com/consulexec/consulexec/internal/runtest"
)

// TestLimit runs the command on some of the nodes. One does not take it, one
// fails, one is slow to take it and one is not alive.
func TestLimit(t *testing.T) {
	nodes := []exectest.Option{
		runtest.Node("first", runtest.Up), // holds the session
		runtest.Node("a", runtest.Up, exectest.ExecDisabled()), runtest.Node("b", exectest.Answer("", 1)),
		runtest.Node("c", runtest.Up), runtest.Node("d", runtest.Up, exectest.AckAfter(8*time.Second)), runtest.Node("e", runtest.Up),
	}
	for _, test := range []struct {
		options []consulexec.Option
		want    string // the states
		err     string // of the result; none if empty
		late    bool   // whether too few took the job
	}{
		{[]consulexec.Option{consulexec.WithLimit(1)}, "a: no response, b: exit 1, c: skipped, d: skipped, e: skipped", "node b: exit status 1", false},
		{[]consulexec.Option{consulexec.WithLimit(2)}, "a: no response, b: exit 1, c: exit 0, d: skipped, e: skipped", "node b: exit status 1", false},
		{[]consulexec.Option{consulexec.WithLimit(3), consulexec.WithConcurrency(1)}, "a: no response, b: exit 1, c: exit 0, d: no response, e: exit 0", "node b: exit status 1", false},
		{[]consulexec.Option{consulexec.WithLimit(1), consulexec.WithNodes("e", "d", "c")}, "c: skipped, d: skipped, e: exit 0", "", false},
		{[]consulexec.Option{consulexec.WithLimit(1), consulexec.WithNodes("z", "d", "c"), consulexec.WithMaxFailures(1)}, "c: exit 0, d: no response, z: no response", "", false},
		{[]consulexec.Option{consulexec.WithLimit(4)}, "a: no response, b: exit 1, c: exit 0, d: no response, e: exit 0", "node a: no response", true},
	} {
		runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
			options := append([]consulexec.Option{consulexec.WithNode("^.$")}, test.options...)
			rec, result, err := runtest.Execute(t, srv.Client(), "x", options...)
			if got := runtest.States(result); err != nil || got != test.want {
				t.Errorf("error %v, states %s, want %s", err, got, test.want)
			}
			failed := result.Err()
			switch {
			case test.err == "" && failed != nil:
				t.Errorf("result %v", failed)
			case test.err != "" && (failed == nil || !strings.Contains(failed.Error(), test.err)):
				t.Errorf("result %v, want %s", failed, test.err)
			case errors.Is(failed, consulexec.ErrTooFewNodes) != test.late:
				t.Errorf("result %v is ErrTooFewNodes: %v, want %v", failed, !test.late, test.late)
			case failed != nil && !test.late && strings.Contains(failed.Error(), "no response"):
				t.Errorf("result %v names a node that was passed over", failed)
			}
			for _, n := range result.Nodes {
				told := slices.Contains(rec.Calls, "no-response "+n.Node)
				if passedOver := n.State == consulexec.StateNoResponse; told != passedOver {
					t.Errorf("%s is %v, and OnNoResponse was called: %v", n.Node, n.State, told)
				}
				if ran := n.Node != "z" && srv.Executions(n.Node) > 0; ran != !n.Acked.IsZero() {
					t.Errorf("%s is %v, and ran: %v", n.Node, n.State, ran)
				}
			}
		})
	}
}
