package test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/internal/devcluster"
	"github.com/consulexec/consulexec/internal/runtest"
)

// nineNodes starts a cluster in which gossip misses a node now and then.
func nineNodes(t *testing.T) *devcluster.Cluster {
	return devcluster.Start(t, devcluster.Config{Nodes: devcluster.Nodes(3, 6)})
}

// checkAllOnce checks that each of n nodes exited with 0 and ran the command
// once.
func checkAllOnce(t *testing.T, y *tally, result *consulexec.Result, err error, n int) {
	t.Helper()
	if err != nil || result.Err() != nil || len(result.Nodes) != n {
		t.Errorf("error %v, result %v, states %s", err, result.Err(), runtest.States(result))
	}
	marks, err := os.ReadFile(y.file)
	if ran := strings.Count(string(marks), "x"); err != nil || ran != n {
		t.Errorf("%d nodes ran the command %d times, error %v", n, ran, err)
	}
}

// TestNobodyMissed makes many runs on a cluster in which gossip misses a node
// now and then. Each run is whole.
func TestNobodyMissed(t *testing.T) {
	needsConsul(t)
	cluster := nineNodes(t)
	for range 30 {
		y := newTally(t, 0)
		_, result, err := runtest.Execute(t, cluster.Client("client-1"), y.command)
		checkAllOnce(t, y, result, err, 9)
	}
	for range 3 {
		y := newTally(t, 0)
		_, result, err := runtest.Execute(t, cluster.Client("client-1"), y.command, consulexec.WithConcurrency(2), consulexec.WithMaxFailures(1))
		checkAllOnce(t, y, result, err, 9)
	}
}

// TestAgentPaused pauses the agent of a node for two seconds while the event is
// on its way. The node runs the command once.
func TestAgentPaused(t *testing.T) {
	needsConsul(t)
	cluster := nineNodes(t)
	for range 3 {
		if err := cluster.Pause("client-6"); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(2*time.Second, func() {
			if err := cluster.Resume("client-6"); err != nil {
				t.Error(err)
			}
		})
		y := newTally(t, 1)
		_, result, err := runtest.Execute(t, cluster.Client("client-1"), y.command)
		checkAllOnce(t, y, result, err, 9)
	}
}

// pausedUntilNoResponse pauses the agent of a node. When the run of the recorder
// reports that the node does not respond, the agent goes on.
func pausedUntilNoResponse(t *testing.T, cluster *devcluster.Cluster, node string) *runtest.Recorder {
	t.Helper()
	if err := cluster.Pause(node); err != nil {
		t.Fatal(err)
	}
	rec := runtest.NewRecorder(t, cluster.Client("client-1"))
	rec.Hook = func(call string) {
		if call == "no-response "+node {
			if err := cluster.Resume(node); err != nil {
				t.Error(err)
			}
		}
	}
	return rec
}

// TestNoResponseIsFinal has a node whose agent goes on after the node's ack
// timeout, and gets the events then. The node does not run the command, although
// the run goes on.
func TestNoResponseIsFinal(t *testing.T) {
	needsConsul(t)
	cluster := devcluster.Start(t, devcluster.Config{Nodes: devcluster.Nodes(1, 2)})
	rec := pausedUntilNoResponse(t, cluster, "client-2")
	y := newTally(t, 80)
	result, err := rec.Run(t.Context(), y.command, consulexec.WithAckTimeout(2500*time.Millisecond))
	if got, want := runtest.States(result), "client-1: exit 0, client-2: no response, server-1: exit 0"; err != nil || got != want {
		t.Errorf("error %v, states %s, want %s", err, got, want)
	}
	y.check(t, result, 2)
}

// TestLimitPassesOver runs on three nodes. The agent of one of the first is
// paused: the next node takes its place, and the command runs three times.
func TestLimitPassesOver(t *testing.T) {
	needsConsul(t)
	cluster := devcluster.Start(t, devcluster.Config{Nodes: devcluster.Nodes(1, 4)})
	rec := pausedUntilNoResponse(t, cluster, "client-2")
	y := newTally(t, 50)
	result, err := rec.Run(t.Context(), y.command, consulexec.WithLimit(3), consulexec.WithAckTimeout(2500*time.Millisecond))
	want := "client-1: exit 0, client-2: no response, client-3: exit 0, client-4: exit 0, server-1: skipped"
	if got := runtest.States(result); err != nil || result.Err() != nil || got != want {
		t.Errorf("error %v, result %v, states %s, want %s", err, result.Err(), got, want)
	}
	y.check(t, result, 3)
}

// manyNames is how many nodes TestManyNames has in the catalog.
var manyNames = flag.Int("names", 4000, "how many `nodes` TestManyNames has in the catalog")

