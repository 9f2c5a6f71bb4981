package consulexec_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
)

// A together has a recorder for each datacenter of RunDatacenters.
type together struct {
	t      *testing.T
	client *api.Client
	recs   map[string]*recorder
	hook   func(dc, call string)
}

func newTogether(t *testing.T, client *api.Client) *together {
	return &together{t: t, client: client, recs: make(map[string]*recorder)}
}

// options returns a function for RunDatacenters, which adds more to what it
// returns for each.
func (g *together) options(more ...consulexec.Option) func(string) []consulexec.Option {
	return func(dc string) []consulexec.Option {
		if g.recs[dc] != nil {
			g.t.Errorf("asked for the options of %s again", dc)
		}
		rec := &recorder{t: g.t}
		if g.hook != nil {
			rec.hook = func(call string) { g.hook(dc, call) }
		}
		g.recs[dc] = rec
		return slices.Concat([]consulexec.Option{consulexec.WithClient(g.client), consulexec.WithCapture(2 << 20)}, rec.options(), more)
	}
}

// check looks at what was called in a datacenter, where the run ended with err, and
// that nothing of it is left. It was called on the goroutine of the test.
func (g *together) check(dc string, result *consulexec.Result, err error) {
	g.t.Helper()
	if result.Datacenter != dc {
		g.t.Errorf("the result for %s is for %s", dc, result.Datacenter)
	}
	rec := g.recs[dc]
	if (rec.err == nil) != (err == nil) || rec.err != nil && !errors.Is(err, rec.err) {
		g.t.Errorf("%s: OnError got %v, the caller %v", dc, rec.err, err)
	}
	rec.check(rec.err)
	checkResult(g.t, rec, result)
	if !strings.HasPrefix(debugString(), rec.goroutine+" [") {
		g.t.Errorf("%s: calls on %s, the test on %s", dc, rec.goroutine, debugString())
	}
	checkResultGone(g.t, g.client, result)
}

func debugString() string { return string(debugStack()) }

// checkResultGone looks for the session and the keys of a result in all
// datacenters.
func checkResultGone(t *testing.T, client *api.Client, result *consulexec.Result) {
	t.Helper()
	if result.Session == "" {
		return
	}
	datacenters, err := client.Catalog().Datacenters()
	if err != nil {
		t.Fatal(err)
	}
	for _, dc := range datacenters {
		q := &api.QueryOptions{Datacenter: dc}
		sessions, _, err := client.Session().List(q)
		if err != nil {
			t.Fatal(err)
		}
		keys, _, err := client.KV().Keys("", "", q)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range sessions {
			if s.ID == result.Session {
				t.Errorf("session %s left in %s", s.ID, dc)
			}
		}
		for _, key := range keys {
			if strings.Contains(key, result.Session) {
				t.Errorf("key %s left in %s", key, dc)
			}
		}
	}
}

// twoDatacenters is a cluster whose nodes in dc1 and dc2 run h, with a third
// datacenter.
func twoDatacenters(h exectest.Handler) []exectest.Option {
	return []exectest.Option{
		node("a", h), node("b", h),
		exectest.Datacenter("dc2", node("far-a", h), node("far-b", h)),
		exectest.Datacenter("dc3", node("other", h)),
	}
}

// TestRunDatacenters runs in two datacenters at once, and in one that is unknown.
func TestRunDatacenters(t *testing.T) {
	bubble(t, twoDatacenters(func(ctx context.Context, j *exectest.Job) int {
		fmt.Fprintln(j.Output, j.Command, j.Node)
		return sleeps(time.Minute)(ctx, j)
	}), func(t *testing.T, srv *exectest.Server) {
		g := newTogether(t, srv.Client())
		start := time.Now()
		results, err := consulexec.RunDatacenters(t.Context(), []string{"dc2", "atlantis", "dc1"}, "x", g.options())
		if took := time.Since(start); took > 70*time.Second {
			t.Errorf("took %v", took)
		}
		if len(results) != 3 {
			t.Fatalf("%d results", len(results))
		}
		if err == nil || !strings.HasPrefix(err.Error(), `datacenter "atlantis": `) || strings.Contains(err.Error(), "dc1") || strings.Contains(err.Error(), "dc2") {
			t.Errorf("error %v", err)
		}
		g.check("dc2", results[0], nil)
		g.check("atlantis", results[1], err)
		g.check("dc1", results[2], nil)
		if got, want := states(results[0]), "far-a: exit 0, far-b: exit 0"; got != want || results[0].Err() != nil {
			t.Errorf("states %s, want %s, error %v", got, want, results[0].Err())
		}
		if results[1].Err() == nil || results[1].Session != "" {
			t.Errorf("unknown datacenter: session %s, error %v", results[1].Session, results[1].Err())
		}
		if got, want := states(results[2]), "a: exit 0, b: exit 0"; got != want || results[2].Err() != nil {
			t.Errorf("states %s, want %s, error %v", got, want, results[2].Err())
		}
		if n, _ := results[0].Node("far-b"); string(n.Output) != "x far-b\n" {
			t.Errorf("output %q", n.Output)
		}
		if srv.Executions("other") != 0 {
			t.Error("ran in a datacenter that was not asked for")
		}
	})
}

