package consulexec_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/internal/devcluster"
)

// The tests in this file show what real agents and servers do when things go
// wrong, which exectest can only imitate.

// realTest marks a test that needs a real Consul. It returns false where the
// tests are to do without.
func realTest(t *testing.T) bool {
	if testing.Short() {
		return false
	}
	t.Parallel()
	return true
}

// A tally is a command that counts on each node, slowly, and a file in which
// each node makes a mark when it starts.
type tally struct {
	file    string
	command string
	want    string
}

func newTally(t *testing.T, steps int) *tally {
	y := &tally{file: filepath.Join(t.TempDir(), "marks")}
	var want strings.Builder
	for i := range steps {
		fmt.Fprintln(&want, i)
	}
	y.command = fmt.Sprintf("echo x >>%s; i=0; while [ $i -lt %d ]; do echo $i; i=$((i+1)); sleep 0.1; done", y.file, steps)
	y.want = want.String()
	return y
}

// check sees to it that a result is the truth: what exited well printed all, in
// order; what did not is known to have failed; and no node ran twice.
func (y *tally) check(t *testing.T, result *consulexec.Result, nodes int) {
	t.Helper()
	marks, err := os.ReadFile(y.file)
	if err != nil && !errors.Is(err, os.ErrNotExist) { // where none ran it
		t.Error(err)
	}
	ran := strings.Count(string(marks), "x")
	if ran > nodes {
		t.Errorf("%d nodes ran the command %d times", nodes, ran)
	}
	exited := 0
	for _, n := range result.Nodes {
		switch {
		case n.State == consulexec.StateExited && n.ExitCode == 0:
			exited++
			if string(n.Output) != y.want {
				t.Errorf("%s exited well with output %q", n.Node, n.Output)
			}
		case n.State == consulexec.StateExited && n.ExitCode != 255: // its agent failed to write
			t.Errorf("%s exited with %d", n.Node, n.ExitCode)
		case !strings.HasPrefix(y.want, string(n.Output)):
			t.Errorf("%s is %v with output %q", n.Node, n.State, n.Output)
		case n.State == consulexec.StateRunning && result.Err() == nil:
			t.Errorf("%s still runs, and that is no error", n.Node)
		}
	}
	if ran < exited {
		t.Errorf("%d nodes exited well, %d ran the command", exited, ran)
	}
}

// fiveNodes is a cluster that survives the loss of a server. A server that was
// killed keeps its vote, so that the next one can be killed as soon as it is back.
func fiveNodes(t *testing.T) *devcluster.Cluster {
	nodes := devcluster.Nodes(3, 2)
	for i := range nodes[:3] {
		nodes[i].Config = `autopilot { cleanup_dead_servers = false }`
	}
	return devcluster.Start(t, devcluster.Config{Nodes: nodes})
}

// TestAgainAndAgain runs a short command many times, through each of three nodes in
// turn: every run has to wait for all of them, however soon the first one exits.
func TestAgainAndAgain(t *testing.T) {
	if !realTest(t) {
		return
	}
	cluster := devcluster.Start(t, devcluster.Config{Nodes: devcluster.Nodes(1, 2)})
	nodes := cluster.Nodes()
	for i := range 60 {
		_, result, err := execute(t, cluster.Client(nodes[i%len(nodes)]), "uptime")
		if got, want := states(result), "client-1: exit 0, client-2: exit 0, server-1: exit 0"; err != nil || got != want {
			t.Errorf("run %d: error %v, states %s", i, err, got)
		}
	}
}

