package test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
	"github.com/consulexec/consulexec/internal/devcluster"
	"github.com/consulexec/consulexec/internal/runtest"
)

// TestConformance runs one suite on exectest and on real agents. If only one of
// them passes a test, that is a bug of exectest or of the library.
//
// In both, dc1 has the nodes web-1 and web-2 with a service each, and db-1 with
// another. Web-1 and web-2 have metadata. The agent of off-1 has remote exec disabled. Dc2 has far-1 and
// far-2. The servers are web-1 and far-1.
func TestConformance(t *testing.T) {
	t.Parallel()
	t.Run("exectest", func(t *testing.T) {
		t.Parallel()
		srv := exectest.NewServer(
			exectest.Node("web-1", exectest.WithNamedService("web-a", "web", "blue", "v1"), exectest.WithMeta(rackMeta["web-1"])),
			exectest.Node("web-2", exectest.WithNamedService("web-b", "web", "green", "v1"), exectest.WithMeta(rackMeta["web-2"])),
			exectest.Node("db-1", exectest.WithNamedService("pg", "postgres", "primary")),
			exectest.Node("off-1", exectest.ExecDisabled()),
			exectest.Datacenter("dc2", exectest.Node("far-1"), exectest.Node("far-2")),
		)
		t.Cleanup(srv.Close)
		conform(t, cluster{srv.Client(), consulexec.WithClient(srv.Client()), srv.SetHealth})
	})
	t.Run("consul", func(t *testing.T) {
		needsConsul(t)
		service := func(id, name string, tags ...string) []devcluster.Service {
			return []devcluster.Service{{ID: id, Name: name, Tags: tags}}
		}
		agents := devcluster.Start(t, devcluster.Config{Nodes: []devcluster.Node{
			{Name: "web-1", Server: true, Services: service("web-a", "web", "blue", "v1"), Config: metaConfig("web-1")},
			{Name: "web-2", Services: service("web-b", "web", "green", "v1"), Config: metaConfig("web-2")},
			{Name: "db-1", Services: service("pg", "postgres", "primary")},
			{Name: "off-1", ExecDisabled: true},
			{Name: "far-1", Datacenter: "dc2", Server: true},
			{Name: "far-2", Datacenter: "dc2"},
		}})
		awaitMeta(t, agents.Client("web-1"))
		conform(t, cluster{agents.Client("web-1"), consulexec.WithConfig(&api.Config{Address: agents.Address("web-1")}), setHealth(t, agents)})
	})
}

// A cluster is what the suite runs on.
type cluster struct {
	client *api.Client       // of the tests
	reach  consulexec.Option // how the runs reach the cluster

	setHealth func(node, service, status string) // as exectest has it
}

// recorder returns a recorder for a run on the cluster.
func (c cluster) recorder(t *testing.T) *runtest.Recorder {
	rec := runtest.NewRecorder(t, c.client)
	rec.Reach = c.reach
	return rec
}

// execute runs the command with a new recorder.
func (c cluster) execute(t *testing.T, command string, options ...consulexec.Option) (*runtest.Recorder, *consulexec.Result, error) {
	t.Helper()
	rec := c.recorder(t)
	result, err := rec.Run(t.Context(), command, options...)
	return rec, result, err
}

// answering selects the nodes of dc1 that answer.
var answering = consulexec.WithNode("^(web|db)-")

