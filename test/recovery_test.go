package test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/internal/devcluster"
	"github.com/consulexec/consulexec/internal/runtest"
)

// recovery switches WithRecovery off, to see what accidents do without it:
//
//	go test -count=1 -v -run TestRecovery ./test -recovery=false
var recovery = flag.Bool("recovery", true, "whether the runs of TestRecovery use WithRecovery; without it nothing is checked")

// TestRecovery has accidents happen to runs with WithRecovery. All nodes are
// reported whole, whatever happens to Consul meanwhile.
func TestRecovery(t *testing.T) {
	needsConsul(t)
	cluster := fiveNodes(t, "TMPDIR="+t.TempDir())
	restart := func(t *testing.T, stop func(string) error, node string, pause time.Duration) {
		if err := stop(node); err != nil {
			t.Error(err)
		}
		time.Sleep(pause)
		if err := cluster.Restart(node); err != nil {
			t.Error(err)
		}
	}
	leader := func(t *testing.T) string {
		name, err := cluster.Leader("")
		if err != nil {
			t.Error(err)
		}
		return name
	}
	for _, test := range []struct {
		name     string
		accident func(t *testing.T, session string, p *proxy)
		recovers bool // at least one node is reached again
	}{
		{"the leader is killed", func(t *testing.T, _ string, _ *proxy) {
			restart(t, cluster.Kill, leader(t), 3*time.Second)
		}, true},
		{"the leader is stopped", func(t *testing.T, _ string, _ *proxy) {
			restart(t, cluster.Stop, leader(t), 0)
		}, true},
		{"every agent is killed and started", func(t *testing.T, _ string, _ *proxy) {
			for _, name := range cluster.Nodes() {
				restart(t, cluster.Kill, name, 0)
			}
		}, true},
		{"a client leaves and comes back", func(t *testing.T, _ string, _ *proxy) {
			restart(t, cluster.Stop, "client-2", time.Second)
		}, true},
		{"the session's agent leaves and comes back", func(t *testing.T, _ string, _ *proxy) {
			restart(t, cluster.Stop, "client-1", time.Second)
		}, true},
		{"the session is destroyed", func(t *testing.T, session string, _ *proxy) {
			if _, err := cluster.Client("server-1").Session().Destroy(session, nil); err != nil {
				t.Error(err)
			}
		}, true},
		{"the prefix is deleted", func(t *testing.T, session string, _ *proxy) {
			if _, err := cluster.Client("server-1").KV().DeleteTree("_rexec/", nil); err != nil {
				t.Error(err)
			}
		}, false},
		{"the client is cut off", func(t *testing.T, _ string, p *proxy) {
			p.hush()
			time.Sleep(time.Minute)
			p.speak()
		}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newProxy(t, cluster.Address("client-1"))
			rec := runtest.NewRecorder(t, cluster.Client("server-1"))
			rec.Reach = consulexec.WithClient(p.client(t))
			c := newSlowCount(t)
			var accident sync.WaitGroup
			defer accident.Wait()
			acks := 0
			rec.Hook = func(call string) {
				if strings.HasPrefix(call, "ack ") {
					acks++
				}
				if acks == 5 {
					acks = 0
					session := sessionOf(t, cluster)
					accident.Go(func() {
						time.Sleep(time.Second)
						test.accident(t, session, p)
					})
				}
			}
			start := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			var options []consulexec.Option
			if *recovery {
				options = append(options, consulexec.WithRecovery(2*time.Minute))
			}
			result, err := rec.Run(ctx, c.command, options...)
			t.Logf("%d of 5 whole after %v, error %v: %s", c.whole(result), time.Since(start).Round(time.Second), err, runtest.States(result))
			if !*recovery {
				return
			}
			if err != nil {
				t.Error(err)
			}
			recovered := c.check(t, result, 5)
			t.Log("recovered", recovered)
			if test.recovers && recovered == 0 {
				t.Error("no node was reached again: the accident did not happen to the run")
			}
		})
	}
}

// sessionOf returns the ID of the only session.
func sessionOf(t *testing.T, cluster *devcluster.Cluster) string {
	sessions, _, err := cluster.Client("server-1").Session().List(nil)
	if err != nil || len(sessions) == 0 {
		t.Errorf("%d sessions, error %v", len(sessions), err)
		return ""
	}
	return sessions[0].ID
}

// A slowCount is a command that prints twice a second for ten, and exits with 7.
type slowCount struct{ file, command, want string }

func newSlowCount(t *testing.T) *slowCount {
	c := &slowCount{file: filepath.Join(t.TempDir(), "marks")}
	for i := range 20 {
		c.want += fmt.Sprintf("line %d\n", i)
	}
	c.command = fmt.Sprintf("echo x >>%s; i=0; while [ $i -lt 20 ]; do echo line $i; i=$((i+1)); sleep 0.5; done; exit 7", c.file)
	return c
}

// whole returns how many nodes were reported whole.
func (c *slowCount) whole(result *consulexec.Result) int {
	nodes := 0
	for _, n := range result.Nodes {
		if n.State == consulexec.StateExited && n.ExitCode == 7 && string(n.Output) == c.want {
			nodes++
		}
	}
	return nodes
}

// check checks that every node ran the command once and was reported whole. It
// returns how often nodes were reached again.
func (c *slowCount) check(t *testing.T, result *consulexec.Result, nodes int) (recovered int) {
	t.Helper()
	marks, err := os.ReadFile(c.file)
	if err != nil {
		t.Error(err)
	}
	if ran := strings.Count(string(marks), "x"); ran != nodes || len(result.Nodes) != nodes {
		t.Errorf("%d nodes ran the command, %d are in the result, want %d", ran, len(result.Nodes), nodes)
	}
	for _, n := range result.Nodes {
		if n.State != consulexec.StateExited || n.ExitCode != 7 || string(n.Output) != c.want {
			t.Errorf("%s: %v, code %d, error %v, output %q", n.Node, n.State, n.ExitCode, n.Err, n.Output)
		}
		recovered += n.Recovered
	}
	return recovered
}
