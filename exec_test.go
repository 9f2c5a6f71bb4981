package consulexec_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
)

// bubble runs test in a synctest bubble, on a cluster of exectest: there hours
// pass in no time, and a goroutine that does not end fails the test.
func bubble(t *testing.T, options []exectest.Option, test func(t *testing.T, srv *exectest.Server)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		srv := exectest.NewServer(options...)
		defer srv.Close()
		test(t, srv)
	})
}

// node is a node that runs h.
func node(name string, h exectest.Handler, options ...exectest.NodeOption) exectest.Option {
	return exectest.Node(name, append(options, exectest.Run(h))...)
}

// sleeps is a command that is silent for d.
func sleeps(d time.Duration) exectest.Handler {
	return func(ctx context.Context, j *exectest.Job) int {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
		return 0
	}
}

// dies is a command in whose midst the agent dies, d after its start.
func dies(d time.Duration) exectest.Handler {
	return func(ctx context.Context, j *exectest.Job) int {
		fmt.Fprintln(j.Output, "begun")
		sleeps(d)(ctx, j)
		j.Die()
		return 0
	}
}

// givesUp is a command in whose midst the agent fails to write, d after its
// start, and reports nothing after that.
func givesUp(d time.Duration) exectest.Handler {
	return func(ctx context.Context, j *exectest.Job) int {
		fmt.Fprintln(j.Output, "begun")
		sleeps(d)(ctx, j)
		j.Silence()
		return 0
	}
}

var ok = exectest.Answer("up\n", 0)

func TestStartAndWait(t *testing.T) {
	srv := exectest.NewServer(node("a", ok))
	defer srv.Close()
	rec := &recorder{t: t}
	e, err := consulexec.New("x", append(rec.options(), consulexec.WithClient(srv.Client()))...)
	if err != nil {
		t.Fatal(err)
	}
	if result, err := e.Wait(); result != nil || !errors.Is(err, consulexec.ErrNotStarted) {
		t.Errorf("Wait before Start: %v, %v", result, err)
	}
	//lint:ignore SA1012 what a nil context does is the point
	if err := e.Start(nil); err == nil {
		t.Error("Start takes a nil context")
	}
	if err := e.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := e.Start(t.Context()); !errors.Is(err, consulexec.ErrStarted) {
		t.Errorf("second Start: %v", err)
	}
	if result, err := e.Run(t.Context()); result != nil || !errors.Is(err, consulexec.ErrStarted) {
		t.Errorf("Run after Start: %v, %v", result, err)
	}
	var waiters sync.WaitGroup
	for range 3 {
		waiters.Go(func() {
			if result, err := e.Wait(); err != nil || states(result) != "a: exit 0" {
				t.Errorf("error %v, states %v", err, states(result))
			}
		})
	}
	waiters.Wait()
	rec.check(nil)
	if srv.Executions("a") != 1 {
		t.Errorf("ran %d times", srv.Executions("a"))
	}
}

// TestManyRuns has one client serve several runs at once.
func TestManyRuns(t *testing.T) {
	bubble(t, []exectest.Option{node("a", ok), node("b", sleeps(time.Minute))}, func(t *testing.T, srv *exectest.Server) {
		var runs sync.WaitGroup
		for range 20 {
			runs.Go(func() {
				e, err := consulexec.New("x", consulexec.WithClient(srv.Client()))
				if err != nil {
					t.Error(err)
					return
				}
				if result, err := e.Run(t.Context()); err != nil || states(result) != "a: exit 0, b: exit 0" {
					t.Errorf("error %v, states %s", err, states(result))
				}
			})
		}
		runs.Wait()
		if keys, sessions := srv.Keys(""), srv.Sessions(); len(keys)+len(sessions) > 0 {
			t.Errorf("left behind: %v %v", keys, sessions)
		}
	})
}

// TestRequests counts what a small run costs.
func TestRequests(t *testing.T) {
	bubble(t, []exectest.Option{node("a", ok), node("b", ok), node("c", ok)}, func(t *testing.T, srv *exectest.Server) {
		if _, result, err := execute(t, srv.Client(), "uptime"); err != nil || result.Err() != nil {
			t.Fatal(err, result.Err())
		}
		n := 0
		for _, r := range srv.Requests() {
			if strings.HasPrefix(r.Path, "/v1/session/list") || strings.HasPrefix(r.Path, "/v1/catalog/datacenters") || r.Path == "/v1/kv/" {
				continue // ours, to see what is left
			}
			n++
		}
		if n > 25 {
			t.Errorf("%d requests", n)
		}
	})
}

