package consulexec_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
	"github.com/consulexec/consulexec/internal/runtest"
)

// racks are nodes in two racks, with a service by another name than its ID.
func racks() []exectest.Option {
	rack := func(name string) exectest.NodeOption { return exectest.WithMeta(map[string]string{"rack": name}) }
	return []exectest.Option{
		runtest.Node("server", runtest.Up),
		runtest.Node("web-1", runtest.Up, rack("a"), exectest.WithNamedService("_nomad-1", "web", "v1")),
		runtest.Node("web-2", runtest.Up, rack("b"), exectest.WithNamedService("_nomad-2", "web", "v2")),
		runtest.Node("web-3", runtest.Up, rack("b"), exectest.WithNamedService("_nomad-3", "web", "v1"), exectest.WithNamedService("_nomad-4", "web")),
		runtest.Node("down", runtest.Up, rack("b"), exectest.Down(), exectest.WithNamedService("_nomad-5", "web")),
	}
}

// TestSelect selects nodes by the catalog, alone and with other options. A run
// and Targets agree.
func TestSelect(t *testing.T) {
	filter, healthy, names := consulexec.WithFilter, consulexec.WithHealthyService, consulexec.WithNodes
	type options []consulexec.Option
	for name, test := range map[string]struct {
		options options
		want    string // of the run
		targets string
	}{
		"a filter":           {options{filter(`Meta.rack == "b" and Node != "web-3"`)}, "web-2: exit 0", "web-2"},
		"nodes with agents":  {options{filter(`Node matches "^(web-1|down)$"`)}, "web-1: exit 0", "web-1"},
		"the later filter":   {options{filter("x"), filter("Node == server")}, "server: exit 0", "server"},
		"health":             {options{healthy("web")}, "web-1: exit 0, web-2: exit 0", "web-1 web-2"},
		"health of servers":  {options{healthy("consul")}, "server: exit 0", "server"},
		"both":               {options{filter(`Meta.rack == "b"`), healthy("web")}, "web-2: exit 0", "web-2"},
		"and WithNode":       {options{filter(`Meta.rack == "b"`), consulexec.WithNode("3")}, "web-3: exit 0", "web-3"},
		"and WithService":    {options{filter(`Meta.rack == "b"`), consulexec.WithService("nomad"), consulexec.WithTag("v1")}, "web-3: exit 0", "web-3"},
		"and WithLimit":      {options{healthy("web"), consulexec.WithLimit(1)}, "web-1: exit 0, web-2: skipped", "web-1 web-2"},
		"and names in order": {options{filter(`"rack" in Meta`), names("web-3", "server", "web-1")}, "web-1: exit 0, web-3: exit 0", "web-3 web-1"},
		"and absent names":   {options{filter(`Meta.rack == "b"`), names("web-1", "web-2", "down", "gone")}, "down: no response, gone: no response, web-2: exit 0", "web-2"},
		"and ill names":      {options{healthy("web"), names("web-1", "web-3", "down", "gone")}, "gone: no response, web-1: exit 0", "web-1"},
	} {
		t.Run(name, func(t *testing.T) {
			runtest.Bubble(t, racks(), func(t *testing.T, srv *exectest.Server) {
				srv.SetHealth("web-3", "web", "warning")
				rec, result, err := runtest.Execute(t, srv.Client(), "x", test.options...)
				if err != nil || runtest.States(result) != test.want || strings.Join(rec.Targets, " ") != test.targets {
					t.Errorf("error %v, states %s, targets %q", err, runtest.States(result), rec.Targets)
				}
				if targets, _ := newExec(t, srv, test.options...).Targets(t.Context()); !slices.Equal(targets, rec.Targets) {
					t.Errorf("Targets are %q, those of the run %q", targets, rec.Targets)
				}
			})
		})
	}
}

