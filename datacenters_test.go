package consulexec_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
	"github.com/consulexec/consulexec/internal/runtest"
)

// twoDatacenters returns the nodes of dc1 and dc2, and one node of a third
// datacenter. The command of each is h.
func twoDatacenters(h exectest.Handler) []exectest.Option {
	return []exectest.Option{
		runtest.Node("a", h), runtest.Node("b", h),
		exectest.Datacenter("dc2", runtest.Node("far-a", h), runtest.Node("far-b", h)),
		exectest.Datacenter("dc3", runtest.Node("other", h)),
	}
}

// TestRunDatacenters runs in two datacenters at once, and in one that does not
// exist.
func TestRunDatacenters(t *testing.T) {
	runtest.Bubble(t, twoDatacenters(func(ctx context.Context, j *exectest.Job) int {
		fmt.Fprintln(j.Output, j.Command, j.Node)
		return runtest.Sleeps(time.Minute)(ctx, j)
	}), func(t *testing.T, srv *exectest.Server) {
		recs := runtest.NewRecorders(t, srv.Client())
		start := time.Now()
		results, err := consulexec.RunDatacenters(t.Context(), []string{"dc2", "atlantis", "dc1"}, "x", recs.Options())
		if took := time.Since(start); took > 70*time.Second {
			t.Errorf("took %v, want at most 70s", took)
		}
		if len(results) != 3 {
			t.Fatalf("%d results", len(results))
		}
		if err == nil || !strings.HasPrefix(err.Error(), `datacenter "atlantis": `) || strings.Contains(err.Error(), "dc1") || strings.Contains(err.Error(), "dc2") {
			t.Errorf("error %v", err)
		}
		recs.Check("dc2", results[0], nil)
		recs.Check("atlantis", results[1], err)
		recs.Check("dc1", results[2], nil)
		if got, want := runtest.States(results[0]), "far-a: exit 0, far-b: exit 0"; got != want || results[0].Err() != nil {
			t.Errorf("states %s, want %s, error %v", got, want, results[0].Err())
		}
		if results[1].Err() == nil || results[1].Session != "" {
			t.Errorf("unknown datacenter: session %s, error %v", results[1].Session, results[1].Err())
		}
		if got, want := runtest.States(results[2]), "a: exit 0, b: exit 0"; got != want || results[2].Err() != nil {
			t.Errorf("states %s, want %s, error %v", got, want, results[2].Err())
		}
		if n, _ := results[0].Node("far-b"); string(n.Output) != "x far-b\n" {
			t.Errorf("output %q", n.Output)
		}
		if srv.Executions("other") != 0 {
			t.Error("the command ran in dc3, too")
		}
	})
}

// TestRunDatacentersCallbacks has every callback, in two datacenters whose nodes
// have the same names.
func TestRunDatacentersCallbacks(t *testing.T) {
	runtest.Bubble(t, append([]exectest.Option{exectest.Datacenter("dc2", variety...)}, variety...), func(t *testing.T, srv *exectest.Server) {
		recs := runtest.NewRecorders(t, srv.Client())
		results, err := consulexec.RunDatacenters(t.Context(), []string{"dc1", "dc2"}, "x", recs.Options())
		if err != nil {
			t.Fatal(err)
		}
		for i, dc := range []string{"dc1", "dc2"} {
			recs.Check(dc, results[i], nil)
			if got, want := runtest.States(results[i]), "a: exit 3, b: lost, c: exit 0, off: no response"; got != want {
				t.Errorf("%s: states %s, want %s", dc, got, want)
			}
			for _, call := range []string{"lost b", "no-response off", "heartbeat c"} {
				if recs.In(dc).Count(call) == 0 {
					t.Errorf("%s: no callback %s in %v", dc, call, recs.In(dc).Calls)
				}
			}
		}
	})
}

// TestResultDatacenter checks the datacenter in the result of Run.
func TestResultDatacenter(t *testing.T) {
	runtest.Bubble(t, twoDatacenters(runtest.Up), func(t *testing.T, srv *exectest.Server) {
		for dc, options := range map[string][]consulexec.Option{"": nil, "dc1": {consulexec.WithDatacenter("dc1")}, "dc2": {consulexec.WithDatacenter("dc2")}} {
			if _, result, err := runtest.Execute(t, srv.Client(), "x", options...); err != nil || result.Datacenter != dc {
				t.Errorf("error %v, datacenter %q, want %q", err, result.Datacenter, dc)
			}
		}
	})
}

