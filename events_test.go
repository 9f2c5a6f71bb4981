package consulexec_test

import (
	"context"
	"errors"
	"iter"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
	"github.com/consulexec/consulexec/internal/runtest"
)

// loop is Recorder.Loop with a new recorder.
func loop(ctx context.Context, t *testing.T, client *api.Client, command string, body func(consulexec.Event) bool, options ...consulexec.Option) (*runtest.Recorder, *consulexec.Result, error) {
	t.Helper()
	rec := runtest.NewRecorder(t, client)
	result, err := rec.Loop(ctx, command, body, options...)
	return rec, result, err
}

// variety is a cluster on which a run has events of every type.
var variety = []exectest.Option{
	runtest.Node("a", says("one\n", "two\n")),
	runtest.Node("b", runtest.Dies(10*time.Second)),
	runtest.Node("c", runtest.Sleeps(time.Minute)),
	runtest.Node("off", runtest.Up, exectest.ExecDisabled()),
}

// TestEvents checks that the loop gets an event for each callback, in their order.
func TestEvents(t *testing.T) {
	runtest.Bubble(t, variety, func(t *testing.T, srv *exectest.Server) {
		types := make(map[consulexec.EventType]int)
		_, result, err := loop(t.Context(), t, srv.Client(), "x", func(event consulexec.Event) bool {
			types[event.Type]++
			return true
		})
		if err != nil {
			t.Error(err)
		}
		if got, want := runtest.States(result), "a: exit 3, b: lost, c: exit 0, off: no response"; got != want {
			t.Errorf("states %s, want %s", got, want)
		}
		for typ, want := range map[consulexec.EventType]int{
			consulexec.EventSubmit: 1, consulexec.EventAck: 3, consulexec.EventOutput: 3, consulexec.EventExit: 2,
			consulexec.EventLost: 1, consulexec.EventNoResponse: 1,
		} {
			if types[typ] != want {
				t.Errorf("%d events %v, want %d", types[typ], typ, want)
			}
		}
		if types[consulexec.EventHeartbeat] < 20 {
			t.Errorf("%d heartbeats in a minute, want at least 20", types[consulexec.EventHeartbeat])
		}
	})
}

// TestEventsTime blocks a callback for a minute. The time of its event is from
// before that.
func TestEventsTime(t *testing.T) {
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Up)}, func(t *testing.T, srv *exectest.Server) {
		e, err := consulexec.New("x", consulexec.WithClient(srv.Client()), consulexec.OnAck(func(string) { time.Sleep(time.Minute) }))
		if err != nil {
			t.Fatal(err)
		}
		for event, err := range e.Events(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			if age := time.Since(event.Time); (event.Type == consulexec.EventAck) != (age == time.Minute) {
				t.Errorf("event %s is %v old", runtest.EventCall(event), age)
			}
		}
	})
}

func TestEventTypeString(t *testing.T) {
	want := []string{"EventType(0)", "targets", "submit", "ack", "output", "heartbeat", "exit", "lost", "no response", "EventType(9)"}
	for i, want := range want {
		if got := consulexec.EventType(i).String(); got != want {
			t.Errorf("EventType(%d) is %q, want %q", i, got, want)
		}
	}
	if consulexec.EventTargets.String() != "targets" || consulexec.EventSubmit.String() != "submit" || consulexec.EventNoResponse.String() != "no response" {
		t.Error("the constants are in another order")
	}
}

// TestEventsBreak leaves the loop at each event of a run in turn. The run ends soon
// and leaves nothing.
func TestEventsBreak(t *testing.T) {
	total := 1
	for at := 0; at < total; at++ {
		runtest.Bubble(t, variety, func(t *testing.T, srv *exectest.Server) {
			seen, running := 0, 0
			var left time.Time
			rec, result, err := loop(t.Context(), t, srv.Client(), "x", func(event consulexec.Event) bool {
				switch event.Type {
				case consulexec.EventAck:
					running++
				case consulexec.EventExit, consulexec.EventLost:
					running--
				}
				seen++
				left = time.Now()
				return at == 0 && total == 1 || seen <= at // the first run counts the events
			})
			if at == 0 && total == 1 {
				total, at = seen, -1
				return
			}
			if seen != at+1 {
				t.Errorf("left at event %d, but saw %d", at, seen)
			}
			if running > 0 && !errors.Is(err, context.Canceled) {
				t.Errorf("left at event %d of %d: error %v, states %s", at, total, err, runtest.States(result))
			}
			if took := time.Since(left); took > 5*time.Second {
				t.Errorf("left at event %d: the run ends %v later: %v", at, took, rec.Calls)
			}
		})
	}
	if total < 30 {
		t.Errorf("%d events, want at least 30", total)
	}
}

