package consulexec_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
)

// doThenFail lets the cluster do what the request asks and answers with a
// failure.
func doThenFail(w http.ResponseWriter, r *http.Request, next http.Handler) {
	next.ServeHTTP(discard{make(http.Header)}, r)
	http.Error(w, "rpc error making call: EOF", http.StatusInternalServerError)
}

// discard is a ResponseWriter that nobody reads.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}

// waysToFail is how a request can fail: before it reaches the cluster, or after
// the cluster has done it.
var waysToFail = map[string]func(http.ResponseWriter, *http.Request, http.Handler){
	"refused":        exectest.Refuse,
	"reset":          exectest.Drop,
	"500":            exectest.Respond(http.StatusInternalServerError, "rpc error making call: EOF"),
	"500, but done":  doThenFail,
	"500, no leader": exectest.Respond(http.StatusInternalServerError, "No cluster leader"),
	"429":            exectest.Respond(http.StatusTooManyRequests, "Your IP is issuing too many concurrent connections"),
	"hang":           exectest.Hang,
}

// counts is a command that prints the numbers to n, one each 0.3 s.
func counts(n int) exectest.Handler {
	return func(ctx context.Context, j *exectest.Job) int {
		for i := range n {
			fmt.Fprintln(j.Output, i)
			sleeps(300*time.Millisecond)(ctx, j)
		}
		return 0
	}
}

const counted = "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n" // by counts(10)

// TestEveryRequestFails fails each request of a run in turn, in each way, once
// and several times in a row. The run is to end well nevertheless, except that
// an event of which nobody can know whether it went out may have told nobody.
func TestEveryRequestFails(t *testing.T) {
	for name, way := range waysToFail {
		for _, times := range []int{1, 4} {
			t.Run(fmt.Sprintf("%s×%d", name, times), func(t *testing.T) {
				requests := 1
				for n := 0; n < requests; n++ {
					requests = max(requests, failFrom(t, n, times, way))
				}
				if requests < 12 {
					t.Errorf("only %d requests", requests)
				}
			})
		}
	}
}

// failFrom runs with the requests from the nth failing, and returns how many
// there were.
func failFrom(t *testing.T, n, times int, way func(http.ResponseWriter, *http.Request, http.Handler)) (requests int) {
	// So much output that listings stop to bring it along.
	long := exectest.Answer(strings.Repeat("x", 20_000), 0)
	nodes := []exectest.Option{node("a", counts(10)), node("b", counts(10)), node("c", long)}
	bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
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
		rec := &recorder{t: t}
		e, err := consulexec.New("x", append(rec.options(), consulexec.WithConfig(srv.Config()), consulexec.WithCapture(1000))...)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		result, err := e.Run(t.Context())
		took := time.Since(start)
		remove()
		rec.check(err)
		requests = int(count.Load())
		unclear := slices.ContainsFunc(failed, func(r string) bool { return strings.HasPrefix(r, "PUT /v1/event/") })
		for _, name := range []string{"a", "b", "c"} {
			executions := srv.Executions(name)
			n, _ := result.Node(name)
			switch {
			case executions > 1:
				t.Errorf("failing %v: %s ran %d times", failed, name, executions)
			case n.State == consulexec.StateExited && executions == 0:
				t.Errorf("failing %v: %s is said to have run", failed, name)
			case err != nil || unclear && executions == 0:
			case n.State != consulexec.StateExited || n.ExitCode != 0:
				t.Errorf("failing %v: %v", failed, n.Err)
			case name != "c" && string(n.Output) != counted:
				t.Errorf("failing %v: output of %s: %q", failed, name, n.Output)
			}
		}
		// Before there is a session, a few seconds are all; and what takes 10 s to
		// fail has used them up at once.
		if err != nil && result.Session != "" {
			t.Errorf("failing %v: %v", failed, err)
		}
		if took > 90*time.Second {
			t.Errorf("failing %v: took %v", failed, took)
		}
		checkNothingLeft(t, srv.Client(), e, result)
	})
	return requests
}

// TestOutage has Consul fail for longer and longer in the midst of a run. What
// the session survives the run does, and no node is lost by it; what it does not
// ends the run.
func TestOutage(t *testing.T) {
	for _, test := range []struct {
		outage time.Duration
		lost   bool
	}{{5 * time.Second, false}, {14 * time.Second, false}, {20 * time.Second, false}, {2 * time.Minute, true}} {
		for name, way := range waysToFail {
			if name == "reset" || name == "500, but done" {
				continue // those reach Consul, and so keep the session
			}
			t.Run(fmt.Sprintf("%v of %s", test.outage, name), func(t *testing.T) {
				nodes := []exectest.Option{node("a", sleeps(3*time.Minute)), node("b", ok)}
				bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
					rec := &recorder{hook: func(call string) {
						if call == "ack a" {
							time.AfterFunc(3*time.Second, func() {
								remove := srv.Fault(exectest.Fault{Do: way})
								time.AfterFunc(test.outage, remove)
							})
						}
					}}
					rec.t = t
					// So short a lost timeout that none of the outages is under it.
					e, err := consulexec.New("x", append(rec.options(), consulexec.WithClient(srv.Client()),
						consulexec.WithWait(time.Second), consulexec.WithLostTimeout(4*time.Second))...)
					if err != nil {
						t.Fatal(err)
					}
					start := time.Now()
					result, err := e.Run(t.Context())
					rec.check(err)
					if test.lost {
						if !errors.Is(err, consulexec.ErrSessionLost) || states(result) != "a: running, b: exit 0" {
							t.Errorf("error %v, states %s", err, states(result))
						}
						if took := time.Since(start); took > time.Minute {
							t.Errorf("took %v", took)
						}
						return
					}
					if err != nil || states(result) != "a: exit 0, b: exit 0" {
						t.Errorf("error %v, states %s", err, states(result))
					}
					checkNothingLeft(t, srv.Client(), e, result)
				})
			})
		}
	}
}

// TestFailsForGood has one kind of request fail for ever: the run ends all the
// same, with an error, once the session could not have lived any longer.
func TestFailsForGood(t *testing.T) {
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
		bubble(t, []exectest.Option{node("a", long), node("b", counts(300))}, func(t *testing.T, srv *exectest.Server) {
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
				t.Errorf("%s %s: took %v", test.method, test.path, took)
			}
		})
	}
}

// TestSlowCatalog has the catalog fail for longer than the session took: the run
// waits for it.
func TestSlowCatalog(t *testing.T) {
	bubble(t, []exectest.Option{node("a", ok)}, func(t *testing.T, srv *exectest.Server) {
		remove := srv.Fault(exectest.Fault{Match: exectest.Path("GET", "/v1/health/"), Do: exectest.Respond(500, "No cluster leader")})
		time.AfterFunc(8*time.Second, remove)
		if _, result, err := execute(t, srv.Client(), "x"); err != nil || result.Err() != nil {
			t.Errorf("error %v, result %v", err, result.Err())
		}
	})
}
