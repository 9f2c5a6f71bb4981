package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec/exectest"
)

// A cluster is an embedded cluster whose nodes have a service web each.
type cluster struct {
	*exectest.Server
	services *services
	rollout  rollout
	output   bytes.Buffer

	// begin, if not nil, is called before the event of each batch is fired.
	begin func(batch int)
}

// start starts a cluster of n nodes. The faults precede its own answers.
func start(t *testing.T, n int, faults ...exectest.Fault) *cluster {
	t.Helper()
	c := &cluster{}
	var nodes []string
	var options []exectest.Option
	for i := range n {
		node := fmt.Sprintf("web-%02d", i+1)
		nodes = append(nodes, node)
		options = append(options, exectest.Node(node, exectest.WithService("web"), exectest.Run(func(_ context.Context, j *exectest.Job) int {
			io.WriteString(j.Output, c.services.restart(node))
			return 0
		})))
	}
	c.services = newServices(nodes, "")
	c.Server = exectest.NewServer(options...)
	t.Cleanup(c.Close)
	for _, f := range faults {
		c.Fault(f)
	}
	c.Fault(exectest.Fault{Match: exectest.Path("GET", "/v1/health/service/web"), Do: c.services.health})
	batch := 0
	c.Fault(exectest.Fault{Match: exectest.Path("PUT", "/v1/event/fire/"), Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if batch++; c.begin != nil {
			c.begin(batch)
		}
		next.ServeHTTP(w, r)
	}})
	c.rollout = rollout{
		client: c.Client(), out: &c.output, service: "web", command: restartWeb,
		percent: []int{20}, settle: time.Second, timeout: time.Minute,
	}
	return c
}

// restarted returns the nodes whose service was restarted. It fails the test if
// one was restarted more than once.
func (c *cluster) restarted(t *testing.T) []string {
	t.Helper()
	c.services.mu.Lock()
	defer c.services.mu.Unlock()
	var nodes []string
	for node, starts := range c.services.starts {
		switch starts {
		case 1:
		case 2:
			nodes = append(nodes, node)
		default:
			t.Errorf("%s was restarted %d times", node, starts-1)
		}
	}
	slices.Sort(nodes)
	return nodes
}

// checkStopped checks the error of a roll-out that stopped, the number of
// restarted nodes, and that nothing is left in Consul.
func (c *cluster) checkStopped(t *testing.T, err error, restarted int, want ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; output:\n%s", &c.output)
	}
	for _, text := range want {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q lacks %q", err, text)
		}
	}
	if nodes := c.restarted(t); len(nodes) != restarted {
		t.Errorf("restarted: %v, want %d nodes", nodes, restarted)
	}
	if keys, sessions := c.Keys(""), c.Sessions(); len(keys)+len(sessions) > 0 {
		t.Errorf("left behind: %v %v", keys, sessions)
	}
}

// TestGate has services that come up slowly. No batch may begin before the
// services of all earlier batches are up.
func TestGate(t *testing.T) {
	for _, test := range []struct {
		name   string
		lag    time.Duration
		settle time.Duration
	}{
		{name: "slow", settle: time.Second},
		{name: "stale", lag: 10 * time.Second, settle: 12 * time.Second}, // at first, Consul still has the passing checks
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := start(t, 10)
				c.services.boot, c.services.lag = 20*time.Second, test.lag
				c.rollout.settle = test.settle
				batches := 0
				var last time.Time
				c.begin = func(batch int) {
					batches = batch
					if restarted := c.restarted(t); len(restarted) != (batch-1)*2 {
						t.Errorf("restarted before batch %d: %v", batch, restarted)
					}
					if since := time.Since(last); since < test.lag+c.services.boot+test.settle {
						t.Errorf("batch %d came %v after the one before", batch, since)
					}
					last = time.Now()
				}
				if err := c.rollout.run(t.Context()); err != nil {
					t.Fatalf("%v; output:\n%s", err, &c.output)
				}
				if restarted := c.restarted(t); batches != 5 || len(restarted) != 10 {
					t.Errorf("%d batches restarted %v", batches, restarted)
				}
				if since := time.Since(last); since < test.lag+c.services.boot {
					t.Errorf("ended %v after the last batch", since)
				}
			})
		})
	}
}

func TestNotHealthyAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, 10)
		c.services.broken = "web-03"
		began := time.Now()
		err := c.rollout.run(t.Context())
		c.checkStopped(t, err, 4, "batch 2 of 5 (web-03 web-04)", "after 1m0s", "web-03: web answers is critical (503",
			"not touched: web-05 web-06 web-07 web-08 web-09 web-10")
		if took := time.Since(began); took < time.Minute || took > 2*time.Minute {
			t.Errorf("took %v", took)
		}
	})
}

// TestNotHealthyLater has a service that fails after its batch was healthy.
func TestNotHealthyLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, 10)
		c.begin = func(batch int) {
			if batch == 3 {
				c.services.setDown("web-01", true)
			}
		}
		err := c.rollout.run(t.Context())
		c.checkStopped(t, err, 6, "batch 3 of 5 (web-05 web-06)", "web-01: web answers is critical", "not touched: web-07 web-08 web-09 web-10")
	})
}

func TestNodeDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, 5)
		c.Kill("web-02")
		err := c.rollout.run(t.Context())
		c.checkStopped(t, err, 1, "batch 2 of 5 (web-02)", "not touched: web-03 web-04 web-05")
	})
}

func TestConsulFalters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var faltering bool
		c := start(t, 2, exectest.Fault{
			Match: func(r *http.Request) bool { return faltering && strings.HasPrefix(r.URL.Path, "/v1/health/") },
			Times: 8, Do: exectest.Respond(http.StatusInternalServerError, "No cluster leader"),
		})
		c.begin = func(int) { faltering = true }
		if err := c.rollout.run(t.Context()); err != nil {
			t.Error(err)
		}
		if !strings.Contains(c.output.String(), "waiting: ask Consul for the health of web: Unexpected response code: 500") {
			t.Errorf("output:\n%s", &c.output)
		}
	})
}

func TestInterrupt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, 5)
		c.services.boot = 20 * time.Second
		ctx, cancel := context.WithCancel(t.Context())
		c.begin = func(batch int) {
			if batch == 2 {
				time.AfterFunc(10*time.Second, cancel)
			}
		}
		err := c.rollout.run(ctx)
		c.checkStopped(t, err, 2, "batch 2 of 5 (web-02)", "not touched: web-03 web-04 web-05")
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	})
}

// A failingWriter calls fail before it takes a text with this beginning.
type failingWriter struct {
	io.Writer
	beginning string
	fail      func()
}

func (w failingWriter) Write(p []byte) (int, error) {
	if strings.HasPrefix(string(p), w.beginning) {
		w.fail()
	}
	return w.Writer.Write(p)
}

// TestEndedBeforeBatch ends roll-outs after a batch was announced and before a
// node got the command.
func TestEndedBeforeBatch(t *testing.T) {
	for _, test := range []struct {
		name  string
		spoil func(c *cluster, end func())
		batch int
	}{
		{"first line", func(c *cluster, end func()) {
			c.rollout.out = failingWriter{&c.output, "web is healthy on 5 nodes", end}
		}, 1},
		{"batch 1", func(c *cluster, end func()) { c.rollout.out = failingWriter{&c.output, "batch 1: ", end} }, 1},
		{"batch 2", func(c *cluster, end func()) { c.rollout.out = failingWriter{&c.output, "batch 2: ", end} }, 2},
		{"session", func(c *cluster, end func()) {
			c.Fault(exectest.Fault{Match: exectest.Path("PUT", "/v1/session/create"), Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				end()
				next.ServeHTTP(w, r)
			}})
		}, 1},
		{"bad command", func(c *cluster, _ func()) { c.rollout.command = " " }, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := start(t, 5)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				test.spoil(c, cancel)
				untouched := strings.Join([]string{"web-01", "web-02", "web-03", "web-04", "web-05"}[test.batch-1:], " ")
				c.checkStopped(t, c.rollout.run(ctx), test.batch-1, fmt.Sprintf("stopped at batch %d of 5", test.batch), "\nnot touched: "+untouched)
			})
		})
	}
}