func newExec(t *testing.T, srv *exectest.Server, options ...consulexec.Option) *consulexec.Exec {
	t.Helper()
	e, err := consulexec.New("x", append(slices.Clone(options), consulexec.WithClient(srv.Client()))...)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestSelectHealth changes what is ill. Only what belongs to the service or its
// node counts.
func TestSelectHealth(t *testing.T) {
	nodes := []exectest.Option{
		runtest.Node("server", runtest.Up),
		runtest.Node("a", runtest.Up, exectest.WithNamedService("web-1", "web"), exectest.WithService("db")),
		runtest.Node("b", runtest.Up, exectest.WithNamedService("web-2", "web"), exectest.WithNamedService("web-3", "web"), exectest.WithService("Web")),
	}
	runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		targets := func(service string) string {
			names, err := newExec(t, srv, consulexec.WithHealthyService(service)).Targets(t.Context())
			if err != nil {
				return err.Error()
			}
			return strings.Join(names, " ")
		}
		for _, step := range []struct{ node, service, status, want string }{
			{"a", "web-1", "passing", "a b"},
			{"a", "web-1", "warning", "b"},
			{"a", "web-1", "passing", "a b"},
			{"a", "db", "critical", "a b"},
			{"a", "", "critical", "b"},
			{"b", "web-3", "critical", "b"}, // one of two
			{"b", "web-2", "critical", `consulexec: no matching node is alive (WithHealthyService("web"))`},
			{"b", "web-2", "passing", "b"},
		} {
			srv.SetHealth(step.node, step.service, step.status)
			if got := targets("web"); got != step.want {
				t.Errorf("%v: %s", step, got)
			}
		}
		if got := targets("Web"); got != "b" { // Consul itself takes the names for the same
			t.Errorf("another case: %s", got)
		}
		srv.Kill("b")
		for service, want := range map[string]string{"web": "no matching node", "Web": "no matching node", "web-1": "no matching node", "nope": "no matching node"} {
			if got := targets(service); !strings.Contains(got, want) {
				t.Errorf("%s: %s", service, got)
			}
		}
	})
}

// TestSelectNothing selects no node, in several ways. Nobody gets the job.
func TestSelectNothing(t *testing.T) {
	runtest.Bubble(t, racks(), func(t *testing.T, srv *exectest.Server) {
		for want, options := range map[string][]consulexec.Option{
			`WithFilter("Node == nobody")`: {consulexec.WithFilter("Node == nobody")},
			`WithFilter("Node == down")`:   {consulexec.WithFilter("Node == down")},
			`WithHealthyService("_nomad-`:  {consulexec.WithHealthyService("_nomad-1")}, // an ID
			`WithHealthyService("We`:       {consulexec.WithHealthyService("We")},
			`WithNodes(1 name), WithFi`:    {consulexec.WithNodes("web-1"), consulexec.WithFilter(`Meta.rack == "b"`)},
			`IDs, not names`:               {consulexec.WithService("^web$")},
			`IDs, not names: see`:          {consulexec.WithService("^web$"), consulexec.WithFilter(`Meta.rack == "b"`)},
		} {
			rec, result, err := runtest.Execute(t, srv.Client(), "x", options...)
			if !errors.Is(err, consulexec.ErrNoTargets) || !strings.Contains(err.Error(), want) || len(result.Nodes) > 0 || rec.Targets != nil {
				t.Errorf("error %v, want %s; nodes %v", err, want, result.Nodes)
			}
			names, err := newExec(t, srv, options...).Targets(t.Context())
			if !errors.Is(err, consulexec.ErrNoTargets) || !strings.Contains(err.Error(), want) || names != nil {
				t.Errorf("Targets: %q, %v, want %s", names, err, want)
			}
		}
		// Without WithService the hint would mislead.
		if _, err := newExec(t, srv, consulexec.WithNode("nobody")).Targets(t.Context()); strings.Contains(err.Error(), "IDs") {
			t.Error(err)
		}
		checkNotRun(t, srv)
	})
}

// checkNotRun checks that no node of racks has run a command.
func checkNotRun(t *testing.T, srv *exectest.Server) {
	t.Helper()
	for _, node := range []string{"server", "web-1", "web-2", "web-3", "down"} {
		if n := srv.Executions(node); n > 0 {
			t.Errorf("%s ran %d commands", node, n)
		}
	}
}

