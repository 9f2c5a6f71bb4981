package test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
	"github.com/consulexec/consulexec/internal/devcluster"
	"github.com/consulexec/consulexec/internal/runtest"
)

// TestManyRuns has 150 runs at once over one agent with Consul's default limits:
// with a client that each makes for itself, and with one for all. The sockets at
// the agent are counted.
func TestManyRuns(t *testing.T) {
	needsConsul(t)
	const runs, limit = 150, 100
	cluster := devcluster.Start(t, devcluster.Config{Nodes: devcluster.Nodes(1, 2)})
	for _, name := range []string{"own clients", "one client"} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, cluster.Address("client-1"))
			reach := consulexec.WithConfig(&api.Config{Address: p.Address()})
			if name == "one client" {
				transport := &http.Transport{MaxIdleConnsPerHost: limit}
				defer transport.CloseIdleConnections()
				client, err := api.NewClient(&api.Config{Address: p.Address(), HttpClient: &http.Client{Transport: transport}})
				if err != nil {
					t.Fatal(err)
				}
				reach = consulexec.WithClient(client)
			}
			var calls sync.WaitGroup
			for range runs {
				calls.Go(func() {
					e, err := consulexec.New("sleep 2", reach)
					if err != nil {
						t.Error(err)
						return
					}
					result, err := e.Run(t.Context())
					if got, want := runtest.States(result), "client-1: exit 0, client-2: exit 0, server-1: exit 0"; err != nil || got != want {
						t.Errorf("error %v, states %s", err, got)
					}
				})
			}
			calls.Wait()
			if _, most := p.Connections(); most > limit {
				t.Errorf("%d connections at once", most)
			}
			if name == "own clients" {
				awaitClosed(t, p)
			}
		})
	}
	sessions, _, err := cluster.Client("client-1").Session().List(nil)
	if err != nil || len(sessions) > 0 {
		t.Errorf("error %v, %d sessions are left", err, len(sessions))
	}
}

// awaitClosed waits until a proxy has no connection.
func awaitClosed(t *testing.T, p *proxy) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		now, _ := p.Connections()
		if now == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d connections are left", now)
		}
	}
}

// TestOneConnection counts the connections of a run that waits: one is enough
// for a listing that waits, and one for all that comes between.
func TestOneConnection(t *testing.T) {
	needsConsul(t)
	cluster := devcluster.Start(t, devcluster.Config{Nodes: devcluster.Nodes(1, 2)})
	p := newProxy(t, cluster.Address("client-1"))
	rec := runtest.NewRecorder(t, cluster.Client("server-1"))
	rec.Reach = consulexec.WithConfig(&api.Config{Address: p.Address()})
	e := rec.New("sleep 12")
	result, err := e.Run(t.Context())
	if rec.Check(e, result, err); err != nil {
		t.Error(err)
	}
	if _, most := p.Connections(); most > 2 {
		t.Errorf("%d connections at once", most)
	}
	awaitClosed(t, p)
}

