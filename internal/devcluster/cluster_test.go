package devcluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
)

// startReal calls Start in a test that -short skips.
func startReal(t *testing.T, cfg Config) *Cluster {
	t.Helper()
	needsConsul(t)
	return Start(t, cfg)
}

// needsConsul skips the test under -short and makes it parallel.
func needsConsul(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts real Consul agents")
	}
	t.Parallel()
}

// eventually polls f until it returns nil.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := poll(ctx, f); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// health asks another node's agent for the status of the node's serfHealth
// check.
func health(c *Cluster, node, via string) (string, error) {
	checks, _, err := c.Client(via).Health().Node(node, nil)
	if err != nil {
		return "", err
	}
	for _, check := range checks {
		if check.CheckID == serfHealth {
			return check.Status, nil
		}
	}
	return "", nil
}

func TestCluster(t *testing.T) {
	nodes := Nodes(3, 2)
	nodes[4].Services = []Service{{ID: "web-1", Name: "web", Tags: []string{"blue"}}, {Name: "db"}}
	c := startReal(t, Config{Nodes: nodes})

	catalog, _, err := c.Client("client-1").Catalog().Nodes(nil)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, n := range catalog {
		got = append(got, n.Node)
	}
	slices.Sort(got)
	want := slices.Sorted(slices.Values(c.Nodes()))
	if !slices.Equal(got, want) {
		t.Errorf("the catalog has %v, want %v", got, want)
	}
	node, _, err := c.Client("server-1").Catalog().Node("client-2", nil)
	if err != nil {
		t.Fatal(err)
	}
	if s := node.Services["web-1"]; s == nil || s.Service != "web" || !slices.Equal(s.Tags, []string{"blue"}) {
		t.Errorf("service web-1 is %+v", s)
	}
	if s := node.Services["db"]; s == nil || s.Service != "db" {
		t.Errorf("service db is %+v", s)
	}

	// A killed client becomes critical and passes again after a restart.
	if err := c.Kill("client-2"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "wait for client-2 to become critical", func() error {
		if status, err := health(c, "client-2", "server-1"); status != api.HealthCritical {
			return fmt.Errorf("status %q, %v", status, err)
		}
		return nil
	})
	address := c.Address("client-2")
	if err := c.Restart("client-2"); err != nil {
		t.Fatal(err)
	}
	if status, err := health(c, "client-2", "server-1"); status != api.HealthPassing {
		t.Errorf("after the restart client-2 is %q, %v", status, err)
	}
	if c.Address("client-2") != address {
		t.Errorf("client-2 moved from %s to %s", address, c.Address("client-2"))
	}

	// Another server replaces a killed leader, and keys survive.
	leader, err := c.Leader("")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Client(leader).KV().Put(&api.KVPair{Key: "k", Value: []byte("v")}, nil); err != nil {
		t.Fatal(err)
	}
	if err := c.Kill(leader); err != nil {
		t.Fatal(err)
	}
	next, err := c.Leader("")
	if err != nil {
		t.Fatal(err)
	}
	if next == leader {
		t.Errorf("%s is still the leader after it was killed", leader)
	}
	if err := c.Restart(leader); err != nil {
		t.Fatal(err)
	}
	pair, _, err := c.Client(leader).KV().Get("k", nil)
	if err != nil || pair == nil || string(pair.Value) != "v" {
		t.Errorf("the key is %v, %v", pair, err)
	}
}

func TestStopLeaves(t *testing.T) {
	c := startReal(t, Config{Nodes: Nodes(1, 1)})
	if err := c.Stop("client-1"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "wait for client-1 to leave the catalog", func() error {
		node, _, err := c.Client("server-1").Catalog().Node("client-1", nil)
		if err == nil && node != nil {
			err = errors.New("the node is still in the catalog")
		}
		return err
	})
	if err := c.Stop("client-1"); err == nil {
		t.Error("Stop of a stopped agent: no error")
	}
	if err := c.Restart("client-1"); err != nil {
		t.Fatal(err)
	}
}

