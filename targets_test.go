package consulexec_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
	"github.com/consulexec/consulexec/internal/runtest"
)

// TestCatalogHidden runs with a token that may not read the catalog. Silence ends
// the run, and the result says why.
func TestCatalogHidden(t *testing.T) {
	for name, fault := range map[string]exectest.Fault{
		"empty lists": {Match: exectest.Path("GET", "/v1/health/"), Do: exectest.FilteredByACLs},
		"denied":      {Match: exectest.Path("GET", "/v1/health/"), Do: exectest.Denied},
		"services":    {Match: exectest.Path("GET", "/v1/catalog/node-services/"), Do: exectest.FilteredByACLs},
		"no service": {Match: exectest.Path("GET", "/v1/health/service/"), Do: func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.Header().Set("X-Consul-Index", "5")
			w.Header().Set("X-Consul-LastContact", "0")
			w.Header().Set("X-Consul-KnownLeader", "true")
			io.WriteString(w, "[]")
		}},
		"many nodes": {Match: exectest.Path("GET", "/v1/internal/ui/nodes"), Do: exectest.FilteredByACLs},
	} {
		t.Run(name, func(t *testing.T) {
			nodes := []exectest.Option{runtest.Node("a", runtest.Up, exectest.WithService("web")), runtest.Node("b", runtest.Up)}
			if name == "many nodes" {
				for i := range 63 {
					nodes = append(nodes, runtest.Node(fmt.Sprint("n-", i), runtest.Up))
				}
			}
			runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
				srv.Fault(fault)
				start := time.Now()
				_, result, err := runtest.Execute(t, srv.Client(), "x", consulexec.WithService("web"), consulexec.WithWait(4*time.Second))
				if err != nil || !errors.Is(result.Err(), consulexec.ErrPermissionDenied) || runtest.States(result) != "a: exit 0" {
					t.Errorf("error %v, result %v, states %s", err, result.Err(), runtest.States(result))
				}
				if !errors.Is(result.DiscoveryErr, consulexec.ErrPermissionDenied) {
					t.Errorf("discovery: %v", result.DiscoveryErr)
				}
				if took := time.Since(start); took < 4*time.Second {
					t.Errorf("took %v, want at least the 4s of silence", took)
				}
			})
		})
	}
}

// TestServiceChecksHidden runs with a token that may read all nodes, but not the
// checks of services. That is enough for an exact end.
func TestServiceChecksHidden(t *testing.T) {
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Up), runtest.Node("b", runtest.Up)}, func(t *testing.T, srv *exectest.Server) {
		srv.Fault(exectest.Fault{
			Match: exectest.Path("GET", "/v1/health/"),
			Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				w.Header().Set("X-Consul-Results-Filtered-By-ACLs", "true")
				next.ServeHTTP(w, r)
			},
		})
		_, result, err := runtest.Execute(t, srv.Client(), "x")
		if err != nil || result.DiscoveryErr != nil || runtest.States(result) != "a: exit 0, b: exit 0" {
			t.Errorf("error %v, discovery %v, states %s", err, result.DiscoveryErr, runtest.States(result))
		}
	})
}

// TestServersDown runs in a datacenter without a healthy server.
func TestServersDown(t *testing.T) {
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Up), exectest.Datacenter("dc2", runtest.Node("far", runtest.Up))}, func(t *testing.T, srv *exectest.Server) {
		srv.Kill("far")
		_, _, err := runtest.Execute(t, srv.Client(), "x", consulexec.WithDatacenter("dc2"))
		if err == nil || !strings.Contains(err.Error(), `"dc2"`) || !strings.Contains(err.Error(), "healthy") {
			t.Errorf("error %v", err)
		}
	})
}

// TestNodesDown names nodes that cannot answer. The run reports each at once, with
// the reason.
func TestNodesDown(t *testing.T) {
	nodes := []exectest.Option{runtest.Node("a", runtest.Up), runtest.Node("down", runtest.Up, exectest.Down()), runtest.Node("no-agent", runtest.Up, exectest.External())}
	runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		start := time.Now()
		rec, result, err := runtest.Execute(t, srv.Client(), "x", consulexec.WithNodes("no-agent", "down", "gone", "a"))
		if got, want := runtest.States(result), "a: exit 0, down: no response, gone: no response, no-agent: no response"; err != nil || got != want {
			t.Errorf("error %v, states %s", err, got)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("took %v, want at most 2s", took)
		}
		if got, want := rec.Calls[:4], []string{"submit", "no-response no-agent", "no-response down", "no-response gone"}; !slices.Equal(got, want) {
			t.Errorf("callbacks %v, want %v first", rec.Calls, want)
		}
		for name, want := range map[string]string{"down": "not alive", "gone": "no such agent", "no-agent": "no such agent"} {
			n, _ := result.Node(name)
			var nodeErr *consulexec.NodeError
			if !errors.As(n.Err, &nodeErr) || !strings.Contains(n.Err.Error(), want) {
				t.Errorf("%s: error %v, want %s", name, n.Err, want)
			}
		}
	})
}

// TestManyNames runs on two thousand named nodes. That takes few events.
func TestManyNames(t *testing.T) {
	var nodes []exectest.Option
	var names []string
	for i := range 2000 {
		name := fmt.Sprintf("web-%04d.eu-west-1.example.com", 3*i)
		names = append(names, name)
		nodes = append(nodes, runtest.Node(name, runtest.Up), runtest.Node("not-"+name, runtest.Up))
	}
	runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		_, result, err := runtest.Execute(t, srv.Client(), "x", consulexec.WithNodes(names...))
		if err != nil || result.Err() != nil || len(result.Nodes) != len(names) {
			t.Fatalf("error %v, result %v, %d nodes", err, result.Err(), len(result.Nodes))
		}
		for _, name := range names {
			if n := srv.Executions(name); n != 1 {
				t.Errorf("%s ran the command %d times, want 1", name, n)
			}
		}
		events := 0
		for _, r := range srv.Requests() {
			if strings.HasPrefix(r.Path, "/v1/event/fire") {
				events++
			}
		}
		if events > 20 {
			t.Errorf("%d events, want at most 20", events)
		}
	})
}