// TestRunDatacentersCallbacks has every callback called, in two datacenters whose
// nodes have the same names.
func TestRunDatacentersCallbacks(t *testing.T) {
	bubble(t, append([]exectest.Option{exectest.Datacenter("dc2", variety...)}, variety...), func(t *testing.T, srv *exectest.Server) {
		g := newTogether(t, srv.Client())
		results, err := consulexec.RunDatacenters(t.Context(), []string{"dc1", "dc2"}, "x", g.options())
		if err != nil {
			t.Fatal(err)
		}
		for i, dc := range []string{"dc1", "dc2"} {
			g.check(dc, results[i], nil)
			if got, want := states(results[i]), "a: exit 3, b: lost, c: exit 0, off: no response"; got != want {
				t.Errorf("%s: states %s, want %s", dc, got, want)
			}
			for _, call := range []string{"lost b", "no-response off", "heartbeat c"} {
				if g.recs[dc].count(call) == 0 {
					t.Errorf("%s: no %s in %v", dc, call, g.recs[dc].calls)
				}
			}
		}
	})
}

// TestResultDatacenter looks at what the result of a single run says.
func TestResultDatacenter(t *testing.T) {
	bubble(t, twoDatacenters(ok), func(t *testing.T, srv *exectest.Server) {
		for dc, options := range map[string][]consulexec.Option{"": nil, "dc1": {consulexec.WithDatacenter("dc1")}, "dc2": {consulexec.WithDatacenter("dc2")}} {
			if _, result, err := execute(t, srv.Client(), "x", options...); err != nil || result.Datacenter != dc {
				t.Errorf("error %v, datacenter %q, want %q", err, result.Datacenter, dc)
			}
		}
	})
}

// TestRunDatacentersAllFail has every run fail, in a way of its own.
func TestRunDatacentersAllFail(t *testing.T) {
	bubble(t, twoDatacenters(ok), func(t *testing.T, srv *exectest.Server) {
		denied := exectest.Path("PUT", "/v1/event/fire/")
		srv.Fault(exectest.Fault{Match: func(r *http.Request) bool { return denied(r) && r.URL.Query().Get("dc") == "dc2" }, Do: exectest.Denied})
		g := newTogether(t, srv.Client())
		results, err := consulexec.RunDatacenters(t.Context(), []string{"dc1", "dc2"}, "x", func(dc string) []consulexec.Option {
			options := g.options()(dc)
			if dc == "dc1" {
				options = append(options, consulexec.WithNode("nobody"))
			}
			return options
		})
		if !errors.Is(err, consulexec.ErrNoTargets) || !errors.Is(err, consulexec.ErrPermissionDenied) {
			t.Errorf("error %v", err)
		}
		lines := strings.Split(err.Error(), "\n")
		if len(lines) != 2 || !strings.HasPrefix(lines[0], `datacenter "dc1": `) || !strings.HasPrefix(lines[1], `datacenter "dc2": `) {
			t.Errorf("error %q", lines)
		}
		for i, dc := range []string{"dc1", "dc2"} {
			g.check(dc, results[i], err)
		}
	})
}