// TestNothingDone has roll-outs that fail before the first batch.
func TestNothingDone(t *testing.T) {
	for _, test := range []struct {
		name  string
		spoil func(*cluster)
		want  string
	}{
		{"no command", func(c *cluster) { c.rollout.command = "" }, "-command is missing"},
		{"no service", func(c *cluster) { c.rollout.service = "wob" }, `no node has a service "wob"`},
		{"one is down", func(c *cluster) { c.services.setDown("web-04", true) }, "nothing was done: web is not healthy: web-04: web answers is critical"},
		{"no time", func(c *cluster) { c.rollout.settle = c.rollout.timeout }, "-settle 1m0s is not between 0 and -timeout 1m0s"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := start(t, 5)
				test.spoil(c)
				c.checkStopped(t, c.rollout.run(t.Context()), 0, test.want)
			})
		})
	}
}

func TestProblem(t *testing.T) {
	instance := func(checks ...*api.HealthCheck) *api.ServiceEntry {
		return &api.ServiceEntry{Service: &api.AgentService{ID: "web-1"}, Checks: checks}
	}
	node := &api.HealthCheck{Name: "Serf Health Status", Status: api.HealthPassing}
	for _, test := range []struct {
		name     string
		instance *api.ServiceEntry
		want     string
	}{
		{"healthy", instance(node, &api.HealthCheck{ServiceID: "web-1", Status: api.HealthPassing}), ""},
		{"no check", instance(node), " web-1 has no health check"},
		{"warning", instance(node, &api.HealthCheck{ServiceID: "web-1", Name: "disk", Status: api.HealthWarning, Output: "\n90 %\nof\n"}), " disk is warning (90 %)"},
		{"node", instance(&api.HealthCheck{Name: "Serf Health Status", Status: api.HealthCritical}, &api.HealthCheck{ServiceID: "web-1", Status: api.HealthPassing}), " Serf Health Status is critical ()"},
	} {
		if got := problem(test.instance); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
	r := rollout{service: "web"}
	if err := r.unhealthy(map[string]string{"a": ""}, []string{"a", "b"}); err == nil || err.Error() != "web is not healthy: b: the service is not in Consul" {
		t.Errorf("error for a service that has gone: %v", err)
	}
}

func TestBatches(t *testing.T) {
	for _, test := range []struct {
		nodes   int
		percent string
		want    []int
	}{
		{20, "10", []int{2, 2, 2, 2, 2, 2, 2, 2, 2, 2}},
		{3, "10", []int{1, 1, 1}},
		{29, "33", []int{9, 9, 9, 2}},
		{7, "100", []int{7}},
		{20, "10,40,50", []int{2, 8, 10}},
		{20, "5,10,40", []int{1, 2, 8, 8, 1}},
	} {
		r := rollout{}
		if err := r.setPercent(test.percent); err != nil {
			t.Fatal(err)
		}
		var nodes []string
		for i := range test.nodes {
			nodes = append(nodes, fmt.Sprint(i))
		}
		batches := r.batches(nodes)
		var sizes []int
		for _, batch := range batches {
			sizes = append(sizes, len(batch))
		}
		if !slices.Equal(sizes, test.want) || !slices.Equal(slices.Concat(batches...), nodes) {
			t.Errorf("%s percent of %d nodes: batches %v, want sizes %v", test.percent, test.nodes, batches, test.want)
		}
	}
	for _, bad := range []string{"", "0", "101", "10,", "ten", "10 ,20"} {
		if err := new(rollout).setPercent(bad); err == nil {
			t.Errorf("-percent %q is accepted", bad)
		}
	}
}

// build builds the program, as `go run` does, and returns its path.
func build(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "rolling")
	if runtime.GOOS == "windows" {
		program += ".exe"
	}
	if output, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	return program
}

// runProgram runs the program with CONSUL_HTTP_ADDR set to address.
func runProgram(t *testing.T, program, address string, args ...string) (output string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, program, args...)
	command.Env = append(os.Environ(), api.HTTPAddrEnvName+"="+address)
	data, err := command.CombinedOutput()
	return string(data), err
}

