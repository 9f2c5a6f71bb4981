package consulexec_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
	"github.com/consulexec/consulexec/internal/runtest"
)

// TestOnTargets checks whom OnTargets names, and that the recorder's rules hold:
// once, before OnSubmit.
func TestOnTargets(t *testing.T) {
	denied := exectest.Fault{Match: exectest.Path("GET", "/v1/health/"), Do: exectest.Denied}
	for name, test := range map[string]struct {
		options []consulexec.Option
		fault   exectest.Fault
		want    []string
	}{
		"all, by name":    {want: []string{"a", "b", "c"}},
		"a filter":        {options: []consulexec.Option{consulexec.WithNode("[bc]")}, want: []string{"b", "c"}},
		"names, in order": {options: []consulexec.Option{consulexec.WithNodes("c", "down", "a", "gone", "c")}, want: []string{"c", "a"}},
		"all candidates":  {options: []consulexec.Option{consulexec.WithLimit(1)}, want: []string{"a", "b", "c"}},
		"rolling":         {options: []consulexec.Option{consulexec.WithConcurrency(1)}, want: []string{"a", "b", "c"}},
		"nobody knows":    {options: []consulexec.Option{consulexec.WithoutDiscovery()}},
		"not permitted":   {fault: denied},
		"names all the same": {
			options: []consulexec.Option{consulexec.WithNodes("b", "gone"), consulexec.WithoutDiscovery()},
			want:    []string{"b", "gone"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			nodes := []exectest.Option{
				runtest.Node("a", runtest.Up), runtest.Node("b", runtest.Up), runtest.Node("c", runtest.Up),
				runtest.Node("down", runtest.Up, exectest.Down()),
			}
			runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
				if test.fault.Do != nil {
					srv.Fault(test.fault)
				}
				for _, loop := range []bool{false, true} {
					rec := runtest.NewRecorder(t, srv.Client())
					var err error
					if loop {
						_, err = rec.Loop(t.Context(), "x", nil, test.options...)
					} else {
						_, err = rec.Run(t.Context(), "x", test.options...)
					}
					if err != nil || !slices.Equal(rec.Targets, test.want) || (rec.Targets == nil) != (test.want == nil) {
						t.Errorf("error %v, targets %q, want %q", err, rec.Targets, test.want)
					}
				}
			})
		})
	}
}

// TestOnTargetsNot ends runs before the nodes are known, or with none. OnTargets
// is not called.
func TestOnTargetsNot(t *testing.T) {
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Up), runtest.Node("down", runtest.Up, exectest.Down())}, func(t *testing.T, srv *exectest.Server) {
		never := consulexec.OnTargets(func(nodes []string) { t.Errorf("OnTargets got %q", nodes) })
		for _, option := range []consulexec.Option{consulexec.WithNode("nobody"), consulexec.WithNodes("down", "gone")} {
			if _, _, err := runtest.Execute(t, srv.Client(), "x", option, never); !errors.Is(err, consulexec.ErrNoTargets) {
				t.Errorf("error %v", err)
			}
		}
		defer srv.Fault(exectest.Fault{Match: exectest.Path("PUT", "/v1/session/create"), Do: exectest.Denied})()
		if _, _, err := runtest.Execute(t, srv.Client(), "x", never); !errors.Is(err, consulexec.ErrPermissionDenied) {
			t.Errorf("error %v", err)
		}
	})
}

// TestOnTargetsFailed has a run that fails after the nodes are known and before
// one has the job. OnTargets is called.
func TestOnTargetsFailed(t *testing.T) {
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Up)}, func(t *testing.T, srv *exectest.Server) {
		srv.Fault(exectest.Fault{Match: exectest.Path("PUT", "/v1/event/fire"), Do: exectest.Denied})
		rec, _, err := runtest.Execute(t, srv.Client(), "x")
		if !errors.Is(err, consulexec.ErrPermissionDenied) || !slices.Equal(rec.Targets, []string{"a"}) || !slices.Equal(rec.Calls, []string{"error"}) {
			t.Errorf("error %v, targets %q, callbacks %v", err, rec.Targets, rec.Calls)
		}
	})
}

// TestOnTargetsOwn has a receiver change the names, which the next one must not
// see, be slow, and panic.
func TestOnTargetsOwn(t *testing.T) {
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Up), runtest.Node("b", runtest.Up)}, func(t *testing.T, srv *exectest.Server) {
		e, err := consulexec.New("x", consulexec.WithClient(srv.Client()), consulexec.WithConcurrency(1), consulexec.OnTargets(func(nodes []string) {
			clear(nodes)
			time.Sleep(5 * time.Minute)
		}), consulexec.OnTargets(func(nodes []string) {
			if !slices.Equal(nodes, []string{"a", "b"}) {
				t.Errorf("the second callback gets %q", nodes)
			}
		}))
		if err != nil {
			t.Fatal(err)
		}
		result, err := e.Run(t.Context())
		if err != nil || runtest.States(result) != "a: exit 0, b: exit 0" {
			t.Errorf("error %v, states %s", err, runtest.States(result))
		}
		e, err = consulexec.New("x", consulexec.WithClient(srv.Client()), consulexec.OnTargets(func([]string) { panic("on purpose") }))
		if err != nil {
			t.Fatal(err)
		}
		func() {
			defer func() {
				if p := recover(); p != "on purpose" {
					t.Errorf("recovered %v", p)
				}
			}()
			_, _ = e.Run(t.Context())
		}()
		result, _ = e.Wait()
		runtest.CheckNothingLeft(t, srv.Client(), e, result)
	})
}

// TestOnTargetsDatacenters has a callback for the nodes of each datacenter.
func TestOnTargetsDatacenters(t *testing.T) {
	nodes := []exectest.Option{runtest.Node("a", runtest.Up), exectest.Datacenter("dc2", runtest.Node("far", runtest.Up))}
	runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		got := make(map[string][]string)
		results, err := consulexec.RunDatacenters(t.Context(), []string{"dc1", "dc2"}, "x", func(dc string) []consulexec.Option {
			return []consulexec.Option{consulexec.WithClient(srv.Client()), consulexec.OnTargets(func(nodes []string) { got[dc] = nodes })}
		})
		if err != nil || len(results) != 2 || !slices.Equal(got["dc1"], []string{"a"}) || !slices.Equal(got["dc2"], []string{"far"}) {
			t.Errorf("error %v, targets %v", err, got)
		}
	})
}
