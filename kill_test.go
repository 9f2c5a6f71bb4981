package consulexec_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
	"github.com/consulexec/consulexec/internal/runtest"
)

// killable is what nodes run: commands that go on for an hour if nobody ends
// them.
type killable struct {
	mu           sync.Mutex // guards the fields below
	began, ended []string   // nodes
}

// run is the Handler of each node.
func (k *killable) run(ctx context.Context, j *exectest.Job) int {
	k.mu.Lock()
	k.began = append(k.began, j.Node)
	k.mu.Unlock()
	_, _ = j.Output.Write([]byte("begun\n"))
	runtest.Sleeps(time.Hour)(ctx, j)
	if ctx.Err() != nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.ended = append(k.ended, j.Node)
	}
	return 0
}

// check compares the nodes whose command began, and those whose command was
// ended, with want.
func (k *killable) check(t *testing.T, want ...string) {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	slices.Sort(k.began)
	slices.Sort(k.ended)
	if !slices.Equal(k.began, want) || !slices.Equal(k.ended, want) {
		t.Errorf("commands began on %v and were ended on %v, want %v", k.began, k.ended, want)
	}
}

// aborts are the ways in which a callback does not return.
var aborts = map[string]func(){
	"panic":  func() { panic("on purpose") },
	"goexit": runtime.Goexit,
}

// abort calls run, which must not return, and returns the value of its panic.
func abort(t *testing.T, run func()) (panicked any) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { panicked = recover() }()
		run()
		t.Error("the call returned")
	}()
	<-done
	return panicked
}

// checkAborted checks what an abort leaves: the panic's value, and nothing in
// Consul.
func checkAborted(t *testing.T, srv *exectest.Server, name string, panicked any) {
	t.Helper()
	if (panicked == "on purpose") != (name == "panic") {
		t.Errorf("panic %v", panicked)
	}
	if keys, sessions := srv.Keys(""), srv.Sessions(); len(keys)+len(sessions) > 0 {
		t.Errorf("the runs leave keys %v and sessions %v", keys, sessions)
	}
}

// TestKillAfterPanic has a callback of a run that panics or ends its goroutine.
// The commands are ended if they would be at the end of the context.
func TestKillAfterPanic(t *testing.T) {
	for name, end := range aborts {
		for _, at := range []string{"submit", "ack b", "output a"} {
			for how, run := range map[string]func(ctx context.Context, e *consulexec.Exec){
				"Run": func(ctx context.Context, e *consulexec.Exec) { _, _ = e.Run(ctx) },
				"Events": func(ctx context.Context, e *consulexec.Exec) {
					for range e.Events(ctx) {
					}
				},
			} {
				t.Run(name+" at "+at+" of "+how, func(t *testing.T) {
					k := new(killable)
					runtest.Bubble(t, []exectest.Option{runtest.Node("a", k.run), runtest.Node("b", k.run)}, func(t *testing.T, srv *exectest.Server) {
						rec := runtest.NewRecorder(t, srv.Client())
						rec.Hook = func(call string) {
							if call == at {
								time.Sleep(time.Second) // the agents' time to take the job
								end()
							}
						}
						e := rec.New("x", consulexec.WithKillOnCancel())
						checkAborted(t, srv, name, abort(t, func() { run(t.Context(), e) }))
						k.check(t, "a", "b")
						if result, err := e.Wait(); err == nil || runtest.States(result) != "a: killed, b: killed" || result.Nodes[0].Exited.IsZero() {
							t.Errorf("error %v, states %s", err, runtest.States(result))
						}
					})
				})
			}
		}
	}
}

// TestKillAfterGoexit ends the goroutine that Start has begun.
func TestKillAfterGoexit(t *testing.T) {
	k := new(killable)
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", k.run)}, func(t *testing.T, srv *exectest.Server) {
		e, err := consulexec.New("x", consulexec.WithClient(srv.Client()), consulexec.WithKillOnCancel(), consulexec.OnAck(func(string) { runtime.Goexit() }))
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		result, err := e.Wait()
		if err == nil || runtest.States(result) != "a: killed" {
			t.Errorf("error %v, states %s", err, runtest.States(result))
		}
		k.check(t, "a")
		checkAborted(t, srv, "goexit", nil)
	})
}

