package test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/internal/accidents"
	"github.com/consulexec/consulexec/internal/devcluster"
	"github.com/consulexec/consulexec/internal/runtest"
)

// startFive starts a cluster that survives the loss of a server.
func startFive(t *testing.T) *devcluster.Cluster {
	return devcluster.Start(t, devcluster.Config{Nodes: accidents.Nodes(os.TempDir())})
}

// TestLeaderKilled kills the leader at several moments of a run.
func TestLeaderKilled(t *testing.T) {
	needsConsul(t)
	cluster := startFive(t)
	for _, after := range []time.Duration{0, 300 * time.Millisecond, 1700 * time.Millisecond} {
		leader, err := cluster.Leader("")
		if err != nil {
			t.Fatal(err)
		}
		y := newTally(t, 50)
		rec := runtest.NewRecorder(t, cluster.Client("client-1"))
		rec.Hook = func(call string) {
			if call == "submit" {
				time.AfterFunc(after, func() {
					if err := cluster.Kill(leader); err != nil {
						t.Error(err)
					}
				})
			}
		}
		result, err := rec.Run(t.Context(), y.command, consulexec.WithLostTimeout(8*time.Second))
		if err != nil {
			t.Errorf("killed after %v: error %v", after, err)
		}
		t.Logf("killed %s after %v: %s", leader, after, runtest.States(result))
		y.check(t, result, 5)
		if n, ok := result.Node(leader); !ok || n.State == consulexec.StateExited || result.Err() == nil {
			t.Errorf("killed after %v: the leader is %v", after, n.State)
		}
		if err := cluster.Restart(leader); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLeaderLeaves stops the leader cleanly during a run.
func TestLeaderLeaves(t *testing.T) {
	needsConsul(t)
	cluster := startFive(t)
	leader, err := cluster.Leader("")
	if err != nil {
		t.Fatal(err)
	}
	var leaving sync.WaitGroup
	defer leaving.Wait()
	y := newTally(t, 60)
	rec := runtest.NewRecorder(t, cluster.Client("client-1"))
	rec.Hook = func(call string) {
		if call == "submit" {
			leaving.Go(func() {
				if err := cluster.Stop(leader); err != nil {
					t.Error(err)
				}
			})
		}
	}
	result, err := rec.Run(t.Context(), y.command, consulexec.WithLostTimeout(8*time.Second))
	if err != nil {
		t.Error(err)
	}
	t.Log(runtest.States(result))
	y.check(t, result, 5)
}

// TestAgentRestarted kills the agent that serves the run, and starts it again
// before gossip reports it as failed.
func TestAgentRestarted(t *testing.T) {
	needsConsul(t)
	cluster := startFive(t)
	y := newTally(t, 60)
	var restarting sync.WaitGroup
	defer restarting.Wait()
	rec := runtest.NewRecorder(t, cluster.Client("client-1"))
	rec.Hook = func(call string) {
		if call == "ack server-1" {
			restarting.Go(func() {
				if err := cluster.Kill("client-1"); err != nil {
					t.Error(err)
				}
				if err := cluster.Restart("client-1"); err != nil {
					t.Error(err)
				}
			})
		}
	}
	others := consulexec.WithNode("server|client-2")
	result, err := rec.Run(t.Context(), y.command, others)
	if err != nil || result.Err() != nil {
		t.Errorf("error %v, result %v", err, result.Err())
	}
	y.check(t, result, 4)
}

// TestNodeKilled kills a node that runs the command, and the node that holds
// the session.
func TestNodeKilled(t *testing.T) {
	needsConsul(t)
	cluster := startFive(t)
	t.Run("runs", func(t *testing.T) {
		start := time.Now()
		rec := runtest.NewRecorder(t, cluster.Client("client-1"))
		acks := 0
		rec.Hook = func(call string) {
			if strings.HasPrefix(call, "ack ") {
				acks++
			}
			if acks == 5 { // not before: the node may still have to pass the event on
				acks = 0
				if err := cluster.Kill("client-2"); err != nil {
					t.Error(err)
				}
			}
		}
		result, err := rec.Run(t.Context(), "sleep 5", consulexec.WithWait(500*time.Millisecond), consulexec.WithLostTimeout(10*time.Second))
		if err != nil {
			t.Error(err)
		}
		if got, want := runtest.States(result), "client-1: exit 0, client-2: lost, server-1: exit 0, server-2: exit 0, server-3: exit 0"; got != want {
			t.Errorf("states %s, want %s", got, want)
		}
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("took %v, want at most 20s", took)
		}
		t.Log(result.Err())
	})
	t.Run("holds the session", func(t *testing.T) {
		// As behind a load balancer: the session is bound to the agent that
		// created it, and the requests then go to another agent.
		p := newProxy(t, cluster.Address("client-1"))
		rec := runtest.NewRecorder(t, cluster.Client("server-1"))
		rec.Reach = consulexec.WithClient(p.client(t))
		rec.Hook = func(call string) {
			if call == "ack server-1" {
				p.Retarget(cluster.Address("server-1"))
				if err := cluster.Kill("client-1"); err != nil {
					t.Error(err)
				}
			}
		}
		// Gossip among so few agents may miss server-1; anti-entropy then
		// brings the event within half a minute. The session has no checks, so
		// it goes on while the run renews it.
		result, err := rec.Run(t.Context(), "sleep 20", consulexec.WithNode("server-1"), consulexec.WithAckTimeout(time.Minute))
		if err != nil || runtest.States(result) != "server-1: exit 0" {
			t.Errorf("error %v, states %s", err, runtest.States(result))
		}
		checks, _, err := cluster.Client("server-1").Health().Node("client-1", nil)
		if err != nil || checks.AggregatedStatus() != api.HealthCritical {
			t.Errorf("client-1 is %s, error %v, want critical", checks.AggregatedStatus(), err)
		}
	})
}

const killAddress = "CONSULEXEC_TEST_KILL_AT"

// TestProcessKilled kills a program during a run. Consul removes its session
// and its keys within twice the TTL.
func TestProcessKilled(t *testing.T) {
	if address := os.Getenv(killAddress); address != "" {
		e, err := consulexec.New("sleep 300", consulexec.WithConfig(&api.Config{Address: address}),
			consulexec.OnAck(func(string) { fmt.Println("acked") }))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = e.Run(t.Context())
		return
	}
	needsConsul(t)
	cluster := devcluster.Start(t, devcluster.Config{Nodes: devcluster.Nodes(1, 0)})
	program := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestProcessKilled$")
	program.Env = append(os.Environ(), killAddress+"="+cluster.Address("server-1"))
	stdout, err := program.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(stdout, make([]byte, len("acked"))); err != nil {
		t.Fatal(err)
	}
	if err := program.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = program.Wait()
	killed := time.Now()
	for client := cluster.Client("server-1"); ; pause(t.Context(), 500*time.Millisecond) {
		sessions, _, err := client.Session().List(nil)
		if err != nil {
			t.Fatal(err)
		}
		keys, _, err := client.KV().Keys("_rexec/", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(sessions)+len(keys) == 0 {
			break
		}
		if time.Since(killed) > 40*time.Second { // twice the TTL, and some time for Consul
			t.Fatalf("sessions %v and keys %v are left", sessions, keys)
		}
	}
	t.Logf("session and keys are gone after %v", time.Since(killed))
}