// TestRunDatacentersAllFail fails the run in each datacenter for a reason of its
// own.
func TestRunDatacentersAllFail(t *testing.T) {
	runtest.Bubble(t, twoDatacenters(runtest.Up), func(t *testing.T, srv *exectest.Server) {
		denied := exectest.Path("PUT", "/v1/event/fire/")
		srv.Fault(exectest.Fault{Match: func(r *http.Request) bool { return denied(r) && r.URL.Query().Get("dc") == "dc2" }, Do: exectest.Denied})
		recs := runtest.NewRecorders(t, srv.Client())
		results, err := consulexec.RunDatacenters(t.Context(), []string{"dc1", "dc2"}, "x", func(dc string) []consulexec.Option {
			options := recs.Options()(dc)
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
			recs.Check(dc, results[i], err)
		}
	})
}

// TestRunDatacentersOneAtATime blocks each callback, and has all of them use one
// variable without a lock. No two callbacks may run at once.
func TestRunDatacentersOneAtATime(t *testing.T) {
	runtest.Bubble(t, twoDatacenters(runtest.Up), func(t *testing.T, srv *exectest.Server) {
		recs := runtest.NewRecorders(t, srv.Client())
		inside := ""
		calls := make(map[string]int)
		recs.Hook = func(dc, call string) {
			if inside != "" {
				t.Errorf("%s in %s during %s", call, dc, inside)
			}
			inside = call + " in " + dc
			time.Sleep(time.Minute)
			calls[dc]++
			inside = ""
		}
		results, err := consulexec.RunDatacenters(t.Context(), []string{"dc1", "dc2"}, "x", recs.Options())
		if err != nil {
			t.Fatal(err)
		}
		for i, dc := range []string{"dc1", "dc2"} {
			recs.Check(dc, results[i], nil)
			if calls[dc] != 8 {
				t.Errorf("%d calls in %s", calls[dc], dc)
			}
			if results[i].Err() != nil {
				t.Error(results[i].Err())
			}
		}
	})
}

// TestRunDatacentersCancelled cancels the context in a callback of one datacenter.
func TestRunDatacentersCancelled(t *testing.T) {
	runtest.Bubble(t, twoDatacenters(runtest.Sleeps(time.Hour)), func(t *testing.T, srv *exectest.Server) {
		why := errors.New("lunch")
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		recs := runtest.NewRecorders(t, srv.Client())
		acks := 0
		recs.Hook = func(dc, call string) {
			if strings.HasPrefix(call, "ack") {
				if acks++; acks == 4 {
					cancel(why)
				}
			}
		}
		results, err := consulexec.RunDatacenters(ctx, []string{"dc1", "dc2"}, "x", recs.Options())
		if !errors.Is(err, context.Canceled) || !errors.Is(err, why) || strings.Count(err.Error(), "datacenter") != 2 {
			t.Errorf("error %v", err)
		}
		for i, dc := range []string{"dc1", "dc2"} {
			recs.Check(dc, results[i], err)
			if strings.Count(runtest.States(results[i]), "running") != 2 {
				t.Errorf("states %s", runtest.States(results[i]))
			}
		}
	})
}

// TestRunDatacentersPanic has a callback that panics or ends its goroutine. The runs
// in the other datacenters end at once, without a further callback.
func TestRunDatacentersPanic(t *testing.T) {
	for name, end := range map[string]func(){
		"panic":  func() { panic("on purpose") },
		"goexit": runtime.Goexit,
	} {
		for _, at := range []string{"submit", "ack far-a", "output a", "exit a 0"} {
			t.Run(name+" at "+at, func(t *testing.T) {
				runtest.Bubble(t, []exectest.Option{
					runtest.Node("a", runtest.Up), runtest.Node("b", runtest.Sleeps(time.Hour)),
					exectest.Datacenter("dc2", runtest.Node("far-a", runtest.Sleeps(time.Hour))),
				}, func(t *testing.T, srv *exectest.Server) {
					ended := ""
					var when time.Time
					recs := runtest.NewRecorders(t, srv.Client())
					recs.Hook = func(dc, call string) {
						if ended != "" {
							t.Errorf("%s in %s after %s", call, dc, ended)
						}
						if call == at {
							ended = call + " in " + dc
							time.Sleep(time.Second) // callbacks of the other runs wait for their turn
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
						_, _ = consulexec.RunDatacenters(t.Context(), []string{"dc1", "atlantis", "dc2"}, "x", recs.Options(consulexec.WithWait(time.Hour))) // no heartbeat wakes the other runs
						returned = true
					}()
					<-left
					if returned || (panicked == "on purpose") != (name == "panic") {
						t.Errorf("returned %v, panic %v", returned, panicked)
					}
					if keys, sessions := srv.Keys(""), srv.Sessions(); len(keys)+len(sessions) > 0 {
						t.Errorf("the runs leave keys %v and sessions %v", keys, sessions)
					}
					if took := time.Since(when); took > 5*time.Second {
						t.Errorf("the other runs end %v later, want at most 5s", took)
					}
					synctest.Wait() // for callbacks that come too late
				})
			})
		}
	}
}

// TestRunDatacentersBadInput checks that bad input is refused before any request.
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
		"two":        {[]string{"dc1", "dc2"}, "\x00", bad, []string{`datacenter "dc2": consulexec: WithWait`, `datacenter "dc2": consulexec: command`, `datacenter "dc1": consulexec: command`}},
		"options":    {[]string{"dc1", "dc2"}, "x", bad, []string{`datacenter "dc2": `, "WithWait"}},
		"all of it":  {[]string{"dc1", "dc2", "", "dc2"}, "x", bad, []string{`datacenter "dc2": `, "WithWait", "empty", "twice"}},
	} {
		t.Run(name, func(t *testing.T) {
			results, err := consulexec.RunDatacenters(t.Context(), test.datacenters, test.command, test.options)
			if results != nil || err == nil {
				t.Fatalf("results %v, error %v", results, err)
			}
			for line := range strings.Lines(err.Error()) {
				if !strings.HasPrefix(line, `datacenter "`) && !strings.HasPrefix(line, "consulexec: RunDatacenters(") && test.datacenters != nil {
					t.Errorf("line %q names no datacenter", line)
				}
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
		})
	}
	//lint:ignore SA1012 the test is about a nil context
	if results, err := consulexec.RunDatacenters(nil, []string{"dc1", "dc2"}, "x", client); results != nil || err == nil || !strings.Contains(err.Error(), "nil context") {
		t.Errorf("nil context: results %v, error %v", results, err)
	}
	if requests := srv.Requests(); len(requests) > 0 {
		t.Errorf("requests %v, want none", requests)
	}
}

// TestRunDatacentersOptions gives two datacenters one slice of options, which names
// a third datacenter and has room at its end. It then gives no options.
func TestRunDatacentersOptions(t *testing.T) {
	runtest.Bubble(t, twoDatacenters(runtest.Up), func(t *testing.T, srv *exectest.Server) {
		shared := make([]consulexec.Option, 0, 10)
		shared = append(shared, consulexec.WithClient(srv.Client()), consulexec.WithDatacenter("dc3"))
		results, err := consulexec.RunDatacenters(t.Context(), []string{"dc1", "dc2"}, "x", func(string) []consulexec.Option { return shared })
		if err != nil || runtest.States(results[0]) != "a: exit 0, b: exit 0" || runtest.States(results[1]) != "far-a: exit 0, far-b: exit 0" {
			t.Errorf("error %v, states %s and %s", err, runtest.States(results[0]), runtest.States(results[1]))
		}
		if shared[:3][2] != nil {
			t.Error("RunDatacenters wrote into the caller's slice")
		}
	})
	srv := exectest.NewServer(twoDatacenters(runtest.Up)...)
	defer srv.Close()
	t.Setenv(api.HTTPAddrEnvName, srv.URL)
	results, err := consulexec.RunDatacenters(t.Context(), []string{"dc2"}, "x", nil)
	if err != nil || runtest.States(results[0]) != "far-a: exit 0, far-b: exit 0" {
		t.Errorf("error %v, states %s", err, runtest.States(results[0]))
	}
}