// TestSlowCallback has callbacks that take far longer than the session lives and
// than any timeout: nothing is lost by that.
func TestSlowCallback(t *testing.T) {
	talks := func(ctx context.Context, j *exectest.Job) int {
		for i := range 20 {
			fmt.Fprintln(j.Output, i)
			sleeps(5*time.Second)(ctx, j)
		}
		return 0
	}
	bubble(t, []exectest.Option{node("a", talks), node("b", sleeps(3*time.Minute))}, func(t *testing.T, srv *exectest.Server) {
		rec := &recorder{hook: func(call string) {
			if call == "ack a" || call == "output a" {
				time.Sleep(time.Minute)
			}
		}}
		_, result, err := executeContext(t.Context(), t, srv.Client(), rec, "x")
		if err != nil || result.Err() != nil {
			t.Errorf("error %v, result %v", err, result.Err())
		}
	})
}

// TestSlowCallbackMemory has a callback take so long that a lot of output waits
// for it. The next listing may not bring values along, which would be all of it
// at once.
func TestSlowCallbackMemory(t *testing.T) {
	for slow, d := range map[string]time.Duration{"ack a": time.Second, "heartbeat a": 700 * time.Millisecond} {
		bubble(t, []exectest.Option{node("a", counts(20))}, func(t *testing.T, srv *exectest.Server) {
			var slept time.Time
			rec := &recorder{hook: func(call string) {
				if call == slow && slept.IsZero() {
					time.Sleep(d)
					slept = time.Now()
				}
			}}
			if _, result, err := executeContext(t.Context(), t, srv.Client(), rec, "x"); err != nil || result.Err() != nil {
				t.Fatalf("error %v, result %v", err, result.Err())
			}
			listings := 0
			for _, r := range srv.Requests() {
				lists := r.Method == "GET" && strings.HasPrefix(r.Path, "/v1/kv/_rexec/")
				if !lists || r.Time.Before(slept) {
					continue
				}
				if listings++; listings == 1 && r.Query.Has("recurse") {
					t.Errorf("%s: values were listed right after the slow callback", slow)
				}
			}
			if listings == 0 {
				t.Errorf("%s: nothing was listed after the slow callback", slow)
			}
		})
	}
}

// TestSilentForHours has a command that prints nothing for longer than any
// timeout: its heartbeats keep it.
func TestSilentForHours(t *testing.T) {
	bubble(t, []exectest.Option{node("a", sleeps(3*time.Hour))}, func(t *testing.T, srv *exectest.Server) {
		rec, result, err := execute(t, srv.Client(), "x", consulexec.WithWait(10*time.Second))
		if err != nil || result.Err() != nil {
			t.Errorf("error %v, result %v", err, result.Err())
		}
		if n := rec.count("heartbeat a"); n < 1000 {
			t.Errorf("%d heartbeats", n)
		}
	})
}