// TestLeaderKilled kills the leader at several moments of a run.
func TestLeaderKilled(t *testing.T) {
	if !realTest(t) {
		return
	}
	cluster := fiveNodes(t)
	for _, after := range []time.Duration{0, 300 * time.Millisecond, 1700 * time.Millisecond} {
		leader, err := cluster.Leader("")
		if err != nil {
			t.Fatal(err)
		}
		y := newTally(t, 50)
		rec := new(recorder)
		rec.hook = func(call string) {
			if call == "submit" {
				time.AfterFunc(after, func() {
					if err := cluster.Kill(leader); err != nil {
						t.Error(err)
					}
				})
			}
		}
		_, result, err := executeContext(t.Context(), t, cluster.Client("client-1"), rec, y.command, consulexec.WithLostTimeout(8*time.Second))
		if err != nil {
			t.Errorf("killed after %v: %v", after, err)
		}
		t.Logf("killed %s after %v: %s", leader, after, states(result))
		y.check(t, result, 5)
		if n, ok := result.Node(leader); !ok || n.State == consulexec.StateExited || result.Err() == nil {
			t.Errorf("killed after %v: the leader is %v", after, n.State)
		}
		if err := cluster.Restart(leader); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLeaderLeaves has the leader hand over and leave in the midst of a run.
func TestLeaderLeaves(t *testing.T) {
	if !realTest(t) {
		return
	}
	cluster := fiveNodes(t)
	leader, err := cluster.Leader("")
	if err != nil {
		t.Fatal(err)
	}
	var leaving sync.WaitGroup
	defer leaving.Wait()
	y := newTally(t, 60)
	rec := &recorder{hook: func(call string) {
		if call == "submit" {
			leaving.Go(func() {
				if err := cluster.Stop(leader); err != nil {
					t.Error(err)
				}
			})
		}
	}}
	_, result, err := executeContext(t.Context(), t, cluster.Client("client-1"), rec, y.command, consulexec.WithLostTimeout(8*time.Second))
	if err != nil {
		t.Error(err)
	}
	t.Log(states(result))
	y.check(t, result, 5)
}

// TestAgentRestarted kills the agent that the run goes through, and starts it
// again before the others take it for dead.
func TestAgentRestarted(t *testing.T) {
	if !realTest(t) {
		return
	}
	cluster := fiveNodes(t)
	y := newTally(t, 60)
	var restarting sync.WaitGroup
	defer restarting.Wait()
	rec := &recorder{hook: func(call string) {
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
	}}
	others := consulexec.WithNode("server|client-2")
	_, result, err := executeContext(t.Context(), t, cluster.Client("client-1"), rec, y.command, others)
	if err != nil || result.Err() != nil {
		t.Errorf("error %v, result %v", err, result.Err())
	}
	y.check(t, result, 4)
}

// TestNodeKilled kills a node that runs the command, and the node that holds the
// session.
func TestNodeKilled(t *testing.T) {
	if !realTest(t) {
		return
	}
	cluster := fiveNodes(t)
	t.Run("runs", func(t *testing.T) {
		start := time.Now()
		rec := new(recorder)
		acks := 0
		rec.hook = func(call string) {
			if strings.HasPrefix(call, "ack ") {
				acks++
			}
			if acks == 5 { // the event has come through, so that no gossip is lost
				acks = 0
				if err := cluster.Kill("client-2"); err != nil {
					t.Error(err)
				}
			}
		}
		_, result, err := executeContext(t.Context(), t, cluster.Client("client-1"), rec, "sleep 5", consulexec.WithWait(500*time.Millisecond), consulexec.WithLostTimeout(10*time.Second))
		if err != nil {
			t.Error(err)
		}
		if got, want := states(result), "client-1: exit 0, client-2: lost, server-1: exit 0, server-2: exit 0, server-3: exit 0"; got != want {
			t.Errorf("states %s, want %s", got, want)
		}
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("took %v", took)
		}
		t.Log(result.Err())
	})
	t.Run("holds the session", func(t *testing.T) {
		// As behind a load balancer: the session is bound to the agent that made
		// it, and the requests then go to another.
		p := newProxy(t, cluster.Address("client-1"))
		rec := &recorder{t: t}
		rec.hook = func(call string) {
			if call == "ack server-1" {
				p.retarget(cluster.Address("server-1"))
				if err := cluster.Kill("client-1"); err != nil {
					t.Error(err)
				}
			}
		}
		e, err := consulexec.New("sleep 60", append(rec.options(), consulexec.WithClient(p.client(t)), consulexec.WithNode("server-1"))...)
		if err != nil {
			t.Fatal(err)
		}
		result, err := e.Run(t.Context())
		ended := time.Now()
		rec.check(err)
		if !errors.Is(err, consulexec.ErrSessionLost) || states(result) != "server-1: running" {
			t.Errorf("error %v, states %s", err, states(result))
		}
		checks, _, err := cluster.Client("server-1").Health().Node("client-1", nil)
		if err != nil || checks.AggregatedStatus() != api.HealthCritical {
			t.Errorf("error %v, but the node is %s, error %v", err, checks.AggregatedStatus(), err)
		}
		t.Logf("ended after %v", ended.Sub(result.Nodes[0].Acked))
		checkNothingLeft(t, cluster.Client("server-1"), e, result)
	})
}

// A proxy stands between a client and an agent, and misbehaves when told.
type proxy struct {
	listener net.Listener

	mu     sync.Mutex // guards the rest
	target string
	conns  map[net.Conn]bool
	silent chan struct{} // closed while what is sent gets through
}

func newProxy(t *testing.T, target string) *proxy {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener, target: target, conns: make(map[net.Conn]bool), silent: make(chan struct{})}
	close(p.silent)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { p.serve(conn) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		p.cut()
		p.speak()
		serving.Wait()
	})
	return p
}