// TestRunDatacentersOneAtATime has callbacks that take long, and touch what only
// one may touch: the race detector looks on.
func TestRunDatacentersOneAtATime(t *testing.T) {
	bubble(t, twoDatacenters(ok), func(t *testing.T, srv *exectest.Server) {
		g := newTogether(t, srv.Client())
		inside := ""
		calls := make(map[string]int)
		g.hook = func(dc, call string) {
			if inside != "" {
				t.Errorf("%s in %s during %s", call, dc, inside)
			}
			inside = call + " in " + dc
			time.Sleep(time.Minute)
			calls[dc]++
			inside = ""
		}
		results, err := consulexec.RunDatacenters(t.Context(), []string{"dc1", "dc2"}, "x", g.options())
		if err != nil {
			t.Fatal(err)
		}
		for i, dc := range []string{"dc1", "dc2"} {
			g.check(dc, results[i], nil)
			if calls[dc] != 8 {
				t.Errorf("%d calls in %s", calls[dc], dc)
			}
			if results[i].Err() != nil {
				t.Error(results[i].Err())
			}
		}
	})
}

// TestRunDatacentersCancelled has the context end, by a callback of one of them.
func TestRunDatacentersCancelled(t *testing.T) {
	bubble(t, twoDatacenters(sleeps(time.Hour)), func(t *testing.T, srv *exectest.Server) {
		why := errors.New("lunch")
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		g := newTogether(t, srv.Client())
		acks := 0
		g.hook = func(dc, call string) {
			if strings.HasPrefix(call, "ack") {
				if acks++; acks == 4 {
					cancel(why)
				}
			}
		}
		results, err := consulexec.RunDatacenters(ctx, []string{"dc1", "dc2"}, "x", g.options())
		if !errors.Is(err, context.Canceled) || !errors.Is(err, why) || strings.Count(err.Error(), "datacenter") != 2 {
			t.Errorf("error %v", err)
		}
		for i, dc := range []string{"dc1", "dc2"} {
			g.check(dc, results[i], err)
			if strings.Count(states(results[i]), "running") != 2 {
				t.Errorf("states %s", states(results[i]))
			}
		}
	})
}

// TestRunDatacentersPanic has a callback panic, or end its goroutine: the others
// end as well, at once, and nobody is called any more.
func TestRunDatacentersPanic(t *testing.T) {
	for name, end := range map[string]func(){
		"panic":  func() { panic("on purpose") },
		"goexit": runtime.Goexit,
	} {
		for _, at := range []string{"submit", "ack far-a", "output a", "exit a 0"} {
			t.Run(name+" at "+at, func(t *testing.T) {
				bubble(t, []exectest.Option{
					node("a", ok), node("b", sleeps(time.Hour)),
					exectest.Datacenter("dc2", node("far-a", sleeps(time.Hour))),
				}, func(t *testing.T, srv *exectest.Server) {
					ended := ""
					var when time.Time
					g := newTogether(t, srv.Client())
					g.hook = func(dc, call string) {
						if ended != "" {
							t.Errorf("%s in %s after %s", call, dc, ended)
						}
						if call == at {
							ended = call + " in " + dc
							time.Sleep(time.Second) // others wait for their turn
							when = time.Now()
							end()
						}
					}
					var panicked any
					returned := false
					left := make(chan struct{})
					go func() {
						defer close(left)
						defer func() { panicked = recover() }()
						_, _ = consulexec.RunDatacenters(t.Context(), []string{"dc1", "atlantis", "dc2"}, "x", g.options(consulexec.WithWait(time.Hour))) // no heartbeat wakes them up
						returned = true
					}()
					<-left
					if returned || (panicked == "on purpose") != (name == "panic") {
						t.Errorf("returned %v, panic %v", returned, panicked)
					}
					if keys, sessions := srv.Keys(""), srv.Sessions(); len(keys)+len(sessions) > 0 {
						t.Errorf("left behind: %v %v", keys, sessions)
					}
					if took := time.Since(when); took > 5*time.Second {
						t.Errorf("took %v", took)
					}
					synctest.Wait() // the runs are not waited for any more, had they been left
				})
			})
		}
	}
}