// TestLost has a node whose agent lives and reports nothing more, and one whose
// agent dies, which the other agents notice.
func TestLost(t *testing.T) {
	options := []exectest.Option{
		node("a", ok),
		node("b", givesUp(10*time.Second)),
		node("c", sleeps(time.Minute)),
		node("d", dies(10*time.Second)),
	}
	bubble(t, options, func(t *testing.T, srv *exectest.Server) {
		start := time.Now()
		noticed := make(map[string]time.Duration)
		rec := &recorder{hook: func(call string) { noticed[call] = time.Since(start) }}
		_, result, err := executeContext(t.Context(), t, srv.Client(), rec, "x", consulexec.WithLostTimeout(20*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := states(result), "a: exit 0, b: lost, c: exit 0, d: lost"; got != want {
			t.Errorf("states %s, want %s", got, want)
		}
		for name, want := range map[string]struct {
			text     string
			min, max time.Duration
		}{
			"b": {"silent for 20", 28 * time.Second, 31 * time.Second}, // the last heartbeat was up to 2 s before
			"d": {"serfHealth is critical", 10 * time.Second, 15 * time.Second},
		} {
			n, _ := result.Node(name)
			var lost *consulexec.NodeError
			if !errors.As(n.Err, &lost) || lost.Node != name || lost.State != consulexec.StateLost || !strings.Contains(lost.Error(), want.text) {
				t.Errorf("error %v", n.Err)
			}
			if after := noticed["lost "+name]; after < want.min || after > want.max {
				t.Errorf("%s: noticed after %v", name, after)
			}
			if string(rec.output[name]) != "begun\n" {
				t.Errorf("output %q", rec.output[name])
			}
		}
	})
}

func TestNoResponse(t *testing.T) {
	options := []exectest.Option{
		node("a", ok),
		node("late", ok, exectest.AckAfter(7*time.Second)),
		node("off", ok, exectest.ExecDisabled()),
		node("down", ok, exectest.Down()),
		node("other", ok, exectest.External()),
		node("slow", sleeps(10*time.Second)),
	}
	bubble(t, options, func(t *testing.T, srv *exectest.Server) {
		start := time.Now()
		rec, result, err := execute(t, srv.Client(), "x")
		if err != nil {
			t.Fatal(err)
		}
		// The node that is down and the one without an agent are not expected;
		// the late one counts since another keeps the run going.
		if got, want := states(result), "a: exit 0, late: exit 0, off: no response, slow: exit 0"; got != want {
			t.Errorf("states %s, want %s", got, want)
		}
		if !slices.Contains(rec.calls, "no-response late") || !slices.Contains(rec.calls, "no-response off") {
			t.Errorf("calls %v", rec.calls)
		}
		if took := time.Since(start); took > 11*time.Second {
			t.Errorf("took %v", took)
		}
	})
	bubble(t, options[:3], func(t *testing.T, srv *exectest.Server) {
		start := time.Now()
		_, result, err := execute(t, srv.Client(), "x", consulexec.WithAckTimeout(3*time.Second))
		if err != nil || states(result) != "a: exit 0, late: no response, off: no response" {
			t.Errorf("error %v, states %s", err, states(result))
		}
		if took := time.Since(start); took < 3*time.Second || took > 4*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// TestCatalogHidden has a token that may not read the catalog: silence ends the
// run, and the result says why.
func TestCatalogHidden(t *testing.T) {
	for name, fault := range map[string]exectest.Fault{
		"empty lists": {Match: exectest.Path("GET", "/v1/health/"), Do: exectest.FilteredByACLs},
		"denied":      {Match: exectest.Path("GET", "/v1/health/"), Do: exectest.Denied},
		"services":    {Match: exectest.Path("GET", "/v1/catalog/services"), Do: exectest.FilteredByACLs},
		"instances":   {Match: exectest.Path("GET", "/v1/catalog/service/"), Do: exectest.FilteredByACLs},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, []exectest.Option{node("a", ok, exectest.WithService("web")), node("b", ok)}, func(t *testing.T, srv *exectest.Server) {
				srv.Fault(fault)
				start := time.Now()
				_, result, err := execute(t, srv.Client(), "x", consulexec.WithService("web"), consulexec.WithWait(4*time.Second))
				if err != nil || result.Err() != nil || states(result) != "a: exit 0" {
					t.Errorf("error %v, result %v, states %s", err, result.Err(), states(result))
				}
				if !errors.Is(result.DiscoveryErr, consulexec.ErrPermissionDenied) {
					t.Errorf("discovery: %v", result.DiscoveryErr)
				}
				if took := time.Since(start); took < 4*time.Second {
					t.Errorf("took %v, less than the silence", took)
				}
			})
		})
	}
}

// TestServiceChecksHidden has a token that may read all nodes, but not the
// checks of services: that is enough for an exact end.
func TestServiceChecksHidden(t *testing.T) {
	bubble(t, []exectest.Option{node("a", ok), node("b", ok)}, func(t *testing.T, srv *exectest.Server) {
		srv.Fault(exectest.Fault{
			Match: exectest.Path("GET", "/v1/health/"),
			Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				w.Header().Set("X-Consul-Results-Filtered-By-ACLs", "true")
				next.ServeHTTP(w, r)
			},
		})
		_, result, err := execute(t, srv.Client(), "x")
		if err != nil || result.DiscoveryErr != nil || states(result) != "a: exit 0, b: exit 0" {
			t.Errorf("error %v, discovery %v, states %s", err, result.DiscoveryErr, states(result))
		}
	})
}

func TestUnreachable(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	rec := &recorder{t: t}
	e, err := consulexec.New("x", append(rec.options(), consulexec.WithConfig(&api.Config{Address: address}))...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	result, err := e.Run(ctx)
	if err == nil || !strings.Contains(err.Error(), address) || result == nil || result.Err() == nil {
		t.Errorf("error %v", err)
	}
	if ctx.Err() != nil {
		t.Error("it took a minute")
	}
	rec.check(err)
}

// TestNoAnswer has a Consul that takes connections and never answers.
func TestNoAnswer(t *testing.T) {
	bubble(t, nil, func(t *testing.T, srv *exectest.Server) {
		remove := srv.Fault(exectest.Fault{Match: exectest.Path("PUT", ""), Do: exectest.Hang})
		defer remove()
		e, err := consulexec.New("x", consulexec.WithClient(srv.Client()))
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		_, err = e.Run(t.Context())
		if err == nil || errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "http://") || !strings.Contains(err.Error(), "no answer") {
			t.Errorf("error %v", err)
		}
		if took := time.Since(start); took > 30*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// TestDeniedSession has a token that lacks a permission the run can't do without.
func TestDenied(t *testing.T) {
	for _, path := range []string{"/v1/session/create", "/v1/kv/", "/v1/event/fire/"} {
		bubble(t, []exectest.Option{node("a", ok)}, func(t *testing.T, srv *exectest.Server) {
			srv.Fault(exectest.Fault{Match: exectest.Path("PUT", path), Do: exectest.Denied})
			_, _, err := execute(t, srv.Client(), "x")
			if !errors.Is(err, consulexec.ErrPermissionDenied) {
				t.Errorf("%s: error %v", path, err)
			}
			if srv.Executions("a") != 0 {
				t.Errorf("%s: the command ran", path)
			}
		})
	}
}

// TestServersDown has a datacenter without a healthy server.
func TestServersDown(t *testing.T) {
	bubble(t, []exectest.Option{node("a", ok), exectest.Datacenter("dc2", node("far", ok))}, func(t *testing.T, srv *exectest.Server) {
		srv.Kill("far")
		_, _, err := execute(t, srv.Client(), "x", consulexec.WithDatacenter("dc2"))
		if err == nil || !strings.Contains(err.Error(), `"dc2"`) || !strings.Contains(err.Error(), "healthy") {
			t.Errorf("error %v", err)
		}
	})
}

// TestCancelledInRequest has the context end while each request of a run in turn
// is under way: the run ends soon, and nothing is left.
func TestCancelledInRequest(t *testing.T) {
	requests := 0
	for n := 0; n <= requests; n++ {
		bubble(t, []exectest.Option{node("a", sleeps(time.Second)), node("b", ok)}, func(t *testing.T, srv *exectest.Server) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var ended time.Time
			var mu sync.Mutex // guards the count
			count := 0
			remove := srv.Fault(exectest.Fault{Delay: time.Second, Match: func(*http.Request) bool {
				mu.Lock()
				defer mu.Unlock()
				count++
				if count == n+1 {
					ended = time.Now().Add(500 * time.Millisecond)
					time.AfterFunc(500*time.Millisecond, cancel)
				}
				return count == n+1
			}})
			e, err := consulexec.New("x", consulexec.WithClient(srv.Client()))
			if err != nil {
				t.Fatal(err)
			}
			result, err := e.Run(ctx)
			took := time.Since(ended)
			remove()
			if n == 0 {
				requests = max(requests, 5)
			}
			if ended.IsZero() { // the run had no such request
				if err != nil {
					t.Errorf("no request %d: %v", n, err)
				}
				return
			}
			requests = max(requests, count)
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("request %d: error %v", n, err)
			}
			if took > 6*time.Second {
				t.Errorf("request %d: ended after %v", n, took)
			}
			checkNothingLeft(t, srv.Client(), e, result)
		})
	}
	if requests < 8 {
		t.Errorf("only %d requests", requests)
	}
}

// TestSlowCallbackCancelled has a callback outlast the context, and one that then
// panics: nothing is left all the same.
func TestSlowCallbackCancelled(t *testing.T) {
	for _, panics := range []bool{false, true} {
		bubble(t, []exectest.Option{node("a", sleeps(time.Hour))}, func(t *testing.T, srv *exectest.Server) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			e, err := consulexec.New("x", consulexec.WithClient(srv.Client()), consulexec.OnAck(func(string) {
				time.Sleep(time.Minute)
				if panics {
					panic("on purpose")
				}
			}))
			if err != nil {
				t.Fatal(err)
			}
			func() {
				defer func() {
					if p := recover(); (p != nil) != panics {
						t.Errorf("recovered %v", p)
					}
				}()
				if _, err := e.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("error %v", err)
				}
			}()
			result, _ := e.Wait()
			checkNothingLeft(t, srv.Client(), e, result)
		})
	}
}