func TestPause(t *testing.T) {
	c := startReal(t, Config{Nodes: Nodes(1, 0)})
	if runtime.GOOS == "windows" {
		if err := c.Pause("server-1"); err == nil {
			t.Error("Pause on Windows: no error")
		}
		t.Skip("Windows cannot pause a process")
	}
	get := func(timeout time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		_, _, err := c.Client("server-1").KV().Get("k", new(api.QueryOptions).WithContext(ctx))
		return err
	}
	if err := c.Pause("server-1"); err != nil {
		t.Fatal(err)
	}
	if err := c.Stop("server-1"); err == nil {
		t.Error("Stop of a paused agent: no error")
	}
	if err := get(300 * time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a paused agent answered: %v", err)
	}
	if err := c.Resume("server-1"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "wait for the agent to answer", func() error { return get(10 * time.Second) })
}

func TestDatacenters(t *testing.T) {
	c := startReal(t, Config{Nodes: append(NodesIn("dc1", 1, 1), NodesIn("dc2", 1, 1)...)})
	for _, dc := range []string{"dc1", "dc2"} {
		if _, err := c.Client(dc+"-client-1").KV().Put(&api.KVPair{Key: "k", Value: []byte(dc)}, nil); err != nil {
			t.Fatal(err)
		}
		leader, err := c.Leader(dc)
		if err != nil || leader != dc+"-server-1" {
			t.Errorf("the leader of %s is %q, %v", dc, leader, err)
		}
	}
	for _, node := range c.Nodes() {
		for _, dc := range []string{"dc1", "dc2"} {
			pair, _, err := c.Client(node).KV().Get("k", &api.QueryOptions{Datacenter: dc})
			if err != nil || pair == nil || string(pair.Value) != dc {
				t.Errorf("through %s, the key in %s is %v, %v", node, dc, pair, err)
			}
		}
	}
}

// consulExec runs `consul exec` and returns its output.
func consulExec(ctx context.Context, c *Cluster, node, token string, args ...string) (string, error) {
	args = append([]string{"exec", "-http-addr=" + c.Address(node), "-token=" + token, "-verbose"}, args...)
	out, err := exec.CommandContext(ctx, c.binary, args...).CombinedOutput()
	return string(out), err
}

func TestACL(t *testing.T) {
	nodes := Nodes(1, 2)
	nodes[1].Services = []Service{{Name: "web"}}
	nodes[2].AgentPolicy = `key_prefix "_rexec" { policy = "deny" }`
	c := startReal(t, Config{Nodes: nodes, ACL: true})

	client := func(token string) *api.Client {
		client, err := api.NewClient(&api.Config{Address: c.Address("client-1"), Token: token})
		if err != nil {
			t.Fatal(err)
		}
		return client
	}
	denied := func(err error) bool {
		var status api.StatusError
		return errors.As(err, &status) && status.Code == 403
	}
	put := func(token, key string) error {
		_, err := client(token).KV().Put(&api.KVPair{Key: key}, nil)
		return err
	}

	if err := put("", "_rexec/k"); !denied(err) {
		t.Errorf("write without a token: error %v, want 403", err)
	}
	token, err := c.Token(`
		agent_prefix "" { policy = "read" }
		session_prefix "" { policy = "write" }
		key_prefix "_rexec" { policy = "write" }
		event_prefix "_rexec" { policy = "write" }`)
	if err != nil {
		t.Fatal(err)
	}
	if err := put(token, "_rexec/k"); err != nil {
		t.Errorf("write allowed by the rules: %v", err)
	}
	if err := put(token, "other"); !denied(err) {
		t.Errorf("write not allowed by the rules: error %v, want 403", err)
	}

	// An agent needs the permissions of its own token to run a job.
	out, err := consulExec(t.Context(), c, "client-1", token, "echo hello from $((40 + 2))")
	if err != nil {
		t.Fatalf("consul exec: %v\n%s", err, out)
	}
	for node, want := range map[string]bool{"server-1": true, "client-1": true, "client-2": false} {
		if got := strings.Contains(out, node+": hello from 42"); got != want {
			t.Errorf("%s answers: %t, want %t\n%s", node, got, want, out)
		}
	}

	// The agent keeps its token after a restart.
	if err := c.Restart("client-1"); err != nil {
		t.Fatal(err)
	}
	out, err = consulExec(t.Context(), c, "client-1", token, "-node=client-1", "echo hello again")
	if err != nil || !strings.Contains(out, "client-1: hello again") {
		t.Errorf("after a restart: %v\n%s", err, out)
	}
}

