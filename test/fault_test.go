package test

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
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
	"github.com/consulexec/consulexec/internal/runtest"
)

// waysToFail are the ways in which a request can fail: before it reaches the
// cluster, or after the cluster has done it.
var waysToFail = map[string]exectest.Action{
	"refused":        exectest.Refuse,
	"reset":          exectest.Drop,
	"500":            exectest.Respond(http.StatusInternalServerError, "rpc error making call: EOF"),
	"500, but done":  doThenFail,
	"500, no leader": exectest.Respond(http.StatusInternalServerError, "No cluster leader"),
	"429":            exectest.Respond(http.StatusTooManyRequests, "Your IP is issuing too many concurrent connections"),
	"hang":           exectest.Hang,
}

// doThenFail has the cluster do what the request asks, and answers with a
// failure.
func doThenFail(w http.ResponseWriter, r *http.Request, next http.Handler) {
	next.ServeHTTP(discard{make(http.Header)}, r)
	http.Error(w, "rpc error making call: EOF", http.StatusInternalServerError)
}

// discard is a ResponseWriter that throws the answer away.
type discard struct{ header http.Header }

func (d discard) Header() http.Header { return d.header }

func (d discard) Write(p []byte) (int, error) { return len(p), nil }

func (d discard) WriteHeader(int) {}

const counted = "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n" // what runtest.Counts(10) prints

// TestEveryRequestFails fails each request of a run in turn, in each way, once
// and several times in a row. The run succeeds all the same. One node is slow to
// acknowledge, so that it is fenced and dispatched to again.
func TestEveryRequestFails(t *testing.T) {
	t.Parallel()
	for name, way := range waysToFail {
		for _, times := range []int{1, 4} {
			t.Run(fmt.Sprintf("%s×%d", name, times), func(t *testing.T) {
				requests := 1
				for n := 0; n < requests; n++ {
					requests = max(requests, failFrom(t, n, times, way))
				}
				if requests < 20 {
					t.Errorf("%d requests, want at least 20", requests)
				}
			})
		}
	}
}

// failFrom fails that many requests of a run, from the nth on. It returns how
// many requests the run made.
func failFrom(t *testing.T, n, times int, way exectest.Action) (requests int) {
	// With so much output, the reader lists names and reads the values apart.
	long := exectest.Answer(strings.Repeat("x", 20_000), 0)
	nodes := []exectest.Option{runtest.Node("a", runtest.Counts(10)), runtest.Node("b", runtest.Counts(10)), runtest.Node("c", long),
		runtest.Node("slow", runtest.Up, exectest.AckAfter(1500*time.Millisecond))}
	runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		var count atomic.Int32
		var failed []string
		remove := srv.Fault(exectest.Fault{Do: way, Match: func(r *http.Request) bool {
			i := int(count.Add(1)) - 1
			if i < n || i >= n+times {
				return false
			}
			failed = append(failed, r.Method+" "+r.URL.Path)
			return true
		}})
		rec := runtest.NewRecorder(t, srv.Client())
		rec.Reach = consulexec.WithConfig(srv.Config())
		e := rec.New("x")
		start := time.Now()
		result, err := e.Run(t.Context())
		took := time.Since(start)
		remove()
		requests = int(count.Load())
		rec.Check(e, result, err)
		for _, name := range []string{"a", "b", "c", "slow"} {
			executions := srv.Executions(name)
			n, _ := result.Node(name)
			switch {
			case executions > 1:
				t.Errorf("%v fail: %s ran the command %d times", failed, name, executions)
			case n.State == consulexec.StateExited && executions == 0:
				t.Errorf("%v fail: %s exited, but did not run the command", failed, name)
			case err != nil:
			case name == "slow" && n.State == consulexec.StateNoResponse && executions == 0:
				// The failures took the time that it needs.
			case n.State != consulexec.StateExited || n.ExitCode != 0:
				t.Errorf("%v fail: error %v", failed, n.Err)
			case name < "c" && string(n.Output) != counted:
				t.Errorf("%v fail: output of %s is %q", failed, name, n.Output)
			}
		}
		// Until there is a session, requests are retried for some seconds only.
		// One that takes 10 s to fail is not retried.
		if err != nil && result.Session != "" {
			t.Errorf("%v fail: error %v", failed, err)
		}
		if took > 90*time.Second {
			t.Errorf("%v fail: took %v, want at most 90s", failed, took)
		}
	})
	return requests
}