// checkProgram runs the program on a cluster of its own. It checks that the
// output contains the texts, in order.
func checkProgram(t *testing.T, program string, args []string, success bool, want ...string) {
	t.Helper()
	output, err := runProgram(t, program, "", args...)
	if success != (err == nil) {
		t.Errorf("%v: %v", args, err)
	}
	rest := output
	for _, text := range want {
		_, after, found := strings.Cut(rest, text)
		if !found {
			t.Fatalf("%v: %q is missing or out of order in:\n%s", args, text, output)
		}
		rest = after
	}
}

func TestDemo(t *testing.T) {
	program := build(t)
	t.Run("succeeds", func(t *testing.T) {
		t.Parallel()
		checkProgram(t, program, []string{"-demo", "-percent", "20,30,50"}, true,
			"demo: twenty embedded nodes", "web is healthy on 20 nodes; restarting it in 3 batches\n",
			"batch 1: web-01 web-02 web-03 web-04\n", ": web stopped and started, start 2\n", "waiting: web is not healthy: web-01", "batch 1: healthy, ",
			"batch 2: web-05", "batch 2: healthy, ", "batch 3: web-11", "batch 3: healthy, ")
	})
	t.Run("fails", func(t *testing.T) {
		t.Parallel()
		skipOnWindows(t)
		checkProgram(t, program, []string{"-demo", "-percent", "5", "-command", "exit 3"}, false,
			"web-01: exit 3\n", "stopped at batch 1 of 20 (web-01): ", "not touched: web-02 web-03")
	})
	t.Run("hangs", func(t *testing.T) {
		t.Parallel()
		skipOnWindows(t)
		checkProgram(t, program, []string{"-demo", "-percent", "5", "-command", "sleep 1000", "-timeout", "1s"}, false,
			"web-01: exit ", "stopped at batch 1 of 20 (web-01): ", "not touched: web-02 web-03")
	})
	t.Run("breaks", func(t *testing.T) {
		t.Parallel()
		checkProgram(t, program, []string{"-demo", "-percent", "100", "-break", "web-07", "-timeout", "2s"}, false,
			"stopped at batch 1 of 1", "web is not healthy: web-07: web answers is critical")
	})
	t.Run("beside an address", func(t *testing.T) {
		t.Parallel()
		skipOnWindows(t)
		srv := exectest.NewServer(exectest.Node("a", exectest.WithService("web")))
		defer srv.Close()
		file := filepath.Join(t.TempDir(), "ran")
		output, err := runProgram(t, program, srv.URL, "-demo", "-percent", "100", "-command", "echo x >>'"+file+"'")
		if err != nil || !strings.Contains(output, "ignore CONSUL_HTTP_ADDR\n") || !strings.Contains(output, "demo: twenty embedded nodes") {
			t.Errorf("error %v, output:\n%s", err, output)
		}
		if data, err := os.ReadFile(file); err != nil || strings.Count(string(data), "x") != 20 {
			t.Errorf("the command wrote %q, error %v; want 20 lines", data, err)
		}
		if requests := srv.Requests(); len(requests) > 0 {
			t.Errorf("requests to CONSUL_HTTP_ADDR: %v", requests)
		}
	})
}

func skipOnWindows(t *testing.T) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("exectest runs commands with /bin/sh")
	}
}