func TestACLDatacenters(t *testing.T) {
	c := startReal(t, Config{Nodes: append(NodesIn("dc1", 1, 0), NodesIn("dc2", 1, 1)...), ACL: true})
	token, err := c.Token(`key_prefix "k" { policy = "write" }`)
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range c.Nodes() {
		client, err := api.NewClient(&api.Config{Address: c.Address(node), Token: token})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.KV().Put(&api.KVPair{Key: "k"}, nil); err != nil {
			t.Errorf("through %s: %v", node, err)
		}
	}
}

func TestExecDisabled(t *testing.T) {
	nodes := Nodes(1, 2)
	nodes[1].ExecDisabled = true
	c := startReal(t, Config{Nodes: nodes})
	out, err := consulExec(t.Context(), c, "client-1", "", "echo hello from $((40 + 2))")
	if err != nil {
		t.Fatalf("consul exec: %v\n%s", err, out)
	}
	for node, want := range map[string]bool{"server-1": true, "client-1": false, "client-2": true} {
		if got := strings.Contains(out, node+": hello from 42"); got != want {
			t.Errorf("%s answers: %t, want %t\n%s", node, got, want, out)
		}
	}
}

func TestTwoClustersAtOnce(t *testing.T) {
	needsConsul(t)
	clusters := make([]*Cluster, 2)
	var wg sync.WaitGroup
	for i := range clusters {
		wg.Go(func() {
			c, err := New(t.Context(), Config{Nodes: Nodes(1, 1)})
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { c.Close() })
			clusters[i] = c
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	for i, c := range clusters {
		if _, err := c.Client("client-1").KV().Put(&api.KVPair{Key: fmt.Sprint(i)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	for i, c := range clusters {
		keys, _, err := c.Client("server-1").KV().Keys("", "", nil)
		if err != nil || !slices.Equal(keys, []string{fmt.Sprint(i)}) {
			t.Errorf("cluster %d has keys %q, %v", i, keys, err)
		}
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	needsConsul(t)
	c, err := New(t.Context(), Config{Nodes: Nodes(1, 2)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()

	agents := func(p Process) bool { return p.Agent }
	commands := func(p Process) bool { return !p.Agent && slices.Equal(p.Args, []string{"sleep", "4321"}) }
	count := func(match func(Process) bool) int {
		t.Helper()
		processes, err := c.Processes()
		if err != nil {
			t.Fatal(err)
		}
		return len(slices.Collect(func(yield func(Process) bool) {
			for _, p := range processes {
				if match(p) && !yield(p) {
					return
				}
			}
		}))
	}
	if n := count(agents); n != 3 {
		t.Errorf("%d agents run, want 3", n)
	}

	if runtime.GOOS == "linux" {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			consulExec(ctx, c, "client-1", "", "sleep 4321")
		}()
		eventually(t, "wait for the command on all nodes", func() error {
			if n := count(commands); n != 3 {
				return fmt.Errorf("it runs on %d of 3", n)
			}
			return nil
		})
		cancel()
		<-ended
	}
	if err := c.Kill("client-2"); err != nil {
		t.Fatal(err)
	}
	if n := count(agents); n != 2 {
		t.Errorf("%d agents run, want 2", n)
	}
	if n := count(commands); runtime.GOOS == "linux" && n != 3 {
		t.Errorf("%d commands run after an agent was killed, want 3", n)
	}

	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if n := count(func(Process) bool { return true }); n != 0 {
		t.Errorf("%d processes after Close, want 0", n)
	}
	if files, err := filepath.Glob(c.dir + "*"); len(files) > 0 {
		t.Errorf("%s still exist after Close, %v", files, err)
	}
	for _, node := range c.Nodes() {
		if conn, err := net.Dial("tcp", c.Address(node)); err == nil {
			conn.Close()
			t.Errorf("the address of %s still accepts connections after Close", node)
		}
	}
	if err := c.Close(); err != nil {
		t.Errorf("the second Close: %v", err)
	}
}

func TestNewSaysWhyAnAgentFails(t *testing.T) {
	needsConsul(t)
	nodes := Nodes(1, 1)
	nodes[1].Config = "no_such_option = true"
	c, err := New(t.Context(), Config{Nodes: nodes})
	if err == nil {
		c.Close()
		t.Fatal("no error")
	}
	for _, want := range []string{"node client-1", "the agent has ended", "no_such_option"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q: %v", want, err)
		}
	}
}

func TestNewEndsWithContext(t *testing.T) {
	needsConsul(t)
	nodes := Nodes(1, 0)
	nodes[0].Config = "bootstrap_expect = 3"                       // prevents a leader
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second) // time for the agent to start
	defer cancel()
	c, err := New(ctx, Config{Nodes: nodes})
	if err == nil {
		c.Close()
		t.Fatal("no error")
	}
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no leader") {
		t.Errorf("the error is %v", err)
	}
}

func TestNewReportsTakenPort(t *testing.T) {
	needsConsul(t)
	taken, err := net.Listen("tcp", loopback+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	nodes := Nodes(1, 0)
	nodes[0].Config = fmt.Sprintf("ports { http = %d }", taken.Addr().(*net.TCPAddr).Port)
	c, err := New(t.Context(), Config{Nodes: nodes})
	if err == nil {
		c.Close()
		t.Fatal("no error")
	}
	if !errors.Is(err, errPortTaken) {
		t.Errorf("the error is %v", err)
	}
}

func TestConfigErrors(t *testing.T) {
	for _, tt := range []struct {
		name  string
		nodes []Node
		want  []string
	}{
		{"no nodes", nil, []string{"has no nodes"}},
		{"no name", []Node{{Server: true}}, []string{"node 0 has no name"}},
		{"a path", []Node{{Name: "../x", Server: true}}, []string{`"../x"`}},
		{"no server", Nodes(0, 2), []string{`datacenter "dc1" has no server`}},
		{"several", []Node{{Name: "a", Server: true}, {Name: "a", Datacenter: "dc2", Services: make([]Service, 1)}},
			[]string{`duplicate node name "a"`, `datacenter "dc2" has no server`, `"a" has a service without a name`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := New(t.Context(), Config{Nodes: tt.nodes})
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tt.want {
				if n := strings.Count(err.Error(), want); n != 1 {
					t.Errorf("the error has %q %d times, want 1: %v", want, n, err)
				}
			}
		})
	}
}

// failedTB is a failed test. It stores the log and the cleanup function.
type failedTB struct {
	*testing.T
	cleanup func()
	log     string
}

func (tb *failedTB) Cleanup(f func())                { tb.cleanup = f }
func (tb *failedTB) Failed() bool                    { return true }
func (tb *failedTB) Logf(format string, args ...any) { tb.log += fmt.Sprintf(format, args...) }

func TestStartLogsOnFailure(t *testing.T) {
	needsConsul(t)
	tb := &failedTB{T: t}
	c := Start(tb, Config{Nodes: Nodes(1, 0)})
	tb.cleanup()
	if !strings.Contains(tb.log, "server-1 (running)") || !strings.Contains(tb.log, "[INFO]") {
		t.Errorf("the log is %q", tb.log)
	}
	if _, err := os.Stat(c.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory %s still exists: %v", c.dir, err)
	}
}

func TestUnknownNodePanics(t *testing.T) {
	defer func() {
		if r := fmt.Sprint(recover()); !strings.Contains(r, `"x"`) {
			t.Errorf("recovered %s", r)
		}
	}()
	new(Cluster).Client("x")
}
