package test

import (
	"context"
	"flag"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/internal/accidents"
	"github.com/consulexec/consulexec/internal/devcluster"
	"github.com/consulexec/consulexec/internal/runtest"
)

// rounds has each accident happen several times, at random moments:
//
//	go test -count=1 -v -timeout 2h -run TestRecovery$ ./test -rounds 10
var rounds = flag.Int("rounds", 1, "how often each accident of TestRecovery happens: once a second after the command has started, the others at random")

// TestRecovery has accidents happen to runs with WithRecovery. All nodes are
// reported whole, whatever happens to Consul meanwhile. The agents share a
// TMPDIR, and in the end nothing is left in it.
func TestRecovery(t *testing.T) {
	needsConsul(t)
	for _, group := range accidents.Groups {
		t.Run("to "+group.Name, func(t *testing.T) {
			t.Parallel()
			tmp := t.TempDir()
			cluster := devcluster.Start(t, devcluster.Config{Nodes: accidents.Nodes(tmp)})
			for _, accident := range group.Accidents {
				t.Run(accident.Name, func(t *testing.T) {
					for i := range *rounds {
						after := time.Second
						if i > 0 {
							after = rand.N(9 * time.Second)
						}
						happen(t, accident, cluster, after)
					}
				})
			}
			const lostTimeout = 15 * time.Second
			checkSwept(t, cluster, accidents.Patience+lostTimeout, tmp)
		})
	}
}

// happen has the accident happen to a run on five nodes, some time after the
// command has started on them. It checks that all are reported whole.
func happen(t *testing.T, accident accidents.Accident, cluster *devcluster.Cluster, after time.Duration) {
	p, count := newProxy(t, cluster.Address("client-1")), newSlowCount(t, accident.Restarts)
	rec := runtest.NewRecorder(t, cluster.Client("server-1"))
	rec.Reach = consulexec.WithClient(p.client(t))
	var happening sync.WaitGroup
	defer happening.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	happening.Go(func() {
		victim := &accidents.Victim{Cluster: cluster, Proxy: p.Proxy, Command: count.Command}
		if err := accident.Happen(ctx, victim, after); err != nil {
			t.Error(err)
		}
	})
	start := time.Now()
	result, err := rec.Run(ctx, count.Text, consulexec.WithRecovery(accident.Patience))
	t.Logf("%v after the last start: ended after %v, error %v: %s",
		after.Round(100*time.Millisecond), time.Since(start).Round(time.Second), err, runtest.States(result))
	if err != nil {
		t.Error(err)
	}
	recovered := count.check(t, result, 5)
	if accident.Recovers && recovered == 0 && *rounds == 1 {
		t.Error("no node was reached again: the accident did not happen to the run")
	}
}

// A slowCount is an accidents.Command with checks.
type slowCount struct{ *accidents.Command }

func newSlowCount(t *testing.T, restarts bool) slowCount {
	return slowCount{accidents.NewCommand(t.TempDir(), restarts)}
}

// whole returns how many nodes were reported whole.
func (c slowCount) whole(result *consulexec.Result) int {
	nodes := 0
	for _, n := range result.Nodes {
		if c.isWhole(n) {
			nodes++
		}
	}
	return nodes
}

func (c slowCount) isWhole(n consulexec.NodeResult) bool {
	return n.State == consulexec.StateExited && c.Whole(string(n.Output), n.ExitCode)
}

// ran returns how often the command was started.
func (c slowCount) ran(t *testing.T) int {
	t.Helper()
	started, err := c.Started()
	if err != nil {
		t.Error(err)
	}
	return started
}

// check checks that every node ran the command once and was reported whole. It
// returns how often nodes were reached again.
func (c slowCount) check(t *testing.T, result *consulexec.Result, nodes int) (recovered int) {
	t.Helper()
	if ran := c.ran(t); ran != nodes || len(result.Nodes) != nodes {
		t.Errorf("%d nodes ran the command, %d are in the result, want %d", ran, len(result.Nodes), nodes)
	}
	for _, n := range result.Nodes {
		if !c.isWhole(n) {
			t.Errorf("%s: %v, code %d, error %v, output %q", n.Node, n.State, n.ExitCode, n.Err, n.Output)
		}
		recovered += n.Recovered
	}
	return recovered
}