// TestCancelledWhileFailing has the context end while Consul refuses a session:
// no further one is asked for, and the error says what ended the run.
func TestCancelledWhileFailing(t *testing.T) {
	for name, way := range waysToFail {
		bubble(t, []exectest.Option{node("a", ok)}, func(t *testing.T, srv *exectest.Server) {
			remove := srv.Fault(exectest.Fault{Match: exectest.Path("PUT", "/v1/session/create"), Do: way})
			ctx, cancel := context.WithCancel(t.Context())
			var cancelled time.Time
			time.AfterFunc(300*time.Millisecond, func() {
				cancelled = time.Now()
				cancel()
			})
			e, err := consulexec.New("x", consulexec.WithClient(srv.Client()))
			if err != nil {
				t.Fatal(err)
			}
			result, err := e.Run(ctx)
			remove()
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%s: error %v", name, err)
			}
			if took := time.Since(cancelled); took > 6*time.Second {
				t.Errorf("%s: ended %v after the context", name, took)
			}
			for _, r := range srv.Requests() {
				if r.Path == "/v1/session/create" && r.Time.After(cancelled) {
					t.Errorf("%s: a session was asked for after the end", name)
				}
			}
			checkNothingLeft(t, srv.Client(), e, result)
		})
	}
}

// TestCleanBeforeDone checks that session and keys are gone when the last
// callback comes.
func TestCleanBeforeDone(t *testing.T) {
	bubble(t, []exectest.Option{node("a", ok)}, func(t *testing.T, srv *exectest.Server) {
		rec := &recorder{hook: func(call string) {
			if left := append(srv.Keys(""), srv.Sessions()...); call == "done" && len(left) > 0 {
				t.Errorf("left when OnDone was called: %v", left)
			}
		}}
		if _, result, err := executeContext(t.Context(), t, srv.Client(), rec, "x"); err != nil || result.Err() != nil {
			t.Errorf("error %v, result %v", err, result.Err())
		}
	})
}