// TestBadFilter has expressions that Consul refuses.
func TestBadFilter(t *testing.T) {
	runtest.Bubble(t, racks(), func(t *testing.T, srv *exectest.Server) {
		for expression, reason := range map[string]string{
			`Rack == "b"`:          `Selector "Rack" is not valid`,
			`Meta.rack = "b"`:      "no match found",
			`Node matches "("`:     "missing closing )",
			`Meta.rack == "b" and`: "no match found",
			`Node is empty`:        "Invalid match operator",
		} {
			began := time.Now()
			option := consulexec.WithFilter(expression)
			rec, _, err := runtest.Execute(t, srv.Client(), "x", option, consulexec.WithNodes("web-1"))
			_, asked := newExec(t, srv, option).Targets(t.Context())
			for _, err := range []error{err, asked} {
				var bad *consulexec.OptionError
				if !errors.As(err, &bad) || bad.Option != "WithFilter" || !errors.Is(err, consulexec.ErrBadOption) ||
					!strings.Contains(err.Error(), reason) || strings.Count(err.Error(), "consulexec: ") != 1 {
					t.Errorf("%s: error %v", expression, err)
				}
			}
			if !slices.Equal(rec.Calls, []string{"error"}) || rec.Targets != nil || time.Since(began) > time.Second {
				t.Errorf("callbacks %v, targets %q, after %v", rec.Calls, rec.Targets, time.Since(began))
			}
		}
		checkNotRun(t, srv)
	})
}

// onlyClient answers with the checks of one client agent, as a Consul that does
// not say what it leaves out.
func onlyClient(w http.ResponseWriter, r *http.Request, next http.Handler) {
	r.URL.RawQuery = "filter=" + `Node%20==%20"web-1"` + "&dc=" + r.URL.Query().Get("dc")
	next.ServeHTTP(w, r)
}

// TestSelectHidden runs with tokens that may not read the whole catalog. The
// command runs nowhere, even on named nodes.
func TestSelectHidden(t *testing.T) {
	filter, healthy := consulexec.WithFilter(`Meta.rack == "a"`), consulexec.WithHealthyService("web")
	health := exectest.Path("GET", "/v1/health/state/any")
	for name, test := range map[string]struct {
		option consulexec.Option
		faults []exectest.Fault
		need   string
	}{
		"denied":          {filter, []exectest.Fault{{Match: health, Do: exectest.Denied}}, "node:read"},
		"filtered":        {filter, []exectest.Fault{{Match: health, Do: exectest.FilteredByACLs}}, "node:read"},
		"list filtered":   {filter, []exectest.Fault{{Match: exectest.Path("GET", "/v1/catalog/nodes"), Do: exectest.FilteredByACLs}}, "node:read"},
		"list denied":     {filter, []exectest.Fault{{Match: exectest.Path("GET", "/v1/catalog/nodes"), Do: exectest.Denied}}, "node:read"},
		"no server":       {filter, []exectest.Fault{{Match: health, Do: onlyClient}}, "node:read"},
		"health, denied":  {healthy, []exectest.Fault{{Match: health, Do: exectest.Denied}}, "node:read"},
		"no server, too":  {healthy, []exectest.Fault{{Match: health, Do: onlyClient}}, "node:read"},
		"service":         {healthy, []exectest.Fault{{Match: exectest.Path("GET", "/v1/health/service/web"), Do: exectest.FilteredByACLs}}, `service:read on "web"`},
		"service, denied": {healthy, []exectest.Fault{{Match: exectest.Path("GET", "/v1/health/service/web"), Do: exectest.Denied}}, `service:read on "web"`},
		"no service":      {healthy, []exectest.Fault{{Match: exectest.Path("GET", "/v1/health/service/"), Do: emptyList}}, `service:read on "web"`},
	} {
		for _, named := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				runtest.Bubble(t, racks(), func(t *testing.T, srv *exectest.Server) {
					for _, fault := range test.faults {
						srv.Fault(fault)
					}
					options := []consulexec.Option{test.option}
					if named {
						options = append(options, consulexec.WithNodes("web-1", "web-2"))
					}
					rec, result, err := runtest.Execute(t, srv.Client(), "x", options...)
					names, asked := newExec(t, srv, options...).Targets(t.Context())
					for _, err := range []error{err, asked, result.DiscoveryErr} {
						if !errors.Is(err, consulexec.ErrPermissionDenied) || !strings.Contains(err.Error(), test.need) {
							t.Errorf("error %v, want %s", err, test.need)
						}
					}
					if names != nil || rec.Targets != nil || !slices.Equal(rec.Calls, []string{"error"}) {
						t.Errorf("Targets are %q, those of the run %q, callbacks %v", names, rec.Targets, rec.Calls)
					}
					checkNotRun(t, srv)
				})
			})
		}
	}
}