// TestNoKillAfterPanic has a callback that panics in a run whose commands may go
// on.
func TestNoKillAfterPanic(t *testing.T) {
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Sleeps(time.Hour))}, func(t *testing.T, srv *exectest.Server) {
		rec := runtest.NewRecorder(t, srv.Client())
		rec.Hook = func(call string) {
			if call == "ack a" {
				panic("on purpose")
			}
		}
		e := rec.New("x")
		checkAborted(t, srv, "panic", abort(t, func() { _, _ = e.Run(t.Context()) }))
		if n := srv.Executions("a"); n != 1 {
			t.Errorf("%d jobs came to the node, want 1", n)
		}
	})
}

// TestKillInAllDatacenters has a callback of one datacenter that panics or ends
// its goroutine. The commands of all datacenters are ended.
func TestKillInAllDatacenters(t *testing.T) {
	for name, end := range aborts {
		for _, at := range []string{"ack far", "output a"} {
			t.Run(name+" at "+at, func(t *testing.T) {
				k := new(killable)
				runtest.Bubble(t, []exectest.Option{
					runtest.Node("a", k.run), runtest.Node("b", k.run),
					exectest.Datacenter("dc2", runtest.Node("far", k.run)),
					exectest.Datacenter("dc3", runtest.Node("farther", k.run)),
				}, func(t *testing.T, srv *exectest.Server) {
					aborted := false
					recs := runtest.NewRecorders(t, srv.Client())
					recs.Hook = func(dc, call string) {
						if aborted {
							t.Errorf("%s in %s after the end", call, dc)
						}
						if call == at {
							time.Sleep(time.Second) // callbacks of the other runs wait for their turn
							aborted = true
							end()
						}
					}
					checkAborted(t, srv, name, abort(t, func() {
						_, _ = consulexec.RunDatacenters(t.Context(), []string{"dc1", "dc2", "dc3"}, "x",
							recs.Options(consulexec.WithKillOnCancel(), consulexec.WithWait(time.Hour))) // no heartbeat wakes a run
					}))
					k.check(t, "a", "b", "far", "farther")
				})
			})
		}
	}
}

// TestKillMany cancels runs on many nodes at once. Their killers take turns with
// many events each.
func TestKillMany(t *testing.T) {
	const runs, count = 10, 200
	k := new(killable)
	var nodes []exectest.Option
	var want []string
	for i := range count {
		name := fmt.Sprintf("%x", sha256.Sum256([]byte{byte(i)}))[:24] // names that share nothing
		nodes = append(nodes, runtest.Node(name, k.run))
		want = append(want, slices.Repeat([]string{name}, runs)...)
	}
	slices.Sort(want)
	runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		ctx, cancel := context.WithCancel(t.Context())
		client := srv.Client()
		var calls sync.WaitGroup
		for range runs {
			calls.Go(func() {
				e, err := consulexec.New("x", consulexec.WithClient(client), consulexec.WithKillOnCancel())
				if err != nil {
					t.Error(err)
					return
				}
				if _, err = e.Run(ctx); !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "may still run") {
					t.Errorf("error %.200v", err)
				}
			})
		}
		time.Sleep(10 * time.Second)
		cancel()
		calls.Wait()
		k.check(t, want...)
	})
}

// TestKillBesideMany cancels a run while hundreds wait for their turn to begin.
// The killer does not wait behind them.
func TestKillBesideMany(t *testing.T) {
	const runs = 400
	k := new(killable)
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", k.run), runtest.Node("b", runtest.Up)}, func(t *testing.T, srv *exectest.Server) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		client := srv.Client()
		killed, err := consulexec.New("x", consulexec.WithClient(client), consulexec.WithNodes("a"), consulexec.WithKillOnCancel())
		if err != nil {
			t.Fatal(err)
		}
		if err := killed.Start(ctx); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		var calls sync.WaitGroup
		for range runs {
			calls.Go(func() {
				if _, result, err := runtest.Execute(t, client, "x", consulexec.WithNodes("b")); err != nil || result.Err() != nil {
					t.Errorf("error %v, result %v", err, result.Err())
				}
			})
		}
		time.Sleep(time.Second)
		cancel()
		start := time.Now()
		result, _ := killed.Wait()
		if n, _ := result.Node("a"); n.State != consulexec.StateKilled || time.Since(start) > 3*time.Second {
			t.Errorf("a is %v after %v", n.State, time.Since(start))
		}
		calls.Wait()
		k.check(t, "a")
	})
}