// TestFullAgent takes all connections that an agent grants: before a run begins,
// and while one lives.
func TestFullAgent(t *testing.T) {
	needsConsul(t)
	cluster := devcluster.Start(t, devcluster.Config{Nodes: devcluster.Nodes(1, 2)})
	address := cluster.Address("client-1")
	// fill takes connections until the agent refuses them, again and again, until
	// it is told to end.
	fill := func(t *testing.T) (release func()) {
		ctx, cancel := context.WithCancel(t.Context())
		var filling sync.WaitGroup
		full := make(chan struct{})
		filling.Go(func() {
			var held []net.Conn
			defer func() {
				for _, conn := range held {
					conn.Close()
				}
			}()
			for first := true; ctx.Err() == nil; {
				conn, err := net.Dial("tcp", address)
				if err != nil {
					t.Error(err)
					return
				}
				// Consul says nothing to a connection that it grants.
				conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
				_, err = conn.Read(make([]byte, 1))
				var timeout net.Error
				if errors.As(err, &timeout) && timeout.Timeout() {
					held = append(held, conn)
					continue
				}
				conn.Close()
				if first {
					first = false
					close(full)
				}
				pause(ctx, 50*time.Millisecond)
			}
		})
		<-full
		return func() {
			cancel()
			filling.Wait()
		}
	}
	start := func(t *testing.T, command string) *consulexec.Exec {
		e, err := consulexec.New(command, consulexec.WithConfig(&api.Config{Address: address}))
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		return e
	}
	check := func(t *testing.T, e *consulexec.Exec) {
		result, err := e.Wait()
		if got, want := runtest.States(result), "client-1: exit 0, client-2: exit 0, server-1: exit 0"; err != nil || got != want {
			t.Errorf("error %v, states %s", err, got)
		}
	}
	t.Run("before", func(t *testing.T) {
		release := fill(t)
		e := start(t, "uptime")
		time.Sleep(8 * time.Second) // longer than a run waits for a Consul that is down
		release()
		check(t, e)
	})
	t.Run("meanwhile", func(t *testing.T) {
		e := start(t, "sleep 45")
		time.Sleep(time.Second)
		defer fill(t)() // for longer than the session lives without a renewal
		check(t, e)
	})
}

// TestEventPace has many runs at once on nodes that take the job at once, and
// looks when their events went out. Each run's ack timeout is shorter than the
// time that all need.
func TestEventPace(t *testing.T) {
	nodes := []exectest.Option{runtest.Node("a", runtest.Up), runtest.Node("off", runtest.Up, exectest.ExecDisabled())}
	runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		fired := recordEvents(srv)
		client := srv.Client()
		const runs = 100
		var calls sync.WaitGroup
		for range runs {
			calls.Go(func() {
				e, err := consulexec.New("x", consulexec.WithClient(client), consulexec.WithAckTimeout(time.Second))
				if err != nil {
					t.Error(err)
					return
				}
				result, err := e.Run(t.Context())
				if got, want := runtest.States(result), "a: exit 0, off: no response"; err != nil || got != want {
					t.Errorf("error %v, states %s", err, got)
				}
			})
		}
		calls.Wait()
		if srv.Executions("a") != runs || len(fired()) != runs {
			t.Errorf("a ran %d commands, and %d events went out", srv.Executions("a"), len(fired()))
		}
		checkPace(t, fired())
	})
}

// TestFairPace has a rolling run on thousands of nodes, and then runs on one node.
func TestFairPace(t *testing.T) {
	var nodes []exectest.Option
	for i := range 5000 {
		nodes = append(nodes, runtest.Node(fmt.Sprintf("n-%04d", i), runtest.Up))
	}
	runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		client := srv.Client()
		ctx, cancel := context.WithCancel(t.Context())
		rolling, err := consulexec.New("x", consulexec.WithClient(client), consulexec.WithConcurrency(50))
		if err != nil {
			t.Fatal(err)
		}
		if err := rolling.Start(ctx); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		for range 5 {
			start := time.Now()
			_, result, err := runtest.Execute(t, client, "x", consulexec.WithNodes("n-4999"))
			if got := runtest.States(result); err != nil || got != "n-4999: exit 0" {
				t.Errorf("error %v, states %s", err, got)
			}
			if took := time.Since(start); took > time.Second {
				t.Errorf("beside a rolling run, one on one node took %v", took)
			}
		}
		cancel()
		result, _ := rolling.Wait()
		started := slices.IndexFunc(result.Nodes, func(n consulexec.NodeResult) bool { return n.State == consulexec.StateSkipped })
		if started < 50 {
			t.Errorf("the rolling run began on %d nodes only", started)
		}
	})
}