// emptyList answers with an empty list of Consul's.
func emptyList(w http.ResponseWriter, r *http.Request, next http.Handler) {
	r.URL.RawQuery = "filter=Node.Node==nobody"
	next.ServeHTTP(w, r)
}

// TestSelectWithoutCoordinates has an agent that does not say who the servers
// are.
func TestSelectWithoutCoordinates(t *testing.T) {
	runtest.Bubble(t, racks(), func(t *testing.T, srv *exectest.Server) {
		srv.Fault(exectest.Fault{Match: exectest.Path("GET", "/v1/coordinate/"), Do: exectest.Respond(401, "Coordinate support disabled")})
		_, result, err := runtest.Execute(t, srv.Client(), "x", consulexec.WithFilter("Node == server"))
		if err != nil || runtest.States(result) != "server: exit 0" {
			t.Errorf("error %v, states %s", err, runtest.States(result))
		}
	})
}

// TestSelectDatacenter selects in another datacenter, whose servers are others.
func TestSelectDatacenter(t *testing.T) {
	nodes := append(racks(), exectest.Datacenter("dc2", runtest.Node("far", runtest.Up), runtest.Node("farther", runtest.Up, exectest.WithService("web"))))
	runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		for _, option := range []consulexec.Option{consulexec.WithFilter(`Node matches "r$" and Datacenter == dc2`), consulexec.WithHealthyService("web")} {
			_, result, err := runtest.Execute(t, srv.Client(), "x", consulexec.WithDatacenter("dc2"), option)
			want := "farther: exit 0"
			if states := runtest.States(result); err != nil || states != want && states != "far: exit 0, "+want {
				t.Errorf("error %v, states %s", err, states)
			}
		}
	})
	// The only node that the token shows is named like a server elsewhere.
	nodes = []exectest.Option{
		runtest.Node("web-1", runtest.Up),
		exectest.Datacenter("dc2", runtest.Node("far", runtest.Up), runtest.Node("web-1", runtest.Up)),
	}
	runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		srv.Fault(exectest.Fault{Match: exectest.Path("GET", "/v1/health/state/any"), Do: onlyClient})
		filter := consulexec.WithFilter(`Node == "web-1"`)
		if names, err := newExec(t, srv, filter, consulexec.WithDatacenter("dc2")).Targets(t.Context()); !errors.Is(err, consulexec.ErrPermissionDenied) {
			t.Errorf("names %q, error %v", names, err)
		}
	})
}

// TestSelectMissed has gossip miss nodes that the catalog selected. They get the
// job again, by name, and nobody else does.
func TestSelectMissed(t *testing.T) {
	nodes := append(racks(), runtest.Node("missed", runtest.Up, exectest.MissEvents(2), exectest.WithMeta(map[string]string{"rack": "a"})))
	runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		_, result, err := runtest.Execute(t, srv.Client(), "x", consulexec.WithFilter("Meta.rack == a"))
		if err != nil || runtest.States(result) != "missed: exit 0, web-1: exit 0" {
			t.Errorf("error %v, states %s", err, runtest.States(result))
		}
		for _, node := range []string{"server", "web-2", "web-3"} {
			if srv.Executions(node) > 0 {
				t.Errorf("%s ran the command", node)
			}
		}
	})
}

