package consulexec_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
	"github.com/consulexec/consulexec/internal/runtest"
)

// tokens records the tokens of the requests to a cluster.
type tokens struct {
	mu   sync.Mutex
	seen map[string]map[string]bool // datacenter and path of the requests with each token
}

func watchTokens(srv *exectest.Server) *tokens {
	w := &tokens{seen: make(map[string]map[string]bool)}
	srv.Fault(exectest.Fault{Do: func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		w.mu.Lock()
		token := r.Header.Get("X-Consul-Token")
		if w.seen[token] == nil {
			w.seen[token] = make(map[string]bool)
		}
		w.seen[token][r.URL.Query().Get("dc")+r.URL.Path] = true
		w.mu.Unlock()
		next.ServeHTTP(rw, r)
	}})
	return w
}

// check checks that all requests had the token, and that some were to each of
// these paths.
func (w *tokens) check(t *testing.T, token string, paths ...string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for other, paths := range w.seen {
		if other != token {
			t.Errorf("requests with the token %q: %v", other, paths)
		}
	}
	for _, want := range paths {
		found := false
		for path := range w.seen[token] {
			found = found || strings.Contains(path, want)
		}
		if !found {
			t.Errorf("no request to %s had the token", want)
		}
	}
}

// sharedClient returns a client with a token that no request of a run may have.
func sharedClient(t *testing.T, srv *exectest.Server) *api.Client {
	t.Helper()
	config := srv.Config()
	config.Token = "shared"
	client, err := api.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// TestToken makes runs with a token of their own over a client with another, and
// follows all their requests. Neither log nor errors have it.
func TestToken(t *testing.T) {
	const secret = "5e5a3e00-token"
	nodes := []exectest.Option{
		runtest.Node("a", runtest.Counts(20), exectest.WithService("web")),
		runtest.Node("missed", runtest.Up, exectest.MissEvents(1), exectest.WithService("web")),
		runtest.Node("off", runtest.Up, exectest.ExecDisabled(), exectest.WithService("web")),
		exectest.Datacenter("dc2", runtest.Node("far", runtest.Sleeps(time.Minute))),
	}
	run := func(t *testing.T, srv *exectest.Server, log *bytes.Buffer, options ...consulexec.Option) error {
		logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		e, err := consulexec.New("x", append(options, consulexec.WithLogger(logger), consulexec.WithToken(secret))...)
		if err != nil {
			t.Fatal(err)
		}
		if text := fmt.Sprintf("%v %+v %#v", e, e, e); strings.Contains(text, secret) {
			t.Error("the Exec shows the token")
		}
		result, err := e.Run(t.Context())
		if text := fmt.Sprint(err, result.Err()) + log.String(); strings.Contains(text, secret) {
			t.Errorf("the token is in %s", text)
		}
		_, _ = e.Targets(t.Context())
		return err
	}
	for name, reach := range map[string]func(t *testing.T, srv *exectest.Server) consulexec.Option{
		"client": func(t *testing.T, srv *exectest.Server) consulexec.Option {
			return consulexec.WithClient(sharedClient(t, srv))
		},
		"config": func(t *testing.T, srv *exectest.Server) consulexec.Option {
			config := srv.Config()
			config.Token = "shared"
			return consulexec.WithConfig(config)
		},
	} {
		t.Run(name, func(t *testing.T) {
			runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
				w, log := watchTokens(srv), new(bytes.Buffer)
				err := run(t, srv, log, reach(t, srv), consulexec.WithService("."), consulexec.WithFilter("Node != x"), consulexec.WithHealthyService("web"))
				if err != nil || !strings.Contains(log.String(), "fenced") {
					t.Errorf("error %v, log\n%s", err, log)
				}
				w.check(t, secret, "/v1/session/create", "/v1/session/info/", "/v1/session/destroy/", "/v1/kv/", "/v1/txn", "/v1/event/fire/",
					"/v1/health/state/any", "/v1/catalog/nodes", "/v1/health/service/web", "/v1/catalog/node-services/", "/v1/coordinate/datacenters")
			})
		})
	}
	t.Run("denied", func(t *testing.T) {
		runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
			srv.Fault(exectest.Fault{Match: exectest.Path("PUT", "/v1/event"), Do: exectest.Denied})
			w := watchTokens(srv)
			if err := run(t, srv, new(bytes.Buffer), consulexec.WithClient(sharedClient(t, srv))); err == nil {
				t.Error("no error")
			}
			w.check(t, secret, "/v1/session/destroy/")
		})
	})
	t.Run("datacenter", func(t *testing.T) {
		runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
			w := watchTokens(srv)
			if err := run(t, srv, new(bytes.Buffer), consulexec.WithClient(sharedClient(t, srv)), consulexec.WithDatacenter("dc2")); err != nil {
				t.Error(err)
			}
			w.check(t, secret, "/v1/health/service/consul", "/v1/session/renew/")
		})
	})
}

// TestTokenLost has a lost session replaced under the run's own token.
func TestTokenLost(t *testing.T) {
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Sleeps(10*time.Second))}, func(t *testing.T, srv *exectest.Server) {
		w := watchTokens(srv)
		e, err := consulexec.New("x", consulexec.WithClient(sharedClient(t, srv)), consulexec.WithToken("own"), consulexec.WithRecovery(20*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		lost := srv.Sessions()[0]
		srv.DestroySession(lost)
		if result, _ := e.Wait(); result.Session == lost {
			t.Errorf("no new session: %v", result.Err())
		}
		w.check(t, "own")
	})
}

// TestTokenKill has the killer of a cancelled run use the run's token, in each
// datacenter its own.
func TestTokenKill(t *testing.T) {
	var k killable
	nodes := []exectest.Option{runtest.Node("a", k.run), exectest.Datacenter("dc2", runtest.Node("far", k.run))}
	runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		w := watchTokens(srv)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		time.AfterFunc(3*time.Second, cancel)
		_, err := consulexec.RunDatacenters(ctx, []string{"dc1", "dc2"}, "x", func(dc string) []consulexec.Option {
			return []consulexec.Option{consulexec.WithClient(sharedClient(t, srv)), consulexec.WithToken("of-" + dc), consulexec.WithKillOnCancel()}
		})
		if err == nil {
			t.Error("no error")
		}
		k.check(t, "a", "far")
		for _, dc := range []string{"dc1", "dc2"} {
			for path := range w.seen["of-"+dc] {
				if !strings.HasPrefix(path, dc) {
					t.Errorf("a request to %s has the token of %s", path, dc)
				}
			}
		}
		if len(w.seen) != 2 {
			t.Errorf("tokens %v", w.seen)
		}
	})
}