// TestEventsAbsent loops over a run with a node that is not in the catalog.
func TestEventsAbsent(t *testing.T) {
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Up)}, func(t *testing.T, srv *exectest.Server) {
		var absent error
		_, result, err := loop(t.Context(), t, srv.Client(), "x", func(event consulexec.Event) bool {
			if event.Type == consulexec.EventNoResponse {
				absent = event.Err
			}
			return true
		}, consulexec.WithNodes("a", "gone"))
		if err != nil || absent == nil || absent.Error() != result.Err().Error() {
			t.Errorf("error %v, event with %v, result %v", err, absent, result.Err())
		}
	})
}

// TestEventsBreakError checks the error of a run whose loop was left.
func TestEventsBreakError(t *testing.T) {
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Sleeps(time.Hour))}, func(t *testing.T, srv *exectest.Server) {
		_, result, err := loop(t.Context(), t, srv.Client(), "x", func(event consulexec.Event) bool { return event.Type != consulexec.EventAck })
		if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "loop over Events") || runtest.States(result) != "a: running" {
			t.Errorf("error %v, states %s", err, runtest.States(result))
		}
	})
}

// TestEventsError loops over runs that fail. The loop gets the error last.
func TestEventsError(t *testing.T) {
	t.Run("no targets", func(t *testing.T) {
		runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Up)}, func(t *testing.T, srv *exectest.Server) {
			rec, _, err := loop(t.Context(), t, srv.Client(), "x", nil, consulexec.WithNode("nobody"))
			if !errors.Is(err, consulexec.ErrNoTargets) || !slices.Equal(rec.Calls, []string{"error"}) {
				t.Errorf("error %v, calls %v", err, rec.Calls)
			}
		})
	})
	t.Run("session lost", func(t *testing.T) {
		runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Sleeps(time.Hour))}, func(t *testing.T, srv *exectest.Server) {
			_, _, err := loop(t.Context(), t, srv.Client(), "x", func(event consulexec.Event) bool {
				if event.Type == consulexec.EventAck {
					srv.DestroySession(srv.Sessions()[0])
				}
				return true
			})
			if !errors.Is(err, consulexec.ErrSessionLost) {
				t.Errorf("error %v", err)
			}
		})
	})
	t.Run("cancelled", func(t *testing.T) {
		runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Sleeps(time.Hour))}, func(t *testing.T, srv *exectest.Server) {
			why := errors.New("lunch")
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			_, _, err := loop(ctx, t, srv.Client(), "x", func(event consulexec.Event) bool {
				if event.Type == consulexec.EventAck {
					cancel(why)
				}
				return true
			})
			if !errors.Is(err, context.Canceled) || !errors.Is(err, why) {
				t.Errorf("error %v", err)
			}
		})
	})
}

// TestEventsPanic ends the loop by a panic of its body, or by the end of its
// goroutine.
func TestEventsPanic(t *testing.T) {
	for name, end := range map[string]func(){
		"panic":  func() { panic("on purpose") },
		"goexit": runtime.Goexit,
	} {
		t.Run(name, func(t *testing.T) {
			runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Sleeps(time.Hour))}, func(t *testing.T, srv *exectest.Server) {
				rec := runtest.NewRecorder(t, srv.Client())
				e := rec.New("x")
				var panicked any
				returned := false
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					defer func() { panicked = recover() }()
					for event := range e.Events(t.Context()) {
						if event.Type == consulexec.EventAck {
							end()
						}
					}
					returned = true
				}()
				<-ended
				if returned || (panicked == "on purpose") != (name == "panic") {
					t.Errorf("returned %v, panic %v", returned, panicked)
				}
				if keys, sessions := srv.Keys(""), srv.Sessions(); len(keys)+len(sessions) > 0 {
					t.Errorf("the run leaves keys %v and sessions %v", keys, sessions)
				}
				if result, err := e.Wait(); err == nil || runtest.States(result) != "a: running" {
					t.Errorf("error %v, states %s", err, runtest.States(result))
				}
				if want := []string{"submit", "ack a"}; !slices.Equal(rec.Calls, want) {
					t.Errorf("callbacks %v, want %v", rec.Calls, want)
				}
			})
		})
	}
}