// TestManyNames runs on thousands of nodes with random names, of which ten have
// an agent. Gossip carries the events to all ten.
func TestManyNames(t *testing.T) {
	needsConsul(t)
	random := rand.New(rand.NewPCG(1, 2))
	name := func() string {
		return fmt.Sprintf("ip-10-%d-%d-%d.%08x.internal", random.IntN(256), random.IntN(256), random.IntN(256), random.Uint32())
	}
	nodes := devcluster.Nodes(1, 9)
	for i := range nodes {
		nodes[i].Name = name()
	}
	cluster := devcluster.Start(t, devcluster.Config{Nodes: nodes})
	client := cluster.Client(nodes[1].Name)
	var names []string
	for range *manyNames - len(nodes) {
		names = append(names, name())
	}
	register(t, client, names)
	names = append(names, cluster.Nodes()...)

	y := newTally(t, 1)
	start := time.Now()
	_, result, err := runtest.Execute(t, client, y.command, consulexec.WithNodes(names...))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d names took %v", len(names), time.Since(start))
	for _, node := range cluster.Nodes() {
		if n, _ := result.Node(node); n.State != consulexec.StateExited {
			t.Errorf("%s is %v, error %v", node, n.State, n.Err)
		}
	}
	y.check(t, result, len(nodes))
}