// conform runs the suite, all tests in parallel.
func conform(t *testing.T, c cluster) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, cluster)
	}{
		{"Callbacks", conformCallbacks},
		{"Kinds", conformKinds},
		{"Output", conformOutput},
		{"LongOutput", conformLongOutput},
		{"MuchOutput", conformMuchOutput},
		{"ExitCodes", conformExitCodes},
		{"Heartbeats", conformHeartbeats},
		{"Filters", conformFilters},
		{"LongFilter", conformLongFilter},
		{"Names", conformNames},
		{"Concurrency", conformConcurrency},
		{"MaxFailures", conformMaxFailures},
		{"ExecDisabled", conformExecDisabled},
		{"Datacenters", conformDatacenters},
		{"MinNodes", conformMinNodes},
		{"NothingMatches", conformNothingMatches},
		{"WithoutDiscovery", conformWithoutDiscovery},
		{"Cancelled", conformCancelled},
		{"Panic", conformPanic},
		{"Prefix", conformPrefix},
		{"SessionLost", conformSessionLost},
		{"OnLine", conformOnLine},
		{"Events", conformEvents},
		{"Groups", conformGroups},
		{"RunDatacenters", conformRunDatacenters},
		{"Expressions", conformExpressions},
		{"CatalogFilter", conformCatalogFilter},
		{"HealthyService", conformHealthyService},
		{"Targets", conformTargets},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, c)
		})
	}
}

// conformCallbacks checks every callback of a plain run.
func conformCallbacks(t *testing.T, c cluster) {
	rec, result, err := c.execute(t, "uptime", answering)
	if err != nil || result.Err() != nil {
		t.Fatalf("error %v, result %v", err, result.Err())
	}
	if got, want := runtest.States(result), "db-1: exit 0, web-1: exit 0, web-2: exit 0"; got != want {
		t.Errorf("states %s, want %s", got, want)
	}
	slices.Sort(rec.Calls)
	want := []string{
		"ack db-1", "ack web-1", "ack web-2", "done",
		"exit db-1 0", "exit web-1 0", "exit web-2 0",
		"output db-1", "output web-1", "output web-2", "submit",
	}
	if !slices.Equal(rec.Calls, want) {
		t.Errorf("callbacks %v, want %v", rec.Calls, want)
	}
	for node, output := range rec.Output {
		if !strings.Contains(string(output), "load average") {
			t.Errorf("output of %s: %q", node, output)
		}
	}
	if result.DiscoveryErr != nil {
		t.Errorf("discovery: %v", result.DiscoveryErr)
	}
}

// one runs the command on web-2 and returns its output and its exit status.
func one(t *testing.T, c cluster, command string, options ...consulexec.Option) (output string, code int) {
	t.Helper()
	_, result, err := c.execute(t, command, append(options, consulexec.WithNode("^web-2$"))...)
	if err != nil {
		t.Fatal(err)
	}
	n, ok := result.Node("web-2")
	if !ok || n.State != consulexec.StateExited {
		t.Fatalf("states %s", runtest.States(result))
	}
	if (n.ExitCode == 0) != (result.Err() == nil) {
		t.Errorf("exit status %d, but error %v", n.ExitCode, result.Err())
	}
	return string(n.Output), n.ExitCode
}

// conformPanic has a callback panic. The panic passes through Run, and leaves
// nothing.
func conformPanic(t *testing.T, c cluster) {
	e, err := consulexec.New("echo x", c.reach, answering,
		consulexec.OnOutput(func(string, []byte) { panic("on purpose") }))
	if err != nil {
		t.Fatal(err)
	}
	func() {
		defer func() {
			if p := recover(); p != "on purpose" {
				t.Errorf("recovered %v", p)
			}
		}()
		_, _ = e.Run(t.Context())
	}()
	result, err := e.Wait()
	if err == nil || result == nil || result.Err() == nil {
		t.Fatalf("result %v, error %v", result, err)
	}
	runtest.CheckNothingLeft(t, c.client, e, result)
}

// conformPrefix runs under a prefix that needs escaping.
func conformPrefix(t *testing.T, c cluster) {
	const prefix = "ops/ex ec?ü#"
	var under []string
	rec := c.recorder(t)
	rec.Hook = func(call string) {
		if call == "ack web-1" {
			under, _, _ = c.client.KV().Keys(prefix+"/", "", nil)
		}
	}
	result, err := rec.Run(t.Context(), "true", consulexec.WithNode("^web-1$"), consulexec.WithPrefix(prefix))
	if err != nil || result.Err() != nil {
		t.Fatalf("error %v, result %v", err, result.Err())
	}
	if want := prefix + "/" + result.Session + "/job"; !slices.Contains(under, want) {
		t.Errorf("keys %q lack %q", under, want)
	}
}

