package test

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
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

// recovery switches WithRecovery off, to see what accidents do without it, and
// rounds has each accident happen several times, at random moments:
//
//	go test -count=1 -v -run TestRecovery$ ./test -recovery=false
//	go test -count=1 -v -timeout 2h -run TestRecovery$ ./test -rounds 10
var (
	recovery = flag.Bool("recovery", true, "whether the runs of TestRecovery use WithRecovery; without it nothing is checked")
	rounds   = flag.Int("rounds", 1, "how often each accident of TestRecovery happens: once a second after the last ack, the others at random")
)

// An accident happens to a run.
type accident struct {
	name     string
	happen   func(t *testing.T, run *unlucky)
	recovers bool          // at least one node is reached again
	restarts bool          // the command has its agent restarted, and waits for that
	patience time.Duration // patience if 0
}

// An unlucky run has an accident.
type unlucky struct {
	cluster *devcluster.Cluster
	proxy   *proxy     // between the run and client-1
	count   *slowCount // its command
}

// end ends an agent in some way, and starts it again after a pause.
func (u *unlucky) restart(t *testing.T, end func(node string) error, node string, pause time.Duration) {
	if err := end(node); err != nil {
		t.Error(err)
	}
	time.Sleep(pause)
	if err := u.cluster.Restart(node); err != nil {
		t.Error(err)
	}
}