// TestEventsOnce loops over runs that have started before, and over one without a
// context.
func TestEventsOnce(t *testing.T) {
	one := func(t *testing.T, events iter.Seq2[consulexec.Event, error]) error {
		t.Helper()
		var errs []error
		for event, err := range events {
			if !reflect.ValueOf(event).IsZero() || err == nil {
				t.Errorf("event %v, error %v", event, err)
			}
			errs = append(errs, err)
		}
		if len(errs) != 1 {
			t.Fatalf("errors %v, want one", errs)
		}
		return errs[0]
	}
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Up)}, func(t *testing.T, srv *exectest.Server) {
		newExec := func() *consulexec.Exec {
			e, err := consulexec.New("x", consulexec.WithClient(srv.Client()))
			if err != nil {
				t.Fatal(err)
			}
			return e
		}
		looped := newExec()
		events := looped.Events(t.Context())
		if _, err := looped.Wait(); !errors.Is(err, consulexec.ErrNotStarted) {
			t.Errorf("before the loop: %v", err)
		}
		n := 0
		for _, err := range events {
			if err != nil {
				t.Error(err)
			}
			if n++; n == 1 {
				if err := one(t, events); !errors.Is(err, consulexec.ErrStarted) {
					t.Errorf("in the loop: %v", err)
				}
			}
		}
		if n != 5 {
			t.Errorf("%d events, want 5", n)
		}
		if err := one(t, events); !errors.Is(err, consulexec.ErrStarted) {
			t.Errorf("second loop: %v", err)
		}
		if err := one(t, looped.Events(t.Context())); !errors.Is(err, consulexec.ErrStarted) {
			t.Errorf("second Events: %v", err)
		}
		if err := looped.Start(t.Context()); !errors.Is(err, consulexec.ErrStarted) {
			t.Errorf("Start after the loop: %v", err)
		}
		started := newExec()
		if err := started.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := one(t, started.Events(t.Context())); !errors.Is(err, consulexec.ErrStarted) {
			t.Errorf("after Start: %v", err)
		}
		if result, err := started.Wait(); err != nil || runtest.States(result) != "a: exit 0" {
			t.Errorf("error %v, states %s", err, runtest.States(result))
		}
		//lint:ignore SA1012 the test is about a nil context
		if err := one(t, newExec().Events(nil)); err == nil || !strings.Contains(err.Error(), "nil context") {
			t.Errorf("nil context: %v", err)
		}
		if n := srv.Executions("a"); n != 2 {
			t.Errorf("the command ran %d times, want 2", n)
		}
	})
}

// TestEventsPull pulls one event after the other, and stops before the end.
func TestEventsPull(t *testing.T) {
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Sleeps(time.Hour))}, func(t *testing.T, srv *exectest.Server) {
		e, err := consulexec.New("x", consulexec.WithClient(srv.Client()))
		if err != nil {
			t.Fatal(err)
		}
		next, stop := iter.Pull2(e.Events(t.Context()))
		for _, want := range []string{"targets", "submit", "ack a", "heartbeat a"} {
			if event, err, more := next(); runtest.EventCall(event) != want || err != nil || !more {
				t.Errorf("event %v, error %v, want %s", event, err, want)
			}
		}
		stop()
		if _, _, more := next(); more {
			t.Error("an event comes after the stop")
		}
		result, err := e.Wait()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		runtest.CheckNothingLeft(t, srv.Client(), e, result)
	})
}