// TestRunDatacentersBadInput is refused before anything is started.
func TestRunDatacentersBadInput(t *testing.T) {
	srv := exectest.NewServer()
	defer srv.Close()
	client := func(string) []consulexec.Option {
		return []consulexec.Option{consulexec.WithClient(srv.Client())}
	}
	bad := func(dc string) []consulexec.Option {
		if dc == "dc1" {
			return client(dc)
		}
		return append(client(dc), consulexec.WithWait(0))
	}
	for name, test := range map[string]struct {
		datacenters []string
		command     string
		options     func(string) []consulexec.Option
		want        []string
	}{
		"none":       {nil, "x", client, []string{"no datacenter"}},
		"empty":      {[]string{"dc1", ""}, "x", client, []string{`["dc1" ""]`, "empty"}},
		"twice":      {[]string{"dc1", "dc2", "dc1"}, "x", client, []string{`["dc1" "dc2" "dc1"]`, `"dc1" twice`}},
		"no command": {[]string{"dc1"}, "", nil, []string{`datacenter "dc1": `, "no command"}},
		"options":    {[]string{"dc1", "dc2"}, "x", bad, []string{`datacenter "dc2": `, "WithWait"}},
		"all of it":  {[]string{"dc1", "dc2", "", "dc2"}, "x", bad, []string{`datacenter "dc2": `, "WithWait", "empty", "twice"}},
	} {
		t.Run(name, func(t *testing.T) {
			results, err := consulexec.RunDatacenters(t.Context(), test.datacenters, test.command, test.options)
			if results != nil || err == nil {
				t.Fatalf("results %v, error %v", results, err)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not have %q", err, want)
				}
			}
		})
	}
	//lint:ignore SA1012 what a nil context does is the point
	if results, err := consulexec.RunDatacenters(nil, []string{"dc1", "dc2"}, "x", client); results != nil || err == nil || !strings.Contains(err.Error(), "nil context") {
		t.Errorf("nil context: results %v, error %v", results, err)
	}
	if requests := srv.Requests(); len(requests) > 0 {
		t.Errorf("requests %v", requests)
	}
}

// TestRunDatacentersOptions gives the same slice for both, with room at its end and
// a datacenter in it; and none at all.
func TestRunDatacentersOptions(t *testing.T) {
	bubble(t, twoDatacenters(ok), func(t *testing.T, srv *exectest.Server) {
		shared := make([]consulexec.Option, 0, 10)
		shared = append(shared, consulexec.WithClient(srv.Client()), consulexec.WithDatacenter("dc3"))
		results, err := consulexec.RunDatacenters(t.Context(), []string{"dc1", "dc2"}, "x", func(string) []consulexec.Option { return shared })
		if err != nil || states(results[0]) != "a: exit 0, b: exit 0" || states(results[1]) != "far-a: exit 0, far-b: exit 0" {
			t.Errorf("error %v, states %s and %s", err, states(results[0]), states(results[1]))
		}
		if shared[:3][2] != nil {
			t.Error("wrote into the caller's slice")
		}
	})
	srv := exectest.NewServer(twoDatacenters(ok)...)
	defer srv.Close()
	t.Setenv(api.HTTPAddrEnvName, srv.URL)
	results, err := consulexec.RunDatacenters(t.Context(), []string{"dc2"}, "x", nil)
	if err != nil || states(results[0]) != "far-a: exit 0, far-b: exit 0" {
		t.Errorf("error %v, states %s", err, states(results[0]))
	}
}

// conformRunDatacenters runs in both datacenters and in one that is unknown.
func conformRunDatacenters(t *testing.T, client *api.Client) {
	g := newTogether(t, client)
	datacenters := []string{"dc2", "atlantis", "dc1"}
	results, err := consulexec.RunDatacenters(t.Context(), datacenters, "echo here; sleep 1", g.options(consulexec.WithNode("[^f]-")))
	if err == nil || !strings.HasPrefix(err.Error(), `datacenter "atlantis": `) {
		t.Errorf("error %v", err)
	}
	for i, want := range []string{
		"far-1: exit 0, far-2: exit 0",
		"",
		"db-1: exit 0, web-1: exit 0, web-2: exit 0",
	} {
		g.check(datacenters[i], results[i], map[bool]error{true: err}[i == 1])
		if got := states(results[i]); got != want {
			t.Errorf("%s: states %s, want %s", datacenters[i], got, want)
		}
		for _, n := range results[i].Nodes {
			if string(n.Output) != "here\n" {
				t.Errorf("%s: output %q", n.Node, n.Output)
			}
		}
	}
	if len(results) == 3 && results[0].Nodes[0].Acked.After(results[2].Nodes[0].Exited) {
		t.Error("the datacenters came one after the other")
	}
}