// TestSessionLostAtDeadline has the session destroyed just before silence ends
// the run: that it ended by silence would be no truth.
func TestSessionLostAtDeadline(t *testing.T) {
	bubble(t, []exectest.Option{node("a", ok), node("off", ok, exectest.ExecDisabled())}, func(t *testing.T, srv *exectest.Server) {
		srv.Fault(exectest.Fault{Match: exectest.Path("PUT", "/v1/session/renew/"), Delay: 300 * time.Millisecond})
		time.AfterFunc(4900*time.Millisecond, func() {
			for _, id := range srv.Sessions() {
				srv.DestroySession(id)
			}
		})
		if _, result, err := execute(t, srv.Client(), "x"); !errors.Is(err, consulexec.ErrSessionLost) {
			t.Errorf("error %v, states %s", err, states(result))
		}
	})
}

// TestIndexGoesBack has Consul restore a snapshot in the midst of a run.
func TestIndexGoesBack(t *testing.T) {
	talks := func(ctx context.Context, j *exectest.Job) int {
		for i := range 10 {
			fmt.Fprintln(j.Output, i)
			sleeps(time.Second)(ctx, j)
		}
		return 0
	}
	bubble(t, []exectest.Option{node("a", talks)}, func(t *testing.T, srv *exectest.Server) {
		rec := &recorder{}
		rec.hook = func(call string) {
			if call == "output a" && rec.count("output a") == 5 {
				srv.RewindIndex()
			}
		}
		_, result, err := executeContext(t.Context(), t, srv.Client(), rec, "x")
		if err != nil || result.Err() != nil {
			t.Fatalf("error %v, result %v", err, result.Err())
		}
		if got, want := string(rec.output["a"]), "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n"; got != want {
			t.Errorf("output %q", got)
		}
	})
}

// TestGoexit has a callback end its goroutine, as t.FailNow does.
func TestGoexit(t *testing.T) {
	bubble(t, []exectest.Option{node("a", ok)}, func(t *testing.T, srv *exectest.Server) {
		e, err := consulexec.New("x", consulexec.WithClient(srv.Client()), consulexec.OnAck(func(string) { runtime.Goexit() }))
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		result, err := e.Wait()
		if err == nil || result.Err() == nil {
			t.Errorf("error %v", err)
		}
		checkNothingLeft(t, srv.Client(), e, result)
	})
}

const panicAddress = "CONSULEXEC_TEST_PANIC_AT"

