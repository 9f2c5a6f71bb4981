package test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/internal/devcluster"
	"github.com/consulexec/consulexec/internal/runtest"
)

// TestAgainAndAgain runs a short command many times, through each of three
// nodes in turn. Every run waits for all of them, however soon the first one
// exits.
func TestAgainAndAgain(t *testing.T) {
	needsConsul(t)
	cluster := devcluster.Start(t, devcluster.Config{Nodes: devcluster.Nodes(1, 2)})
	nodes := cluster.Nodes()
	for i := range 60 {
		_, result, err := runtest.Execute(t, cluster.Client(nodes[i%len(nodes)]), "uptime")
		if got, want := runtest.States(result), "client-1: exit 0, client-2: exit 0, server-1: exit 0"; err != nil || got != want {
			t.Errorf("run %d: error %v, states %s", i, err, got)
		}
	}
}

// TestSixtyNames runs on sixty nodes with names of thirty letters. All are
// alive in the catalog, but only three have an agent.
func TestSixtyNames(t *testing.T) {
	needsConsul(t)
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
		// The client's type has fields that older Consuls refuse.
		registration := map[string]any{"Node": name, "Address": "127.0.0.1", "Check": map[string]string{"CheckID": "serfHealth", "Status": api.HealthPassing}}
		if _, err := client.Raw().Write("/v1/catalog/register", registration, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	y := newTally(t, 3)
	_, result, err := runtest.Execute(t, client, y.command, consulexec.WithNodes(names...))
	y.check(t, result, 3)
	exited := 0
	for _, n := range result.Nodes {
		hasAgent := slices.Contains(cluster.Nodes(), n.Node)
		if want := map[bool]consulexec.State{true: consulexec.StateExited, false: consulexec.StateNoResponse}[hasAgent]; n.State != want {
			t.Errorf("%s is %v, want %v", n.Node, n.State, want)
		}
		if hasAgent {
			exited++
		}
	}
	if err != nil || exited != 3 || len(result.Nodes) != 60 {
		t.Errorf("error %v, %d of %d nodes exited, want 3 of 60", err, exited, len(result.Nodes))
	}
}

// TestRollingOnNine runs on nine nodes, two at a time, and measures on the
// nodes how many run the command at once.
func TestRollingOnNine(t *testing.T) {
	needsConsul(t)
	cluster := devcluster.Start(t, devcluster.Config{Nodes: devcluster.Nodes(1, 8)})
	command, most := busy(t, 2)
	_, result, err := runtest.Execute(t, cluster.Client("server-1"), command, consulexec.WithConcurrency(2))
	if err != nil || result.Err() != nil || len(result.Nodes) != 9 {
		t.Errorf("error %v, result %v, %d nodes", err, result.Err(), len(result.Nodes))
	}
	if got := most(); got != 2 {
		t.Errorf("%d nodes ran the command at once, want 2", got)
	}
	_, result, err = runtest.Execute(t, cluster.Client("client-1"), "exit 7", consulexec.WithConcurrency(2), consulexec.WithMaxFailures(3))
	if err != nil {
		t.Fatal(err)
	}
	counted := make(map[consulexec.State]int)
	for _, n := range result.Nodes {
		counted[n.State]++
	}
	// When the third node fails, another one may run the command beside it. If
	// gossip misses that one, it does not get the job again.
	if failed := counted[consulexec.StateExited] + counted[consulexec.StateNoResponse]; failed < 3 || failed > 4 || failed+counted[consulexec.StateSkipped] != 9 {
		t.Errorf("states %s", runtest.States(result))
	}
}

// TestOddServiceNames has services whose names fit into no request's path. Runs
// with WithService find exactly their nodes.
func TestOddServiceNames(t *testing.T) {
	needsConsul(t)
	cluster := devcluster.Start(t, devcluster.Config{Nodes: devcluster.Nodes(1, 2)})
	for i, name := range []string{"..", "a//b", "./x", "x\u00a0y", "a b", "a%2Fb", "web"} {
		for _, node := range cluster.Nodes()[:1+i%2] {
			service := &api.AgentServiceRegistration{ID: fmt.Sprintf("id-%d", i), Name: name, Tags: []string{"v1"}}
			if err := cluster.Client(node).Agent().ServiceRegister(service); err != nil {
				t.Fatal(err)
			}
		}
	}
	first, second := cluster.Nodes()[0], cluster.Nodes()[1]
	for service, nodes := range map[string][]string{"^id-0$": {first}, "^id-3$": {first, second}, "^id-6$": {first}, "^id-[15]$": {first, second}} {
		for ready := false; !ready; pause(t.Context(), 50*time.Millisecond) { // the catalog lags behind the agents
			_, result, err := runtest.Execute(t, cluster.Client(first), "true", consulexec.WithService(service), consulexec.WithTag("^v1$"))
			ready = !errors.Is(err, consulexec.ErrNoTargets) && len(result.Nodes) == len(nodes)
			if ready && (err != nil || result.Err() != nil || result.DiscoveryErr != nil) {
				t.Errorf("%s: error %v, result %v, discovery %v", service, err, result.Err(), result.DiscoveryErr)
			}
			for _, n := range result.Nodes {
				if !slices.Contains(nodes, n.Node) {
					t.Errorf("%s: runs on %s", service, n.Node)
				}
			}
		}
	}
}

// TestClientAgent runs in another datacenter through a client agent. Newer
// Consuls refuse that, and the error says why.
func TestClientAgent(t *testing.T) {
	needsConsul(t)
	cluster := devcluster.Start(t, devcluster.Config{Nodes: append(devcluster.Nodes(1, 1), devcluster.NodesIn("dc2", 1, 0)...)})
	_, result, err := runtest.Execute(t, cluster.Client("client-1"), "true", consulexec.WithDatacenter("dc2"))
	switch {
	case err == nil:
		if runtest.States(result) != "dc2-server-1: exit 0" {
			t.Errorf("states %s", runtest.States(result))
		}
	case !strings.Contains(err.Error(), `"dc2"`) || !strings.Contains(err.Error(), "server agent"):
		t.Error(err)
	}
	if err := cluster.Kill("dc2-server-1"); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	rec := runtest.NewRecorder(t, cluster.Client("server-1"))
	e := rec.New("true", consulexec.WithDatacenter("dc2"))
	result, err = e.Run(t.Context())
	rec.CheckCalls(err)
	runtest.CheckNothingLeftIn(t, cluster.Client("server-1"), "dc1", e, result)
	if err == nil || !strings.Contains(err.Error(), `"dc2"`) {
		t.Errorf("without servers in dc2: error %v", err)
	}
	if took := time.Since(start); took > 40*time.Second {
		t.Errorf("without servers in dc2: took %v, want at most 40s", took)
	}
}