func (p *proxy) client(t *testing.T) *api.Client {
	client, err := api.NewClient(&api.Config{Address: p.listener.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func (p *proxy) serve(conn net.Conn) {
	defer conn.Close()
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	upstream, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer upstream.Close()
	p.mu.Lock()
	p.conns[conn], p.conns[upstream] = true, true
	p.mu.Unlock()
	var copying sync.WaitGroup
	pass := func(to, from net.Conn) {
		defer to.Close()
		buf := make([]byte, 32<<10)
		for {
			n, err := from.Read(buf)
			p.mu.Lock()
			silent := p.silent
			p.mu.Unlock()
			<-silent
			if n > 0 {
				if _, err := to.Write(buf[:n]); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}
	copying.Go(func() { pass(upstream, conn) })
	copying.Go(func() { pass(conn, upstream) })
	copying.Wait()
	p.mu.Lock()
	delete(p.conns, conn)
	delete(p.conns, upstream)
	p.mu.Unlock()
}

// retarget leads new connections to another agent, and cuts the old ones.
func (p *proxy) retarget(target string) {
	p.mu.Lock()
	p.target = target
	p.mu.Unlock()
	p.cut()
}

// cut closes every connection.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		conn.Close()
	}
}

// hush lets nothing through any more, of old connections and new ones, until
// speak.
func (p *proxy) hush() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = make(chan struct{})
}

func (p *proxy) speak() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.silent:
	default:
		close(p.silent)
	}
}

// TestConnection has the connections to Consul cut, again and again, and fall
// silent.
func TestConnection(t *testing.T) {
	if !realTest(t) {
		return
	}
	cluster := devcluster.Start(t, devcluster.Config{Nodes: devcluster.Nodes(1, 2)})
	for name, trouble := range map[string]func(ctx context.Context, p *proxy){
		"cut": func(ctx context.Context, p *proxy) {
			for ctx.Err() == nil {
				p.cut()
				pause(ctx, 200*time.Millisecond)
			}
		},
		"silent": func(ctx context.Context, p *proxy) {
			pause(ctx, time.Second)
			p.hush()
			pause(ctx, 6*time.Second)
			p.cut() // what was under way stays without an answer
			p.speak()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProxy(t, cluster.Address("client-1"))
			ctx, cancel := context.WithCancel(t.Context())
			var troubling sync.WaitGroup
			defer troubling.Wait()
			defer cancel()
			rec := &recorder{t: t}
			rec.hook = func(call string) {
				if call == "submit" {
					troubling.Go(func() { trouble(ctx, p) })
				}
				if call == "done" {
					cancel()
				}
			}
			y := newTally(t, 50)
			client := p.client(t)
			e, err := consulexec.New(y.command, append(rec.options(), consulexec.WithClient(client), consulexec.WithCapture(1<<20))...)
			if err != nil {
				t.Fatal(err)
			}
			result, err := e.Run(t.Context())
			rec.check(err)
			if err != nil || result.Err() != nil {
				t.Errorf("error %v, result %v", err, result.Err())
			}
			y.check(t, result, 3)
			checkNothingLeft(t, cluster.Client("server-1"), e, result)
		})
	}
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// policy is what the README asks a run's token to be allowed.
const policy = `
session_prefix ""        { policy = "write" }
key_prefix     "_rexec/" { policy = "write" }
event          "_rexec"  { policy = "write" }
`

const catalogPolicy = `
node_prefix    ""        { policy = "read" }
service_prefix ""        { policy = "read" }
`