// TestTargets checks the names and the error of Targets.
func TestTargets(t *testing.T) {
	type options []consulexec.Option
	denied := exectest.Fault{Match: exectest.Path("GET", "/v1/health/"), Do: exectest.Denied}
	for name, test := range map[string]struct {
		options options
		fault   exectest.Fault
		want    string
		is      error
		absent  string // nodes of the error
	}{
		"all":                    {want: "server web-1 web-2 web-3"},
		"a pattern":              {options: options{consulexec.WithNode("web")}, want: "web-1 web-2 web-3"},
		"names":                  {options: options{consulexec.WithNodes("web-3", "web-1")}, want: "web-3 web-1"},
		"absent names":           {options: options{consulexec.WithNodes("gone", "web-3", "down")}, want: "web-3", absent: "gone down"},
		"absent names alone":     {options: options{consulexec.WithNodes("gone", "down")}, is: consulexec.ErrNoTargets, absent: "gone down"},
		"nobody":                 {options: options{consulexec.WithNode("nobody")}, is: consulexec.ErrNoTargets},
		"discovery off":          {options: options{consulexec.WithoutDiscovery()}, is: consulexec.ErrDiscoveryOff},
		"discovery off, names":   {options: options{consulexec.WithoutDiscovery(), consulexec.WithNodes("b", "a")}, want: "b a"},
		"no permission":          {fault: denied, is: consulexec.ErrPermissionDenied},
		"no permission, names":   {options: options{consulexec.WithNodes("web-2", "gone")}, fault: denied, want: "web-2 gone", is: consulexec.ErrPermissionDenied},
		"no permission, rolling": {options: options{consulexec.WithConcurrency(2)}, fault: denied, is: consulexec.ErrPermissionDenied},
	} {
		t.Run(name, func(t *testing.T) {
			runtest.Bubble(t, racks(), func(t *testing.T, srv *exectest.Server) {
				if test.fault.Do != nil {
					srv.Fault(test.fault)
				}
				names, err := newExec(t, srv, test.options...).Targets(t.Context())
				if strings.Join(names, " ") != test.want || (names == nil) != (test.want == "") {
					t.Errorf("names %q, want %s", names, test.want)
				}
				if (err != nil) != (test.is != nil || test.absent != "") || test.is != nil && !errors.Is(err, test.is) {
					t.Errorf("error %v, want %v", err, test.is)
				}
				if err != nil && (!strings.HasPrefix(err.Error(), "consulexec: ") || strings.Count(err.Error(), "consulexec: ") != 1) {
					t.Errorf("error %q", err)
				}
				if got := strings.Join(nodesOf(err), " "); got != test.absent {
					t.Errorf("the error is about %q, want %s", got, test.absent)
				}
			})
		})
	}
}

// nodesOf returns the nodes of each NodeError in an error.
func nodesOf(err error) (nodes []string) {
	switch e := err.(type) {
	case *consulexec.NodeError:
		return []string{e.Node}
	case interface{ Unwrap() []error }:
		for _, err := range e.Unwrap() {
			nodes = append(nodes, nodesOf(err)...)
		}
	case interface{ Unwrap() error }:
		return nodesOf(e.Unwrap())
	}
	return nodes
}

// TestTargetsBesideRun asks before, beside and after a run, from many
// goroutines. That writes nothing.
func TestTargetsBesideRun(t *testing.T) {
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Sleeps(time.Minute)), runtest.Node("b", runtest.Up)}, func(t *testing.T, srv *exectest.Server) {
		e := newExec(t, srv)
		ask := func() {
			var asking sync.WaitGroup
			for range 10 {
				asking.Go(func() {
					if names, err := e.Targets(t.Context()); err != nil || !slices.Equal(names, []string{"a", "b"}) {
						t.Errorf("names %q, error %v", names, err)
					}
				})
			}
			asking.Wait()
		}
		ask()
		for _, r := range srv.Requests() {
			if r.Method != "GET" {
				t.Errorf("Targets sends %s %s", r.Method, r.Path)
			}
		}
		if _, err := e.Wait(); !errors.Is(err, consulexec.ErrNotStarted) {
			t.Errorf("Wait: %v", err)
		}
		if err := e.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		ask()
		if result, err := e.Wait(); err != nil || runtest.States(result) != "a: exit 0, b: exit 0" {
			t.Errorf("error %v, states %s", err, runtest.States(result))
		}
		ask()
	})
}

// TestTargetsUnanswered asks a Consul that does not answer.
func TestTargetsUnanswered(t *testing.T) {
	runtest.Bubble(t, racks(), func(t *testing.T, srv *exectest.Server) {
		e := newExec(t, srv)
		//lint:ignore SA1012 the test is about a nil context
		if _, err := e.Targets(nil); err == nil || !strings.Contains(err.Error(), "nil context") {
			t.Errorf("nil context: %v", err)
		}
		srv.Fault(exectest.Fault{Match: exectest.Path("GET", "/v1/health/"), Times: 3, Do: exectest.Respond(500, "No cluster leader")})
		if names, err := e.Targets(t.Context()); err != nil || len(names) != 4 {
			t.Errorf("names %q, error %v", names, err)
		}
		srv.Fault(exectest.Fault{Do: exectest.Refuse})
		began := time.Now()
		if names, err := e.Targets(t.Context()); err == nil || names != nil || time.Since(began) < 4*time.Second || time.Since(began) > 8*time.Second {
			t.Errorf("names %q, error %v after %v", names, err, time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := e.Targets(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
}
