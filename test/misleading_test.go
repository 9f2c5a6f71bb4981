package test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
	"github.com/consulexec/consulexec/internal/runtest"
)

// onBody returns a match for requests of path whose body has text.
func onBody(method, path, text string) func(*http.Request) bool {
	matches := exectest.Path(method, path)
	return func(r *http.Request) bool {
		if !matches(r) {
			return false
		}
		body, err := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		return err == nil && bytes.Contains(body, []byte(text))
	}
}

// TestGateway has a gateway in front of Consul reload in the middle of a run.
// Its 404 and 503 say nothing of the session and the keys.
func TestGateway(t *testing.T) {
	t.Parallel()
	for status, text := range map[int]string{404: "<html>404 page not found</html>", 503: "<html>upstream is reloading</html>"} {
		runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Counts(20))}, func(t *testing.T, srv *exectest.Server) {
			rec := runtest.NewRecorder(t, srv.Client())
			rec.Hook = func(call string) {
				if call == "ack a" {
					time.AfterFunc(2*time.Second, func() {
						remove := srv.Fault(exectest.Fault{Do: exectest.Respond(status, text)})
						time.AfterFunc(7*time.Second, remove)
					})
				}
			}
			result, err := rec.Run(t.Context(), "x")
			if err != nil || result.Err() != nil {
				t.Errorf("%d: error %v, result %v", status, err, result.Err())
			}
		})
	}
}

// TestUnknownToken has the servers not know the token yet, for some seconds and
// for ever.
func TestUnknownToken(t *testing.T) {
	t.Parallel()
	unknown := exectest.Fault{Do: exectest.Respond(403, "rpc error making call: ACL not found")}
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Up)}, func(t *testing.T, srv *exectest.Server) {
		time.AfterFunc(3*time.Second, srv.Fault(unknown))
		if _, result, err := runtest.Execute(t, srv.Client(), "x"); err != nil || result.Err() != nil {
			t.Errorf("for 3 s: error %v, result %v", err, result.Err())
		}
	})
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Up)}, func(t *testing.T, srv *exectest.Server) {
		remove := srv.Fault(unknown)
		e, err := consulexec.New("x", consulexec.WithClient(srv.Client()))
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := e.Run(t.Context()); !errors.Is(err, consulexec.ErrPermissionDenied) || !strings.Contains(err.Error(), "ACL not found") {
			t.Errorf("for ever: error %v", err)
		}
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("for ever: took %v, want at most 10s", took)
		}
		remove()
	})
}

// TestMostListingsRefused refuses four of five listings for the whole run. A
// node that never answers is given up all the same.
func TestMostListingsRefused(t *testing.T) {
	t.Parallel()
	nodes := []exectest.Option{runtest.Node("a", runtest.Up), exectest.Node("off", exectest.ExecDisabled())}
	runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		n := 0
		listing := exectest.Path("GET", "/v1/kv/_rexec/")
		remove := srv.Fault(exectest.Fault{Do: exectest.Respond(429, "Your IP is issuing too many concurrent connections"), Match: func(r *http.Request) bool {
			if !listing(r) {
				return false
			}
			n++
			return n%5 != 0
		}})
		defer remove()
		start := time.Now()
		_, result, err := runtest.Execute(t, srv.Client(), "x")
		if got, want := runtest.States(result), "a: exit 0, off: no response"; err != nil || got != want {
			t.Errorf("states %s, error %v, want %s", got, err, want)
		}
		if took := time.Since(start); took > 2*time.Minute {
			t.Errorf("took %v, want at most 2m", took)
		}
	})
}

// TestEmptyWithoutLeader has the catalog answer with an empty list while there
// is no leader. The run asks again.
func TestEmptyWithoutLeader(t *testing.T) {
	t.Parallel()
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Up)}, func(t *testing.T, srv *exectest.Server) {
		remove := srv.Fault(exectest.Fault{Match: exectest.Path("GET", "/v1/health/state/any"), Do: func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.Header().Set("X-Consul-Index", "7")
			w.Header().Set("X-Consul-KnownLeader", "false")
			io.WriteString(w, "[]")
		}})
		time.AfterFunc(4*time.Second, remove)
		if _, result, err := runtest.Execute(t, srv.Client(), "x"); err != nil || result.Err() != nil || result.DiscoveryErr != nil {
			t.Errorf("error %v, result %v, discovery %v", err, result.Err(), result.DiscoveryErr)
		}
	})
}

// TestPollsCut has something between client and Consul cut every blocking query
// after three seconds. That is no outage, and the log has no line of it.
func TestPollsCut(t *testing.T) {
	t.Parallel()
	cut := func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		ctx, cancel := context.WithTimeout(r.Context(), 3*time.Second)
		defer cancel()
		answered := make(chan struct{})
		recorder := discard{make(http.Header)}
		go func() {
			defer close(answered)
			defer func() { recover() }() // exectest panics when the client has gone
			next.ServeHTTP(recorder, r.Clone(ctx))
		}()
		<-ctx.Done()
		<-answered
		http.Error(w, "<html>504 Gateway Time-out</html>", http.StatusGatewayTimeout)
	}
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Sleeps(time.Minute))}, func(t *testing.T, srv *exectest.Server) {
		srv.Fault(exectest.Fault{Do: cut, Match: func(r *http.Request) bool {
			wait, err := time.ParseDuration(r.URL.Query().Get("wait"))
			return r.URL.Query().Get("index") != "" && err == nil && wait > 3*time.Second
		}})
		var log bytes.Buffer
		_, result, err := runtest.Execute(t, srv.Client(), "x", consulexec.WithWait(20*time.Second),
			consulexec.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		if err != nil || result.Err() != nil {
			t.Errorf("error %v, result %v", err, result.Err())
		}
		if log.Len() > 0 {
			t.Errorf("the log has:\n%s", &log)
		}
	})
}