// TestPanicAfterStart has a callback panic in a program of its own, which has to
// end by that, but not before session and keys are gone.
func TestPanicAfterStart(t *testing.T) {
	if address := os.Getenv(panicAddress); address != "" {
		e, err := consulexec.New("x", consulexec.WithConfig(&api.Config{Address: address}),
			consulexec.OnOutput(func(string, []byte) { panic("on purpose") }))
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		select {} // the panic is all that can end this
	}
	srv := exectest.NewServer(node("a", ok))
	defer srv.Close()
	program := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestPanicAfterStart$")
	program.Env = append(os.Environ(), panicAddress+"="+strings.TrimPrefix(srv.URL, "http://"))
	output, err := program.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || !bytes.Contains(output, []byte("panic: on purpose")) {
		t.Errorf("error %v, output %s", err, output)
	}
	if keys, sessions := srv.Keys(""), srv.Sessions(); len(keys)+len(sessions) > 0 {
		t.Errorf("left behind: %v %v", keys, sessions)
	}
	if srv.Executions("a") != 1 {
		t.Error("the command did not run")
	}
}

func TestLog(t *testing.T) {
	srv := exectest.NewServer(node("a", ok))
	defer srv.Close()
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	config := &api.Config{Address: srv.URL, Token: "very-secret"}
	e, err := consulexec.New("do --password=hush", consulexec.WithConfig(config), consulexec.WithLogger(logger))
	if err != nil {
		t.Fatal(err)
	}
	result, err := e.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(log.String()) {
		if !strings.Contains(line, "run="+e.ID()) || !strings.Contains(line, "level=DEBUG") {
			t.Errorf("log line %q", line)
		}
	}
	for _, step := range []string{"session created", "job written", "targets found", "event fired", "msg=ack", "msg=output", "msg=exit", "session destroyed", "keys deleted", "msg=done", result.Session} {
		if !strings.Contains(log.String(), step) {
			t.Errorf("log does not have %q:\n%s", step, &log)
		}
	}
	for _, secret := range []string{"hush", "very-secret"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("%q is in the log:\n%s", secret, &log)
		}
	}
}

// TestSessionName checks that an operator can tell whose session it is.
func TestSessionName(t *testing.T) {
	bubble(t, []exectest.Option{node("a", sleeps(time.Second))}, func(t *testing.T, srv *exectest.Server) {
		var e *consulexec.Exec
		var names []string
		e, err := consulexec.New("x", consulexec.WithClient(srv.Client()), consulexec.OnAck(func(string) {
			sessions, _, err := srv.Client().Session().List(nil)
			if err != nil {
				t.Error(err)
			}
			for _, s := range sessions {
				names = append(names, s.Name)
			}
		}))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		host, _ := os.Hostname()
		if len(names) != 1 || !strings.Contains(names[0], e.ID()) || !strings.Contains(names[0], host) {
			t.Errorf("session names %q", names)
		}
	})
}

// TestReplicationWait measures the pause between job and event.
func TestReplicationWait(t *testing.T) {
	bubble(t, []exectest.Option{node("a", ok)}, func(t *testing.T, srv *exectest.Server) {
		if _, result, err := execute(t, srv.Client(), "x", consulexec.WithReplicationWait(3*time.Second)); err != nil || result.Err() != nil {
			t.Fatal(err, result.Err())
		}
		var job, event time.Time
		for _, r := range srv.Requests() {
			switch {
			case r.Method == "PUT" && strings.HasSuffix(r.Path, "/job"):
				job = r.Time
			case strings.HasPrefix(r.Path, "/v1/event/fire/"):
				event = r.Time
			}
		}
		if pause := event.Sub(job); pause != 3*time.Second {
			t.Errorf("%v between job and event", pause)
		}
	})
}

// TestCertificate checks that a certificate which does not verify is not tried
// again.
func TestCertificate(t *testing.T) {
	requests := 0
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			requests++
		}
	}
	srv.StartTLS()
	e, err := consulexec.New("x", consulexec.WithConfig(&api.Config{Address: srv.URL}), consulexec.WithoutDiscovery())
	if err != nil {
		t.Fatal(err)
	}
	_, err = e.Run(t.Context())
	srv.Close()
	var certificate *tls.CertificateVerificationError
	if !errors.As(err, &certificate) || !strings.Contains(err.Error(), "create session") {
		t.Errorf("error %v", err)
	}
	if requests != 1 {
		t.Errorf("%d connections", requests)
	}
}