// TestOutage has outages of several lengths during a run. If the session
// survives an outage, the run does, and no node is lost. Otherwise the run
// ends.
func TestOutage(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		outage time.Duration
		lost   bool
	}{{5 * time.Second, false}, {14 * time.Second, false}, {20 * time.Second, false}, {2 * time.Minute, true}} {
		for name, way := range waysToFail {
			if name == "reset" || name == "500, but done" {
				continue // such requests reach Consul and renew the session
			}
			t.Run(fmt.Sprintf("%v of %s", test.outage, name), func(t *testing.T) {
				nodes := []exectest.Option{runtest.Node("a", runtest.Sleeps(3*time.Minute)), runtest.Node("b", runtest.Up)}
				runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
					rec := runtest.NewRecorder(t, srv.Client())
					rec.Hook = func(call string) {
						if call == "ack a" {
							time.AfterFunc(3*time.Second, func() {
								remove := srv.Fault(exectest.Fault{Do: way})
								time.AfterFunc(test.outage, remove)
							})
						}
					}
					// Every outage is longer than the lost timeout.
					e := rec.New("x", consulexec.WithWait(time.Second), consulexec.WithLostTimeout(4*time.Second))
					start := time.Now()
					result, err := e.Run(t.Context())
					if test.lost {
						rec.CheckCalls(err)
						if !errors.Is(err, consulexec.ErrSessionLost) || runtest.States(result) != "a: running, b: exit 0" {
							t.Errorf("error %v, states %s", err, runtest.States(result))
						}
						if took := time.Since(start); took > time.Minute {
							t.Errorf("took %v, want at most a minute", took)
						}
						return
					}
					rec.Check(e, result, err)
					if err != nil || runtest.States(result) != "a: exit 0, b: exit 0" {
						t.Errorf("error %v, states %s", err, runtest.States(result))
					}
				})
			})
		}
	}
}

// TestFailsForGood fails all requests of one kind. The run ends with their
// error, at the latest when the session must have expired.
func TestFailsForGood(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		method, path string
		status       int
		text         string
	}{
		{"PUT", "/v1/kv/", 500, "rpc error making call: EOF"},
		{"PUT", "/v1/event/", 429, "slow down"},
		{"PUT", "/v1/event/", 500, "No cluster leader"},
		{"GET", "/v1/kv/", 500, "rpc error making call: EOF"},
		{"PUT", "/v1/txn", 500, "rpc error making call: EOF"},
		{"PUT", "/v1/session/renew/", 500, "rpc error making call: EOF"},
		{"PUT", "/v1/session/create", 500, "No cluster leader"},
		{"GET", "/v1/health/", 500, "No cluster leader"},
	} {
		long := exectest.Answer(strings.Repeat("x", 20_000), 0)
		runtest.Bubble(t, []exectest.Option{runtest.Node("a", long), runtest.Node("b", runtest.Counts(300))}, func(t *testing.T, srv *exectest.Server) {
			remove := srv.Fault(exectest.Fault{Match: exectest.Path(test.method, test.path), Do: exectest.Respond(test.status, test.text)})
			defer remove()
			e, err := consulexec.New("x", consulexec.WithClient(srv.Client()))
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			result, err := e.Run(t.Context())
			if err == nil || !strings.Contains(err.Error(), test.text) || result.Err() == nil {
				t.Errorf("%s %s: error %v", test.method, test.path, err)
			}
			if took := time.Since(start); took > time.Minute {
				t.Errorf("%s %s: took %v, want at most a minute", test.method, test.path, took)
			}
		})
	}
}