// TestSlowSession ends the context while Consul is slow to create the session.
// The session does not stay.
func TestSlowSession(t *testing.T) {
	t.Parallel()
	for _, delay := range []time.Duration{500 * time.Millisecond, 3 * time.Second} {
		runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Up)}, func(t *testing.T, srv *exectest.Server) {
			srv.Fault(exectest.Fault{Match: exectest.Path("PUT", "/v1/session/create"), Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				time.Sleep(delay) // in the server, whatever the client does
				next.ServeHTTP(w, r.WithContext(context.WithoutCancel(r.Context())))
			}})
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			_, err := runtest.NewRecorder(t, srv.Client()).Run(ctx, "x")
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error %v", err)
			}
			time.Sleep(5 * time.Second)
			sessions, _, err := srv.Client().Session().List(nil)
			if err != nil || len(sessions) > 0 {
				t.Errorf("a delay of %v leaves %d sessions, error %v", delay, len(sessions), err)
			}
		})
	}
}

// TestSessionTTLMin has the servers refuse a TTL of 15 s. The session gets the
// shortest TTL that they take.
func TestSessionTTLMin(t *testing.T) {
	t.Parallel()
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Up)}, func(t *testing.T, srv *exectest.Server) {
		srv.Fault(exectest.Fault{
			Match: onBody("PUT", "/v1/session/create", `"15s"`),
			Do:    exectest.Respond(500, "Invalid Session TTL '15000000000', must be between [40s=24h0m0s]"),
		})
		ttl := ""
		rec := runtest.NewRecorder(t, srv.Client())
		rec.Hook = func(call string) {
			if call == "ack a" {
				sessions, _, err := srv.Client().Session().List(nil)
				if err != nil || len(sessions) != 1 {
					t.Fatalf("%d sessions, error %v", len(sessions), err)
				}
				ttl = sessions[0].TTL
			}
		}
		if result, err := rec.Run(t.Context(), "x"); err != nil || result.Err() != nil || ttl != "40s" {
			t.Errorf("error %v, result %v, TTL %q", err, result.Err(), ttl)
		}
	})
}

// TestEventRefused refuses the event. It is repeated only if Consul says that
// it did nothing, and never if what the event says is at fault.
func TestEventRefused(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		text     string
		requests int
		fails    bool
	}{
		{"rate limit exceeded, try again later or against a different server", 3, false},
		{"RPC rate limit exceeded", 3, false},
		{"Invalid node filter: error parsing regexp", 1, true},
	} {
		runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Up)}, func(t *testing.T, srv *exectest.Server) {
			requests := 0
			fires := exectest.Path("PUT", "/v1/event/fire/")
			srv.Fault(exectest.Fault{Do: exectest.Respond(500, test.text), Match: func(r *http.Request) bool {
				if fires(r) {
					requests++
				}
				return fires(r) && (requests < 3 || test.fails)
			}})
			_, result, err := runtest.Execute(t, srv.Client(), "x")
			if (err != nil) != test.fails || test.fails && !strings.Contains(err.Error(), test.text) || !test.fails && result.Err() != nil {
				t.Errorf("%s: error %v, result %v", test.text, err, result.Err())
			}
			if requests != test.requests {
				t.Errorf("%s: %d requests, want %d", test.text, requests, test.requests)
			}
		})
	}
}

// TestServicesHidden names an absent node with a token that may read the nodes
// and not the services. The node is reported once.
func TestServicesHidden(t *testing.T) {
	t.Parallel()
	nodes := []exectest.Option{exectest.Node("a", exectest.WithService("web"))}
	runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		srv.Fault(exectest.Fault{Match: exectest.Path("GET", "/v1/catalog/node-services/"), Do: exectest.FilteredByACLs})
		rec, result, err := runtest.Execute(t, srv.Client(), "true", consulexec.WithNodes("a", "absent"), consulexec.WithService("web"))
		if got, want := runtest.States(result), "a: exit 0, absent: no response"; err != nil || got != want || rec.Count("no-response") != 1 {
			t.Errorf("states %s, error %v, %d calls of OnNoResponse, want %s and 1", got, err, rec.Count("no-response"), want)
		}
	})
}

// TestFlappingHealth has the health of the client's agent flap. The run goes
// on.
func TestFlappingHealth(t *testing.T) {
	t.Parallel()
	nodes := []exectest.Option{runtest.Node("a", runtest.Counts(5)), runtest.Node("b", runtest.Counts(5))}
	runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		sessions, _, err := srv.Client().Session().List(nil)
		if err != nil || len(sessions) > 0 {
			t.Fatalf("%d sessions, error %v", len(sessions), err)
		}
		checks := -1
		rec := runtest.NewRecorder(t, srv.Client())
		rec.Hook = func(call string) {
			if call == "ack a" {
				sessions, _, err := srv.Client().Session().List(nil)
				if err != nil || len(sessions) != 1 {
					t.Fatalf("%d sessions, error %v", len(sessions), err)
				}
				checks = len(sessions[0].NodeChecks) + len(sessions[0].Checks)
			}
		}
		if result, err := rec.Run(t.Context(), "x"); err != nil || result.Err() != nil || checks != 0 {
			t.Errorf("error %v, result %v, %d checks of the session", err, result.Err(), checks)
		}
	})
}