// TestACL runs with tokens that may do what they need, and with tokens that lack
// one permission each.
func TestACL(t *testing.T) {
	if !realTest(t) {
		return
	}
	nodes := devcluster.Nodes(1, 2)
	nodes[1].Services = []devcluster.Service{{ID: "web-1", Name: "web", Tags: []string{"v1"}}}
	nodes[2].AgentPolicy = `key_prefix "_rexec/" { policy = "deny" }` // never acks
	cluster := devcluster.Start(t, devcluster.Config{Nodes: nodes, ACL: true})
	command := func(t *testing.T, command, rules string, options ...consulexec.Option) (*consulexec.Result, error) {
		t.Helper()
		token, err := cluster.Token(rules)
		if err != nil {
			t.Fatal(err)
		}
		config := &api.Config{Address: cluster.Address("client-1"), Token: token}
		rec := &recorder{t: t}
		e, err := consulexec.New(command, append(append(rec.options(), consulexec.WithConfig(config), consulexec.WithCapture(100)), options...)...)
		if err != nil {
			t.Fatal(err)
		}
		result, err := e.Run(t.Context())
		rec.check(err)
		checkNothingLeft(t, cluster.Client("server-1"), e, result)
		return result, err
	}
	run := func(t *testing.T, rules string, options ...consulexec.Option) (*consulexec.Result, error) {
		t.Helper()
		return command(t, "true", rules, options...)
	}
	const allButOne = "client-1: exit 0, client-2: no response, server-1: exit 0"

	t.Run("enough", func(t *testing.T) {
		t.Parallel()
		result, err := run(t, policy+catalogPolicy)
		if err != nil || result.DiscoveryErr != nil || states(result) != allButOne {
			t.Errorf("error %v, discovery %v, states %s", err, result.DiscoveryErr, states(result))
		}
	})
	t.Run("much output", func(t *testing.T) {
		t.Parallel()
		var log bytes.Buffer
		logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		result, err := command(t, "seq 60000; sleep 1; seq 60000", policy+catalogPolicy, consulexec.WithNode("-1$"), consulexec.WithLogger(logger))
		if err != nil || result.Err() != nil {
			t.Errorf("error %v, result %v", err, result.Err())
		}
		if !strings.Contains(log.String(), "deleted what was read") || strings.Contains(log.String(), "not deleted") {
			t.Errorf("nothing was deleted, or not all:\n%s", &log)
		}
	})
	t.Run("one service", func(t *testing.T) {
		t.Parallel()
		result, err := run(t, policy+catalogPolicy, consulexec.WithService("web"), consulexec.WithTag("v1"))
		if err != nil || result.DiscoveryErr != nil || states(result) != "client-1: exit 0" {
			t.Errorf("error %v, discovery %v, states %s", err, result.DiscoveryErr, states(result))
		}
	})
	t.Run("nodes but no services", func(t *testing.T) {
		t.Parallel()
		result, err := run(t, policy+`node_prefix "" { policy = "read" }`)
		if err != nil || result.DiscoveryErr != nil || states(result) != allButOne {
			t.Errorf("error %v, discovery %v, states %s", err, result.DiscoveryErr, states(result))
		}
	})
	t.Run("session on one node", func(t *testing.T) {
		t.Parallel()
		result, err := run(t, strings.Replace(policy, `session_prefix ""`, `session "client-1"`, 1)+catalogPolicy)
		if err != nil || states(result) != allButOne {
			t.Errorf("error %v, states %s", err, states(result))
		}
	})
	for name, rules := range map[string]string{
		"no catalog":     policy,
		"no nodes":       policy + `service_prefix "" { policy = "read" }`,
		"some nodes":     policy + `node "client-1" { policy = "read" } service_prefix "" { policy = "read" }`,
		"their services": policy + `node "client-1" { policy = "read" } service "web" { policy = "read" }`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			options := []consulexec.Option{}
			want := "client-1: exit 0, server-1: exit 0"
			if name == "their services" {
				options = append(options, consulexec.WithService("web"))
				want = "client-1: exit 0"
			}
			result, err := run(t, rules, options...)
			if name == "some nodes" && !saysFiltered(t, cluster) {
				if err != nil || result.DiscoveryErr != nil || len(result.Nodes) == 0 {
					t.Errorf("error %v, discovery %v", err, result.DiscoveryErr)
				}
				return // the nodes that it sees are all that it knows of
			}
			if err != nil || states(result) != want {
				t.Errorf("error %v, states %s", err, states(result))
			}
			if !errors.Is(result.DiscoveryErr, consulexec.ErrPermissionDenied) {
				t.Errorf("discovery: %v", result.DiscoveryErr)
			}
		})
	}
	for lack, want := range map[string]string{
		"session_prefix": "session:write on the agent's node",
		"key_prefix":     "key:write on _rexec/",
		"event":          `event:write on "_rexec"`,
	} {
		t.Run("without "+lack, func(t *testing.T) {
			t.Parallel()
			var rules []string
			for rule := range strings.Lines(policy + catalogPolicy) {
				if !strings.HasPrefix(rule, lack) {
					rules = append(rules, rule)
				}
			}
			result, err := run(t, strings.Join(rules, ""))
			if !errors.Is(err, consulexec.ErrPermissionDenied) || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v", err)
			}
			for _, n := range result.Nodes {
				if n.State != consulexec.StateSkipped {
					t.Errorf("%s is %v", n.Node, n.State)
				}
			}
		})
	}
	t.Run("no such token", func(t *testing.T) {
		t.Parallel()
		config := &api.Config{Address: cluster.Address("client-1"), Token: "11111111-2222-3333-4444-555555555555"}
		e, err := consulexec.New("true", consulexec.WithConfig(config))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Run(t.Context()); !errors.Is(err, consulexec.ErrPermissionDenied) {
			t.Errorf("error %v", err)
		}
	})
}