// TestNothingRuns starts the program without a usable agent, or with flags that
// contradict each other. The command must not run, least of all on this
// machine.
func TestNothingRuns(t *testing.T) {
	skipOnWindows(t)
	program := build(t)
	faulty := func(do exectest.Action) func(*testing.T) string {
		return func(t *testing.T) string {
			srv := exectest.NewServer(exectest.Node("a", exectest.WithService("web")))
			t.Cleanup(srv.Close)
			srv.Fault(exectest.Fault{Match: exectest.Path("GET", "/v1/status/leader"), Do: do})
			return srv.URL
		}
	}
	closed := func(t *testing.T) string {
		srv := httptest.NewServer(http.NotFoundHandler())
		srv.Close()
		return srv.URL
	}
	setAddress := []string{"no usable Consul agent", "nothing ran", "CONSUL_HTTP_ADDR", "-demo"}
	for _, test := range []struct {
		name    string
		address func(*testing.T) string
		args    []string
		want    []string
	}{
		{"default address", func(t *testing.T) string {
			if conn, err := net.Dial("tcp", "localhost:8500"); err == nil {
				conn.Close()
				t.Skip("something listens at Consul's default address, perhaps a real agent")
			}
			return ""
		}, nil, append(setAddress, ":8500")},
		{"no agent", closed, nil, append(setAddress, "refused")},
		{"no leader", faulty(exectest.Respond(http.StatusOK, `""`)), nil, append(setAddress, "the agent knows no leader")},
		{"no servers", faulty(exectest.Respond(http.StatusInternalServerError, "No known Consul servers")), nil, append(setAddress, "No known Consul servers")},
		{"no answer", faulty(exectest.Hang), nil, append(setAddress, "deadline exceeded")},
		{"unknown CA", func(t *testing.T) string {
			cluster := exectest.NewServer(exectest.Node("a", exectest.WithService("web")))
			t.Cleanup(cluster.Close)
			srv := httptest.NewUnstartedServer(cluster)
			srv.Config.ErrorLog = log.New(io.Discard, "", 0)
			srv.StartTLS()
			t.Cleanup(srv.Close)
			return srv.URL
		}, nil, append(setAddress, "certificate")},
		{"demo and cluster", closed, []string{"-demo", "-cluster"}, []string{"-demo", "-cluster"}},
		{"unquoted command", closed, []string{"-demo", "-command", "systemctl", "restart"}, []string{`"restart"`, "quotation marks", "-command '"}},
		{"empty service", closed, []string{"-demo", "-service="}, []string{"-service is empty"}},
		{"other service", closed, []string{"-demo", "-service=db"}, []string{"-service db", "-demo", "service web"}},
		{"other service of the cluster", closed, []string{"-cluster", "-service=db"}, []string{"-service db", "-cluster", "service web"}},
		{"break nobody", closed, []string{"-demo", "-break=nope"}, []string{"-break nope", "no such node", "web-01 web-02"}},
		{"break nobody of the cluster", closed, []string{"-cluster", "-break=web-01"}, []string{"-break web-01", "no such node", "client-2"}},
		{"break and command", closed, []string{"-demo", "-break=web-07"}, []string{"-break web-07", "-command touch", "does not restart"}},
		{"break and command of the cluster", closed, []string{"-cluster", "-break=client-2"}, []string{"-break client-2", "-command touch", "does not restart"}},
		{"break alone", closed, []string{"-break", "a"}, []string{"-break", "-demo", "-cluster"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "ran")
			address := test.address(t)
			began := time.Now()
			output, err := runProgram(t, program, address, append([]string{"-command", "touch '" + file + "'"}, test.args...)...)
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("reported after %v", took)
			}
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 {
				t.Errorf("error %v, want exit status 1", err)
			}
			for _, want := range test.want {
				if !strings.Contains(output, want) {
					t.Errorf("output lacks %q:\n%s", want, output)
				}
			}
			if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the command ran on this machine: %v", err)
			}
		})
	}
}

// TestCluster runs the program on a real Consul, which checks the services
// itself.
func TestCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: starts a real Consul")
	}
	program := build(t)
	t.Run("whole", func(t *testing.T) {
		t.Parallel()
		checkProgram(t, program, []string{"-cluster"}, true, "web is healthy on 3 nodes; restarting it in 3 batches\n",
			"batch 1: client-1\n", "client-1: web stopped and started, start 2\n", "client-1: exit 0\n", "batch 1: healthy, ",
			"batch 2: client-2\n", "batch 2: healthy, ", "batch 3: server-1\n", "batch 3: healthy, ")
	})
	t.Run("stops", func(t *testing.T) {
		t.Parallel()
		checkProgram(t, program, []string{"-cluster", "-break", "client-2", "-timeout", "8s"}, false,
			"batch 1: healthy, ", "client-2: web stopped and started, start 2\n", "waiting: web is not healthy: client-2: web answers is critical",
			"stopped at batch 2 of 3 (client-2): after 8s: web is not healthy: client-2: web answers is critical (HTTP GET ", "not touched: server-1\n")
	})
}

// TestPrintable prints output that would rewrite a terminal.
func TestPrintable(t *testing.T) {
	if got, want := printable("a\tü\r\x1b[2Jb\x07'\""), `a	ü\r\x1b[2Jb\a'"`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