// TestSlowCatalog has the catalog fail for some seconds. The run waits for it.
func TestSlowCatalog(t *testing.T) {
	t.Parallel()
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Up)}, func(t *testing.T, srv *exectest.Server) {
		remove := srv.Fault(exectest.Fault{Match: exectest.Path("GET", "/v1/health/"), Do: exectest.Respond(500, "No cluster leader")})
		time.AfterFunc(8*time.Second, remove)
		if _, result, err := runtest.Execute(t, srv.Client(), "x"); err != nil || result.Err() != nil {
			t.Errorf("error %v, result %v", err, result.Err())
		}
	})
}

// TestOutageLog has an outage in which many requests fail. The log has one line
// for its begin and one for its end.
func TestOutageLog(t *testing.T) {
	t.Parallel()
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Counts(100))}, func(t *testing.T, srv *exectest.Server) {
		var log bytes.Buffer
		failed := 0
		rec := runtest.NewRecorder(t, srv.Client())
		rec.Hook = func(call string) {
			if call == "ack a" {
				time.AfterFunc(2*time.Second, func() {
					remove := srv.Fault(exectest.Fault{Do: exectest.Respond(http.StatusInternalServerError, "No cluster leader"), Match: func(*http.Request) bool {
						failed++
						return true
					}})
					time.AfterFunc(8*time.Second, remove)
				})
			}
		}
		result, err := rec.Run(t.Context(), "x",
			consulexec.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		if err != nil || result.Err() != nil {
			t.Errorf("error %v, result %v", err, result.Err())
		}
		if failed < 5 {
			t.Errorf("%d requests failed, want at least 5", failed)
		}
		if n := strings.Count(log.String(), "\n"); n != 2 || !strings.Contains(log.String(), "No cluster leader") || !strings.Contains(log.String(), "after=") {
			t.Errorf("%d log lines, want 2:\n%s", n, &log)
		}
	})
}

// TestNoRetry fails requests in ways that a retry cannot mend. Each is made
// once.
func TestNoRetry(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		path, text string
		status     int
		is         error
	}{
		{"/v1/session/create", "Bad request", 400, nil},
		{"/v1/session/create", "Permission denied", 403, consulexec.ErrPermissionDenied},
		{"/v1/session/create", "rpc error making call: Permission denied", 500, consulexec.ErrPermissionDenied},
		{"/v1/kv/", "Request body(600000 bytes) too large", 413, nil},
		{"/v1/kv/", "invalid session", 500, consulexec.ErrSessionLost},
		{"/v1/event/fire/", "user event exceeds configured limit of 512 bytes", 500, nil},
		{"/v1/txn", "Permission denied", 403, consulexec.ErrPermissionDenied},
	} {
		long := func(ctx context.Context, j *exectest.Job) int { // the reader reads so much by transactions
			fmt.Fprint(j.Output, strings.Repeat("x", 20_000))
			return runtest.Counts(3)(ctx, j)
		}
		runtest.Bubble(t, []exectest.Option{runtest.Node("a", long)}, func(t *testing.T, srv *exectest.Server) {
			n := 0
			match := exectest.Path("PUT", test.path)
			remove := srv.Fault(exectest.Fault{Do: exectest.Respond(test.status, test.text), Match: func(r *http.Request) bool {
				if match(r) {
					n++
				}
				return match(r)
			}})
			defer remove()
			_, _, err := runtest.Execute(t, srv.Client(), "x")
			if err == nil || !strings.Contains(err.Error(), test.text) || test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("%s: error %v", test.path, err)
			}
			want := 1
			if test.path == "/v1/txn" {
				want = 2 // the end of the run fences the node, whose ack was not reported
			}
			if n != want {
				t.Errorf("%s, status %d: %d requests, want %d", test.path, test.status, n, want)
			}
		})
	}
}