// TestGoesOnBesideMany has a rolling run go on while hundreds of runs begin. It
// does not wait behind them for each node.
func TestGoesOnBesideMany(t *testing.T) {
	nodes := []exectest.Option{runtest.Node("a", runtest.Up), runtest.Node("b", runtest.Up), runtest.Node("c", runtest.Up)}
	runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		client := srv.Client()
		var calls sync.WaitGroup
		begin := func(options ...consulexec.Option) {
			calls.Go(func() {
				if _, result, err := runtest.Execute(t, client, "x", options...); err != nil || result.Err() != nil {
					t.Errorf("error %v, result %v", err, result.Err())
				}
			})
		}
		start := time.Now()
		var took time.Duration
		begin(consulexec.WithConcurrency(1), consulexec.OnDone(func() { took = time.Since(start) }))
		synctest.Wait()
		for range 400 {
			begin()
		}
		calls.Wait()
		if all := time.Since(start); took > 3*time.Second || all < 15*time.Second {
			t.Errorf("the rolling run took %v, all took %v", took, all)
		}
	})
}

// TestLookUp has nodes that print nothing for longer than the lost timeout, one
// whose agent fails, and one whose agent leaves. Only silence makes the run ask
// the catalog about them.
func TestLookUp(t *testing.T) {
	for _, test := range []struct {
		name   string
		node   exectest.Handler
		states string
		err    string // part of c's
		asked  bool
	}{
		{"quiet", runtest.Sleeps(time.Minute), "a: exit 0, b: exit 0", "", false},
		{"fails", runtest.Dies(time.Second), "a: exit 0, b: lost", "and serfHealth is critical", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			nodes := []exectest.Option{runtest.Node("a", runtest.Sleeps(20*time.Second)), runtest.Node("b", test.node)}
			runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
				asked := 0
				srv.Fault(exectest.Fault{Match: func(r *http.Request) bool {
					return r.URL.Path == "/v1/health/state/critical" || strings.HasPrefix(r.URL.Path, "/v1/health/node/")
				}, Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
					if asked++; r.URL.Query().Has("index") {
						t.Error("a look at the catalog waits for a change")
					}
					next.ServeHTTP(w, r)
				}})
				_, result, err := runtest.Execute(t, srv.Client(), "x")
				b, _ := result.Node("b")
				if got := runtest.States(result); err != nil || got != test.states || !strings.Contains(fmt.Sprint(b.Err), test.err) {
					t.Errorf("error %v, states %s, b: %v", err, got, b.Err)
				}
				if (asked > 0) != test.asked || asked > 6 {
					t.Errorf("the catalog was asked %d times", asked)
				}
			})
		})
	}
}

// TestAgentLeaves has an agent leave the cluster while its node runs the command:
// the catalog has no such node any more.
func TestAgentLeaves(t *testing.T) {
	needsConsul(t)
	cluster := devcluster.Start(t, devcluster.Config{Nodes: devcluster.Nodes(1, 2)})
	rec := runtest.NewRecorder(t, cluster.Client("server-1"))
	rec.Hook = func(call string) {
		if call == "ack client-2" {
			go func() {
				if err := cluster.Stop("client-2"); err != nil {
					t.Error(err)
				}
			}()
		}
	}
	e := rec.New("sleep 20", consulexec.WithLostTimeout(time.Hour))
	result, err := e.Run(t.Context())
	rec.Check(e, result, err)
	n, _ := result.Node("client-2")
	if got, want := runtest.States(result), "client-1: exit 0, client-2: lost, server-1: exit 0"; err != nil || got != want {
		t.Errorf("error %v, states %s", err, got)
	}
	if !strings.Contains(fmt.Sprint(n.Err), "the catalog has no such agent any more") {
		t.Errorf("client-2: %v", n.Err)
	}
}