// leader returns the name of the leader, which may just be elected.
func (u *unlucky) leader(t *testing.T) string {
	name, err := u.cluster.Leader("")
	for deadline := time.Now().Add(time.Minute); err != nil && time.Now().Before(deadline); name, err = u.cluster.Leader("") {
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil {
		t.Error(err)
	}
	return name
}

// These accidents are for one cluster each.
var (
	toServers = []accident{
		{name: "the leader is killed", recovers: true, happen: func(t *testing.T, u *unlucky) {
			u.restart(t, u.cluster.Kill, u.leader(t), 3*time.Second)
		}},
		{name: "the leader leaves", recovers: true, happen: func(t *testing.T, u *unlucky) {
			u.restart(t, u.cluster.Stop, u.leader(t), 0)
		}},
		{name: "the leader is terminated", happen: func(t *testing.T, u *unlucky) {
			u.restart(t, u.cluster.Terminate, u.leader(t), 0)
		}},
		{name: "every server is terminated and started", recovers: true, happen: func(t *testing.T, u *unlucky) {
			for _, name := range []string{"server-1", "server-2", "server-3"} {
				u.restart(t, u.cluster.Terminate, name, 0)
			}
		}},
		{name: "every agent is killed and started", recovers: true, happen: func(t *testing.T, u *unlucky) {
			for _, name := range u.cluster.Nodes() {
				u.restart(t, u.cluster.Kill, name, 0)
			}
		}},
	}
	toClients = []accident{
		{name: "a client is terminated and started", recovers: true, happen: func(t *testing.T, u *unlucky) {
			u.restart(t, u.cluster.Terminate, "client-2", time.Second)
		}},
		{name: "the session's agent is terminated and started", recovers: true, happen: func(t *testing.T, u *unlucky) {
			u.restart(t, u.cluster.Terminate, "client-1", time.Second)
		}},
		{name: "the command has its agent restarted", recovers: true, restarts: true, happen: func(t *testing.T, u *unlucky) {
			u.count.restartAgents(t, func(node string) { u.restart(t, u.cluster.Terminate, node, 0) })
		}},
	}
	toSessions = []accident{
		{name: "the client is cut off", recovers: true, patience: 2 * patience, happen: func(t *testing.T, u *unlucky) {
			u.proxy.hush()
			time.Sleep(time.Minute)
			u.proxy.speak()
		}},
		{name: "the session is destroyed", recovers: true, happen: func(t *testing.T, u *unlucky) {
			destroySessions(t, u.cluster)
		}},
		{name: "the prefix is deleted", happen: func(t *testing.T, u *unlucky) {
			if _, err := u.cluster.Client("server-1").KV().DeleteTree("_rexec/", nil); err != nil {
				t.Error(err)
			}
		}},
	}
)

// TestRecovery has accidents happen to runs with WithRecovery. All nodes are
// reported whole, whatever happens to Consul meanwhile. The agents share a
// TMPDIR, and in the end nothing is left in it.
func TestRecovery(t *testing.T) {
	needsConsul(t)
	for to, accidents := range map[string][]accident{"servers": toServers, "clients": toClients, "sessions": toSessions} {
		t.Run("to "+to, func(t *testing.T) {
			t.Parallel()
			tmp := t.TempDir()
			nodes := fiveNodes()
			for i := range nodes {
				nodes[i].Env = []string{"TMPDIR=" + tmp, "NODE=" + nodes[i].Name}
			}
			cluster := devcluster.Start(t, devcluster.Config{Nodes: nodes})
			for _, accident := range accidents {
				t.Run(accident.name, func(t *testing.T) {
					whole := 0
					for i := range *rounds {
						after := time.Second
						if i > 0 {
							after = rand.N(9 * time.Second)
						}
						whole += accident.run(t, cluster, after)
					}
					t.Logf("whole: %d of %d", whole, 5**rounds)
				})
			}
			const lostTimeout = 15 * time.Second
			checkSwept(t, cluster, patience+lostTimeout, tmp)
		})
	}
}

// patience is for how long a node may be out of reach in most of the runs.
const patience = 45 * time.Second

// run has the accident happen to a run on five nodes, some time after the last
// ack. It returns how many of them are reported whole.
func (a *accident) run(t *testing.T, cluster *devcluster.Cluster, after time.Duration) (whole int) {
	u := &unlucky{cluster, newProxy(t, cluster.Address("client-1")), newSlowCount(t, a.restarts)}
	rec := runtest.NewRecorder(t, cluster.Client("server-1"))
	rec.Reach = consulexec.WithClient(u.proxy.client(t))
	var happening sync.WaitGroup
	defer happening.Wait()
	acks := 0
	rec.Hook = func(call string) {
		if strings.HasPrefix(call, "ack ") {
			if acks++; acks == 5 {
				happening.Go(func() {
					time.Sleep(after)
					a.happen(t, u)
				})
			}
		}
	}
	start := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var options []consulexec.Option
	if *recovery {
		options = append(options, consulexec.WithRecovery(cmp.Or(a.patience, patience)))
	}
	result, err := rec.Run(ctx, u.count.command, options...)
	whole = u.count.whole(result)
	t.Logf("%v after the last ack: %d of 5 whole after %v, error %v: %s",
		after.Round(100*time.Millisecond), whole, time.Since(start).Round(time.Second), err, runtest.States(result))
	if !*recovery {
		return whole
	}
	if err != nil {
		t.Error(err)
	}
	recovered := u.count.check(t, result, 5)
	if a.recovers && recovered == 0 && *rounds == 1 {
		t.Error("no node was reached again: the accident did not happen to the run")
	}
	return whole
}

// destroySessions destroys all sessions.
func destroySessions(t *testing.T, cluster *devcluster.Cluster) {
	client := cluster.Client("server-1").Session()
	sessions, _, err := client.List(nil)
	if err != nil || len(sessions) == 0 {
		t.Errorf("%d sessions, error %v", len(sessions), err)
	}
	for _, s := range sessions {
		if _, err := client.Destroy(s.ID, nil); err != nil {
			t.Error(err)
		}
	}
}

// A slowCount is a command that prints twice a second for ten, and exits with 7.
type slowCount struct{ dir, command, want string }

// newSlowCount returns a slowCount. If it restarts its agent, it asks for that by
// a file, as by systemctl, and waits.
func newSlowCount(t *testing.T, restarts bool) *slowCount {
	c := &slowCount{dir: t.TempDir()}
	for i := range 20 {
		c.want += fmt.Sprintf("line %d\n", i)
	}
	restart := ":"
	if restarts {
		restart = fmt.Sprintf("[ $i != 5 ] || { r=%s/restart-$NODE; : >$r; while [ -e $r ]; do sleep 0.2; done; }", c.dir)
	}
	c.command = fmt.Sprintf("echo x >>%s/marks; i=0; while [ $i -lt 20 ]; do echo line $i; i=$((i+1)); %s; sleep 0.5; done; exit 7", c.dir, restart)
	return c
}

// restartAgents restarts the agents of five nodes whose commands ask for it.
func (c *slowCount) restartAgents(t *testing.T, restart func(node string)) {
	done := 0
	for deadline := time.Now().Add(2 * time.Minute); done < 5; time.Sleep(100 * time.Millisecond) {
		files, err := filepath.Glob(filepath.Join(c.dir, "restart-*"))
		if err != nil || time.Now().After(deadline) {
			t.Errorf("%d of 5 agents restarted, error %v", done, err)
			return
		}
		for _, file := range files {
			restart(strings.TrimPrefix(filepath.Base(file), "restart-"))
			if err := os.Remove(file); err != nil {
				t.Error(err)
			}
			done++
		}
	}
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

// ran returns how often the command was started.
func (c *slowCount) ran(t *testing.T) int {
	t.Helper()
	marks, err := os.ReadFile(filepath.Join(c.dir, "marks"))
	if err != nil {
		t.Error(err)
	}
	return strings.Count(string(marks), "x")
}

// check checks that every node ran the command once and was reported whole. It
// returns how often nodes were reached again.
func (c *slowCount) check(t *testing.T, result *consulexec.Result, nodes int) (recovered int) {
	t.Helper()
	if ran := c.ran(t); ran != nodes || len(result.Nodes) != nodes {
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