// TestDenied runs with a token that lacks a permission which the run needs.
func TestDenied(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/v1/session/create", "/v1/kv/", "/v1/event/fire/"} {
		runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Up)}, func(t *testing.T, srv *exectest.Server) {
			srv.Fault(exectest.Fault{Match: exectest.Path("PUT", path), Do: exectest.Denied})
			_, _, err := runtest.Execute(t, srv.Client(), "x")
			if !errors.Is(err, consulexec.ErrPermissionDenied) {
				t.Errorf("%s: error %v", path, err)
			}
			if srv.Executions("a") != 0 {
				t.Errorf("%s: the command ran", path)
			}
		})
	}
}

// TestUnreachable runs against an address on which nothing listens.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	synctest.Test(t, func(t *testing.T) {
		rec := runtest.NewRecorder(t, nil)
		rec.Reach = consulexec.WithConfig(&api.Config{Address: address})
		start := time.Now()
		result, err := rec.New("x").Run(t.Context())
		if err == nil || !strings.Contains(err.Error(), address) || result == nil || result.Err() == nil {
			t.Errorf("error %v", err)
		}
		if took := time.Since(start); took > time.Minute {
			t.Errorf("took %v, want at most a minute", took)
		}
		rec.CheckCalls(err)
	})
}

// TestNoAnswer runs against a Consul that accepts connections but never
// answers.
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	runtest.Bubble(t, nil, func(t *testing.T, srv *exectest.Server) {
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
			t.Errorf("took %v, want at most 30s", took)
		}
	})
}

// TestCertificate checks that the run does not retry after a certificate that
// does not verify.
func TestCertificate(t *testing.T) {
	t.Parallel()
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
	if !errors.As(err, &certificate) || !errors.Is(err, consulexec.ErrUnavailable) || !strings.Contains(err.Error(), "create session") {
		t.Errorf("error %v", err)
	}
	if requests != 1 {
		t.Errorf("%d connections, want 1", requests)
	}
}

// TestCancelledWhileFailing cancels the context while Consul refuses a session.
// The run asks for no further one, and its error is that it was cancelled.
func TestCancelledWhileFailing(t *testing.T) {
	t.Parallel()
	for name, way := range waysToFail {
		runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Up)}, func(t *testing.T, srv *exectest.Server) {
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
				t.Errorf("%s: the run ends %v after the context, want at most 6s", name, took)
			}
			for _, r := range srv.Requests() {
				if r.Path == "/v1/session/create" && r.Time.After(cancelled) {
					t.Errorf("%s: the run asks for a session after the context has ended", name)
				}
			}
			runtest.CheckNothingLeft(t, srv.Client(), e, result)
		})
	}
}

// TestFencesLost destroys the session of the fences. The job must not live on
// without them, so the run ends.
func TestFencesLost(t *testing.T) {
	t.Parallel()
	nodes := []exectest.Option{runtest.Node("a", runtest.Sleeps(time.Minute)), runtest.Node("off", runtest.Up, exectest.ExecDisabled())}
	runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		rec := runtest.NewRecorder(t, srv.Client())
		rec.Hook = func(call string) {
			if call != "no-response off" {
				return
			}
			keys := srv.Keys("_rexec/")
			for _, id := range srv.Sessions() {
				if !strings.HasPrefix(keys[0], "_rexec/"+id) {
					srv.DestroySession(id)
				}
			}
		}
		e := rec.New("x")
		start := time.Now()
		result, err := e.Run(t.Context())
		rec.Check(e, result, err)
		if got, want := runtest.States(result), "a: running, off: no response"; !errors.Is(err, consulexec.ErrSessionLost) || got != want {
			t.Errorf("error %v, states %s, want %s", err, got, want)
		}
		if took := time.Since(start); took > 12*time.Second { // the ack timeout and a renewal
			t.Errorf("took %v, want at most 12s", took)
		}
	})
}