// saysFiltered tells whether this Consul says in its answers that it left
// something out, as versions from 1.11 on do.
func saysFiltered(t *testing.T, cluster *devcluster.Cluster) bool {
	self, err := cluster.Client("server-1").Agent().Self()
	if err != nil {
		t.Fatal(err)
	}
	version := self["Config"]["Version"].(string)
	return !strings.HasPrefix(version, "1.8.") && !strings.HasPrefix(version, "1.9.") && !strings.HasPrefix(version, "1.10.")
}

// TestClientAgent runs in another datacenter through a client agent, which newer
// versions refuse; the error has to say what is the matter.
func TestClientAgent(t *testing.T) {
	if !realTest(t) {
		return
	}
	cluster := devcluster.Start(t, devcluster.Config{Nodes: append(devcluster.Nodes(1, 1), devcluster.NodesIn("dc2", 1, 0)...)})
	_, result, err := execute(t, cluster.Client("client-1"), "true", consulexec.WithDatacenter("dc2"))
	switch {
	case err == nil:
		if states(result) != "dc2-server-1: exit 0" {
			t.Errorf("states %s", states(result))
		}
	case !strings.Contains(err.Error(), `"dc2"`) || !strings.Contains(err.Error(), "server agent"):
		t.Error(err)
	}
	if err := cluster.Kill("dc2-server-1"); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	_, _, err = executeIn(t, cluster.Client("server-1"), "dc1", "true", consulexec.WithDatacenter("dc2"))
	if err == nil || !strings.Contains(err.Error(), `"dc2"`) {
		t.Errorf("without servers in dc2: %v", err)
	}
	if took := time.Since(start); took > 40*time.Second {
		t.Errorf("took %v", took)
	}
}

// executeIn is execute where only one datacenter can be asked what is left.
func executeIn(t *testing.T, client *api.Client, dc, command string, options ...consulexec.Option) (*recorder, *consulexec.Result, error) {
	t.Helper()
	rec := &recorder{t: t}
	e, err := consulexec.New(command, append(append(rec.options(), consulexec.WithClient(client)), options...)...)
	if err != nil {
		t.Fatal(err)
	}
	result, err := e.Run(t.Context())
	rec.check(err)
	checkNothingLeftIn(t, client, dc, e, result)
	return rec, result, err
}

const killAddress = "CONSULEXEC_TEST_KILL_AT"

// TestProcessKilled kills a program in the midst of a run. Consul is to remove
// what it held, within twice the TTL.
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
	if !realTest(t) {
		return
	}
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
		if time.Since(killed) > 40*time.Second { // 30 s, and what Consul takes to notice
			t.Fatalf("left behind: %v, %v", sessions, keys)
		}
	}
	t.Logf("gone after %v", time.Since(killed))
}