// conformSessionLost destroys the session of a run.
func conformSessionLost(t *testing.T, c cluster) {
	rec := c.recorder(t)
	destroyed := time.Time{}
	rec.Hook = func(call string) {
		if call != "output web-1" {
			return
		}
		keys, _, err := c.client.KV().Keys("lost/", "", nil)
		if err != nil || len(keys) == 0 {
			t.Errorf("keys %v, error %v", keys, err)
			return
		}
		if _, err := c.client.Session().Destroy(strings.Split(keys[0], "/")[1], nil); err != nil {
			t.Error(err)
		}
		destroyed = time.Now()
	}
	result, err := rec.Run(t.Context(), "echo x; sleep 3", consulexec.WithNode("^web-1$"), consulexec.WithPrefix("lost"))
	if !errors.Is(err, consulexec.ErrSessionLost) || runtest.States(result) != "web-1: running" {
		t.Errorf("error %v, states %s", err, runtest.States(result))
	}
	if took := time.Since(destroyed); took > 3*time.Second {
		t.Errorf("the run ends %v later, want at most 3s", took)
	}
}

// conformCancelled ends the context at several moments of a run.
func conformCancelled(t *testing.T, c cluster) {
	t.Run("before", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		rec := c.recorder(t)
		result, err := rec.Run(ctx, "true", answering)
		if !errors.Is(err, context.Canceled) || result.Session != "" || !slices.Equal(rec.Calls, []string{"error"}) {
			t.Errorf("error %v, session %q, callbacks %v", err, result.Session, rec.Calls)
		}
	})
	t.Run("during", func(t *testing.T) {
		why := errors.New("lunch")
		ctx, cancel := context.WithCancelCause(t.Context())
		rec := c.recorder(t)
		rec.Hook = func(call string) {
			if call == "output web-1" {
				cancel(why)
			}
		}
		result, err := rec.Run(ctx, "echo on; sleep 3", consulexec.WithNode("^web-1$"))
		if !errors.Is(err, context.Canceled) || !errors.Is(err, why) {
			t.Errorf("error %v", err)
		}
		if got := runtest.States(result); got != "web-1: running" || result.Err() == nil {
			t.Errorf("states %s, result %v", got, result.Err())
		}
	})
	t.Run("deadline", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		result, err := c.recorder(t).Run(ctx, "sleep 3", consulexec.WithNode("^web-1$"))
		if !errors.Is(err, context.DeadlineExceeded) || runtest.States(result) != "web-1: running" {
			t.Errorf("error %v, states %s", err, runtest.States(result))
		}
	})
	t.Run("after", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		rec := c.recorder(t)
		rec.Hook = func(call string) {
			if call == "done" {
				cancel()
			}
		}
		if result, err := rec.Run(ctx, "true", answering); err != nil || result.Err() != nil {
			t.Errorf("error %v, result %v", err, result.Err())
		}
	})
}

// conformEvents loops over a whole run, and over runs whose loop is left early.
func conformEvents(t *testing.T, c cluster) {
	rec := c.recorder(t)
	result, err := rec.Loop(t.Context(), "echo x; sleep 1; exit 2", nil, answering, consulexec.WithWait(300*time.Millisecond))
	if err != nil || runtest.States(result) != "db-1: exit 2, web-1: exit 2, web-2: exit 2" {
		t.Errorf("error %v, states %s", err, runtest.States(result))
	}
	for what, least := range map[string]int{"submit": 1, "ack": 3, "output": 3, "heartbeat": 1, "exit": 3} {
		if n := rec.Count(what); n < least {
			t.Errorf("%d events %s, want at least %d", n, what, least)
		}
	}
	for _, at := range []consulexec.EventType{consulexec.EventSubmit, consulexec.EventAck, consulexec.EventOutput} {
		_, err := c.recorder(t).Loop(t.Context(), "echo x; sleep 10", func(event consulexec.Event) bool { return event.Type != at }, answering)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("loop left at %v: error %v", at, err)
		}
	}
}