// TestNewLeader has a leader that was just elected deny that there is a session,
// as it has not read all of its log yet. It denies that at one renewal, and it
// destroys nothing at first.
func TestNewLeader(t *testing.T) {
	t.Parallel()
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Counts(20))}, func(t *testing.T, srv *exectest.Server) {
		for path, answer := range map[string]exectest.Action{
			"/v1/session/renew/":   exectest.Respond(http.StatusNotFound, "Session id 'x' not found"),
			"/v1/session/destroy/": exectest.Respond(http.StatusOK, "true"),
		} {
			srv.Fault(exectest.Fault{Match: exectest.Path("PUT", path), Times: 2, Do: answer})
		}
		if _, result, err := runtest.Execute(t, srv.Client(), "x", consulexec.WithRecovery(time.Minute)); err != nil || result.Err() != nil || result.Nodes[0].Recovered > 0 {
			t.Errorf("error %v, %v, %+v", err, result.Err(), result.Nodes)
		}
	})
}

// TestSessionLostAtDeadline destroys the session just before silence ends the
// run. The run reports the lost session, not the silence.
func TestSessionLostAtDeadline(t *testing.T) {
	t.Parallel()
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Up), runtest.Node("off", runtest.Up, exectest.ExecDisabled())}, func(t *testing.T, srv *exectest.Server) {
		srv.Fault(exectest.Fault{Match: exectest.Path("PUT", "/v1/session/renew/"), Delay: 300 * time.Millisecond})
		time.AfterFunc(4900*time.Millisecond, func() {
			for _, id := range srv.Sessions() {
				srv.DestroySession(id)
			}
		})
		if _, result, err := runtest.Execute(t, srv.Client(), "x"); !errors.Is(err, consulexec.ErrSessionLost) {
			t.Errorf("error %v, states %s", err, runtest.States(result))
		}
	})
}

// TestRollingEventFails fails the second event of a rolling run, in each way.
// No node runs the command twice, and the result is right about each.
func TestRollingEventFails(t *testing.T) {
	t.Parallel()
	for name, way := range waysToFail {
		t.Run(name, func(t *testing.T) {
			nodes := []exectest.Option{runtest.Node("a", runtest.Up), runtest.Node("b", runtest.Up), runtest.Node("c", runtest.Up)}
			runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
				var events atomic.Int32
				remove := srv.Fault(exectest.Fault{Do: way, Match: func(r *http.Request) bool {
					return strings.HasPrefix(r.URL.Path, "/v1/event/") && events.Add(1) == 2
				}})
				defer remove()
				_, result, err := runtest.Execute(t, srv.Client(), "x", consulexec.WithConcurrency(1))
				if err != nil {
					t.Fatal(err)
				}
				for _, n := range result.Nodes {
					switch ran := srv.Executions(n.Node); {
					case ran > 1, ran == 1 && n.State != consulexec.StateExited:
						t.Errorf("%s is %v, but ran the command %d times", n.Node, n.State, ran)
					case ran == 0 && (n.Node != "b" || n.State != consulexec.StateNoResponse || !strings.Contains(n.Err.Error(), "fire event")):
						t.Errorf("%s did not run the command: %v", n.Node, n.Err)
					}
				}
			})
		})
	}
}

// TestIndexGoesBack has the index go back during a run, as after the restore of
// a snapshot.
func TestIndexGoesBack(t *testing.T) {
	t.Parallel()
	talks := func(ctx context.Context, j *exectest.Job) int {
		for i := range 10 {
			fmt.Fprintln(j.Output, i)
			runtest.Sleeps(time.Second)(ctx, j)
		}
		return 0
	}
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", talks)}, func(t *testing.T, srv *exectest.Server) {
		rec := runtest.NewRecorder(t, srv.Client())
		rec.Hook = func(call string) {
			if call == "output a" && rec.Count("output a") == 5 {
				srv.RewindIndex()
			}
		}
		result, err := rec.Run(t.Context(), "x")
		if err != nil || result.Err() != nil {
			t.Fatalf("error %v, result %v", err, result.Err())
		}
		if got := string(rec.Output["a"]); got != counted {
			t.Errorf("output %q, want %q", got, counted)
		}
	})
}