// register puts nodes into the catalog that are alive but have no agent.
func register(t *testing.T, client *api.Client, names []string) {
	for group := range slices.Chunk(names, 60) {
		var ops []map[string]any
		for _, name := range group {
			ops = append(ops, map[string]any{"Node": map[string]any{"Verb": "set", "Node": map[string]string{"Node": name, "Address": "127.0.0.1"}}})
		}
		for _, name := range group {
			ops = append(ops, map[string]any{"Check": map[string]any{"Verb": "set", "Check": map[string]string{
				"Node": name, "CheckID": "serfHealth", "Name": "Serf Health Status", "Status": api.HealthPassing}}})
		}
		for half := range slices.Chunk(ops, 60) {
			if _, err := client.Raw().Write("/v1/txn", half, nil, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestLeaderPaused pauses the leader while the event goes out and the nodes
// acknowledge. Whatever becomes of each ack, no node runs the command twice, and
// none runs it that is not responding.
func TestLeaderPaused(t *testing.T) {
	needsConsul(t)
	cluster := startFive(t)
	for range 2 {
		leader, err := cluster.Leader("")
		if err != nil {
			t.Fatal(err)
		}
		y := newTally(t, 5)
		resumed := make(chan error, 1)
		rec := runtest.NewRecorder(t, cluster.Client("client-1"))
		rec.Hook = func(call string) {
			if call == "submit" {
				if err := cluster.Pause(leader); err != nil {
					t.Error(err)
				}
				time.AfterFunc(3*time.Second, func() { resumed <- cluster.Resume(leader) })
			}
		}
		result, err := rec.Run(t.Context(), y.command, consulexec.WithLostTimeout(8*time.Second))
		if err := <-resumed; err != nil {
			t.Error(err)
		}
		t.Logf("error %v, states %s", err, runtest.States(result))
		took := 0
		for _, n := range result.Nodes {
			if !n.Acked.IsZero() {
				took++
			}
		}
		y.check(t, result, took)
	}
}

// losing is a transport that loses Consul's answers to events.
type losing struct {
	http.RoundTripper
	left atomic.Int64 // how many answers more it loses
}

func (l *losing) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := l.RoundTripper.RoundTrip(r)
	if err != nil || !strings.HasPrefix(r.URL.Path, "/v1/event/") || l.left.Add(-1) < 0 {
		return answer, err
	}
	_, _ = io.Copy(io.Discard, answer.Body)
	answer.Body.Close()
	return nil, errors.New("the answer is lost")
}

// TestEventAnswerLost loses the answers to events that went out. Each node runs
// the command once.
func TestEventAnswerLost(t *testing.T) {
	needsConsul(t)
	cluster := devcluster.Start(t, devcluster.Config{Nodes: devcluster.Nodes(1, 4)})
	for _, lost := range []int64{1, 3} {
		transport := &losing{RoundTripper: http.DefaultTransport}
		transport.left.Store(lost)
		client, err := api.NewClient(&api.Config{Address: cluster.Address("client-1"), HttpClient: &http.Client{Transport: transport}})
		if err != nil {
			t.Fatal(err)
		}
		y := newTally(t, 1)
		_, result, err := runtest.Execute(t, client, y.command)
		checkAllOnce(t, y, result, err, 5)
	}
}

// limited is a transport that lets one request a second pass, and refuses the
// others as a server with rpc_rate = 1 does.
type limited struct {
	http.RoundTripper
	mu     sync.Mutex // guards the fields below
	next   time.Time
	passed int
}

func (l *limited) RoundTrip(r *http.Request) (*http.Response, error) {
	l.mu.Lock()
	pass := time.Now().After(l.next)
	if pass {
		l.next = time.Now().Add(time.Second)
		l.passed++
	}
	l.mu.Unlock()
	if pass {
		return l.RoundTripper.RoundTrip(r)
	}
	body := io.NopCloser(strings.NewReader("rate limit exceeded, try again later or against a different server"))
	return &http.Response{StatusCode: http.StatusInternalServerError, Header: make(http.Header), Body: body, Request: r}, nil
}

// TestRateLimited runs with one request a second, and with a node whose agent is
// paused for a while.
func TestRateLimited(t *testing.T) {
	needsConsul(t)
	cluster := devcluster.Start(t, devcluster.Config{Nodes: devcluster.Nodes(1, 2)})
	transport := &limited{RoundTripper: http.DefaultTransport}
	client, err := api.NewClient(&api.Config{Address: cluster.Address("client-1"), HttpClient: &http.Client{Transport: transport}})
	if err != nil {
		t.Fatal(err)
	}
	if err := cluster.Pause("client-2"); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(7*time.Second, func() {
		if err := cluster.Resume("client-2"); err != nil {
			t.Error(err)
		}
	})
	rec := runtest.NewRecorder(t, cluster.Client("client-1")) // which looks for what is left
	rec.Reach = consulexec.WithClient(client)
	y := newTally(t, 1)
	start := time.Now()
	result, err := rec.Run(t.Context(), y.command)
	took := time.Since(start)
	t.Logf("%d requests in %v", transport.passed, took)
	checkAllOnce(t, y, result, err, 3)
	if took > 2*time.Minute {
		t.Errorf("took %v, want at most two minutes", took)
	}
}

// TestJobDeleted deletes the job while a node has not acknowledged. The run
// ends, as it can no longer fence the node.
func TestJobDeleted(t *testing.T) {
	needsConsul(t)
	cluster := devcluster.Start(t, devcluster.Config{Nodes: devcluster.Nodes(1, 1)})
	client := cluster.Client("server-1")
	if err := cluster.Pause("client-1"); err != nil {
		t.Fatal(err)
	}
	defer cluster.Resume("client-1")
	rec := runtest.NewRecorder(t, client)
	rec.Hook = func(call string) {
		if call != "ack server-1" {
			return
		}
		keys, _, err := client.KV().Keys("_rexec/", "", nil)
		if err != nil {
			t.Error(err)
		}
		for _, key := range keys {
			if strings.HasSuffix(key, "/job") {
				if _, err := client.KV().Delete(key, nil); err != nil {
					t.Error(err)
				}
			}
		}
	}
	result, err := rec.Run(t.Context(), "sleep 30")
	if !errors.Is(err, consulexec.ErrSessionLost) {
		t.Errorf("error %v", err)
	}
	if n, _ := result.Node("client-1"); n.State != consulexec.StateLost || !strings.Contains(n.Err.Error(), "may have taken the job") {
		t.Errorf("client-1 is %v, error %v", n.State, n.Err)
	}
}

// TestCancelFences cancels a run while the agent of a node is paused. The node is
// fenced before the session goes. So it does not run the command when its agent
// goes on.
func TestCancelFences(t *testing.T) {
	needsConsul(t)
	cluster := devcluster.Start(t, devcluster.Config{Nodes: devcluster.Nodes(1, 2)})
	if err := cluster.Pause("client-2"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	rec := runtest.NewRecorder(t, cluster.Client("client-1"))
	acks := 0
	rec.Hook = func(call string) {
		if strings.HasPrefix(call, "ack ") {
			if acks++; acks == 2 {
				cancel()
			}
		}
	}
	y := newTally(t, 10)
	result, err := rec.Run(ctx, y.command)
	if got, want := runtest.States(result), "client-1: running, client-2: no response, server-1: running"; !errors.Is(err, context.Canceled) || got != want {
		t.Errorf("error %v, states %s, want %s", err, got, want)
	}
	if err := cluster.Resume("client-2"); err != nil {
		t.Fatal(err)
	}
	pause(t.Context(), 3*time.Second)
	y.check(t, result, 2)
}

// TestRemoteServerReaped kills the server that holds the session of a run in
// another datacenter. Autopilot removes it from the catalog, and the session
// with it. The run ends with an error that says so.
func TestRemoteServerReaped(t *testing.T) {
	needsConsul(t)
	cluster := devcluster.Start(t, devcluster.Config{Nodes: append(devcluster.Nodes(1, 0), devcluster.NodesIn("dc2", 3, 0)...)})
	client := cluster.Client("server-1")
	var holder string
	e, err := consulexec.New("sleep 100", consulexec.WithClient(client), consulexec.WithDatacenter("dc2"), consulexec.WithLostTimeout(3*time.Minute),
		consulexec.OnAck(func(string) {
			if holder != "" {
				return
			}
			sessions, _, err := client.Session().List(&api.QueryOptions{Datacenter: "dc2"})
			if err != nil || len(sessions) == 0 {
				t.Errorf("sessions %v, error %v", sessions, err)
				return
			}
			holder = sessions[0].Node
			if err := cluster.Kill(holder); err != nil {
				t.Error(err)
			}
		}))
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	_, err = e.Run(t.Context())
	t.Logf("%s held the session; after %v: %v", holder, time.Since(start), err)
	if !errors.Is(err, consulexec.ErrSessionLost) || !strings.Contains(err.Error(), fmt.Sprintf("node %q", holder)) {
		t.Errorf("error %v", err)
	}
	if took := time.Since(start); took > 90*time.Second {
		t.Errorf("took %v, want at most 90s", took)
	}
}