// TestDatacenterCutOff has all requests to another datacenter hang, with a
// hundred runs there. Runs in this one do not wait for them.
func TestDatacenterCutOff(t *testing.T) {
	nodes := []exectest.Option{
		runtest.Node("a", runtest.Up),
		exectest.Datacenter("dc2", runtest.Node("far", runtest.Sleeps(time.Hour))),
	}
	runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		client := srv.Client()
		var calls sync.WaitGroup
		for range 100 {
			calls.Go(func() {
				e, err := consulexec.New("x", consulexec.WithClient(client), consulexec.WithDatacenter("dc2"))
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := e.Run(t.Context()); !errors.Is(err, consulexec.ErrSessionLost) {
					t.Errorf("a run in dc2: error %v", err)
				}
			})
		}
		time.Sleep(30 * time.Second)
		remove := srv.Fault(exectest.Fault{
			Match: func(r *http.Request) bool { return r.URL.Query().Get("dc") == "dc2" },
			Do:    func(_ http.ResponseWriter, r *http.Request, _ http.Handler) { <-r.Context().Done() },
		})
		for range 10 {
			time.Sleep(2 * time.Second)
			e, err := consulexec.New("x", consulexec.WithClient(client))
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			result, err := e.Run(t.Context())
			if got := runtest.States(result); err != nil || got != "a: exit 0" {
				t.Errorf("error %v, states %s", err, got)
			}
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("a run in dc1 took %v", took)
			}
		}
		calls.Wait()
		remove() // and the sessions end
	})
}

// TestRenewalsBesideHung has many requests of others hang for minutes, and a run
// that has to renew its session meanwhile.
func TestRenewalsBesideHung(t *testing.T) {
	nodes := []exectest.Option{runtest.Node("a", runtest.Sleeps(2*time.Minute))}
	runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		client := srv.Client()
		e, err := consulexec.New("x", consulexec.WithClient(client))
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		srv.Fault(exectest.Fault{Match: exectest.Path("GET", "/v1/health/state/any"), Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			<-r.Context().Done()
		}})
		var calls sync.WaitGroup
		for range 400 {
			calls.Go(func() {
				other, err := consulexec.New("x", consulexec.WithClient(client))
				if err == nil {
					_, err = other.Targets(t.Context())
				}
				if err == nil {
					t.Error("a request that hangs has succeeded")
				}
			})
		}
		result, err := e.Wait()
		if got := runtest.States(result); err != nil || got != "a: exit 0" {
			t.Errorf("error %v, states %s", err, got)
		}
		calls.Wait()
	})
}

// TestEventPaceAfterOutage has runs begin while Consul has no leader. Their events
// do not all go out when it has one.
func TestEventPaceAfterOutage(t *testing.T) {
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Up)}, func(t *testing.T, srv *exectest.Server) {
		start := time.Now()
		srv.Fault(exectest.Fault{Match: exectest.Path("PUT", "/v1/session/create"), Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if time.Since(start) < 4*time.Second {
				http.Error(w, "No cluster leader", http.StatusInternalServerError)
				return
			}
			next.ServeHTTP(w, r)
		}})
		fired := recordEvents(srv)
		client := srv.Client()
		var calls sync.WaitGroup
		for range 60 {
			calls.Go(func() {
				e, err := consulexec.New("x", consulexec.WithClient(client))
				if err != nil {
					t.Error(err)
					return
				}
				if result, err := e.Run(t.Context()); err != nil || runtest.States(result) != "a: exit 0" {
					t.Errorf("error %v, states %s", err, runtest.States(result))
				}
			})
		}
		calls.Wait()
		checkPace(t, fired())
	})
}

// recordEvents returns a function that says when events went out.
func recordEvents(srv *exectest.Server) (fired func() []time.Time) {
	var mu sync.Mutex
	var at []time.Time
	srv.Fault(exectest.Fault{Match: exectest.Path("PUT", "/v1/event/fire"), Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		mu.Lock()
		at = append(at, time.Now())
		mu.Unlock()
		next.ServeHTTP(w, r)
	}})
	return func() []time.Time {
		mu.Lock()
		defer mu.Unlock()
		return at
	}
}

// checkPace checks that gossip can carry small events that went out at these
// times: some 20 a second.
func checkPace(t *testing.T, fired []time.Time) {
	t.Helper()
	for i := 20; i < len(fired); i++ {
		if took := fired[i].Sub(fired[i-20]); took < 500*time.Millisecond {
			t.Errorf("events %d to %d went out in %v", i-20, i, took)
		}
	}
}
