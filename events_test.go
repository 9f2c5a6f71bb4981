package consulexec_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
)

// name returns what a recorder calls an event.
func name(event consulexec.Event) string {
	switch event.Type {
	case consulexec.EventExit:
		return fmt.Sprintf("exit %s %d", event.Node, event.ExitCode)
	case consulexec.EventNoResponse:
		return "no-response " + event.Node
	}
	return strings.TrimSpace(event.Type.String() + " " + event.Node)
}

// loop ranges over a run with a recorder beside it, checks each event, and that
// nothing is left behind. body may be nil, and leaves the loop by returning false.
func loop(ctx context.Context, t *testing.T, client *api.Client, command string, body func(consulexec.Event) bool, options ...consulexec.Option) (*recorder, *consulexec.Result, error) {
	t.Helper()
	rec := &recorder{t: t}
	options = slices.Concat([]consulexec.Option{consulexec.WithClient(client), consulexec.WithCapture(2 << 20)}, rec.options(), options)
	e, err := consulexec.New(command, options...)
	if err != nil {
		t.Fatal(err)
	}
	self, _, _ := bytes.Cut(debugStack(), []byte(" ["))
	output := make(map[string][]byte)
	var events []string
	var last time.Time
	var yielded error
	left := false
	for event, err := range e.Events(ctx) {
		if yielded != nil {
			t.Errorf("%v after error %v", event, yielded)
		}
		if err != nil {
			yielded = err
			if !isZero(event) {
				t.Errorf("event %v with error %v", event, err)
			}
			if rec.count("error") != 1 {
				t.Errorf("error %v before OnError: %v", err, rec.calls)
			}
			continue
		}
		events = append(events, name(event))
		if !slices.Equal(events, rec.calls) {
			t.Errorf("events %v after calls %v", events, rec.calls)
		}
		if (event.Type == consulexec.EventOutput) != (event.Output != nil) {
			t.Errorf("%s with output %q", name(event), event.Output)
		}
		var lost *consulexec.NodeError
		if (event.Type == consulexec.EventLost) != (errors.As(event.Err, &lost) && lost.Node == event.Node) {
			t.Errorf("%s with error %v", name(event), event.Err)
		}
		if event.Time.IsZero() || event.Time.Before(last) || time.Now().Before(event.Time) {
			t.Errorf("%s at %v, the one before at %v, now it is %v", name(event), event.Time, last, time.Now())
		}
		last = event.Time
		output[event.Node] = append(output[event.Node], event.Output...)
		if body != nil && !body(event) {
			left = true
			break
		}
	}
	result, err := e.Wait()
	if result == nil {
		t.Fatalf("no result, error %v", err)
	}
	if yielded != err && !left {
		t.Errorf("the loop got error %v, Wait returned %v", yielded, err)
	}
	if string(self) != rec.goroutine {
		t.Errorf("calls on %s, the loop on %s", rec.goroutine, self)
	}
	if !left {
		calls := slices.Clone(rec.calls[:len(rec.calls)-1]) // done or error
		if !slices.Equal(events, calls) {
			t.Errorf("events %v, calls %v", events, calls)
		}
		for _, n := range result.Nodes {
			if !bytes.Equal(output[n.Node], n.Output) {
				t.Errorf("%s: output %q in the loop, %q in the result", n.Node, output[n.Node], n.Output)
			}
		}
	}
	rec.check(err)
	checkResult(t, rec, result)
	checkNothingLeft(t, client, e, result)
	return rec, result, err
}

func isZero(event consulexec.Event) bool {
	return event.Type == 0 && event.Node == "" && event.Output == nil && event.ExitCode == 0 && event.Err == nil && event.Time.IsZero()
}

// variety is a cluster on which a run has events of every type.
var variety = []exectest.Option{
	node("a", says("one\n", "two\n")),
	node("b", dies(10*time.Second)),
	node("c", sleeps(time.Minute)),
	node("off", ok, exectest.ExecDisabled()),
}

// TestEvents has events of every type: the callbacks, in their order.
func TestEvents(t *testing.T) {
	bubble(t, variety, func(t *testing.T, srv *exectest.Server) {
		types := make(map[consulexec.EventType]int)
		_, result, err := loop(t.Context(), t, srv.Client(), "x", func(event consulexec.Event) bool {
			types[event.Type]++
			return true
		})
		if err != nil {
			t.Error(err)
		}
		if got, want := states(result), "a: exit 3, b: lost, c: exit 0, off: no response"; got != want {
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
			t.Errorf("%d heartbeats in a minute", types[consulexec.EventHeartbeat])
		}
	})
}

// TestEventsTime has a callback take a minute: the event is as old as that.
func TestEventsTime(t *testing.T) {
	bubble(t, []exectest.Option{node("a", ok)}, func(t *testing.T, srv *exectest.Server) {
		e, err := consulexec.New("x", consulexec.WithClient(srv.Client()), consulexec.OnAck(func(string) { time.Sleep(time.Minute) }))
		if err != nil {
			t.Fatal(err)
		}
		for event, err := range e.Events(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			if age := time.Since(event.Time); (event.Type == consulexec.EventAck) != (age == time.Minute) {
				t.Errorf("%s is %v old", name(event), age)
			}
		}
	})
}

func TestEventTypeString(t *testing.T) {
	want := []string{"EventType(0)", "submit", "ack", "output", "heartbeat", "exit", "lost", "no response", "EventType(8)"}
	for i, want := range want {
		if got := consulexec.EventType(i).String(); got != want {
			t.Errorf("%d is %q, want %q", i, got, want)
		}
	}
	if consulexec.EventSubmit.String() != "submit" || consulexec.EventNoResponse.String() != "no response" {
		t.Error("the types are not numbered in this order")
	}
}

// TestEventsBreak leaves the loop at each event of a run in turn. By the end of
// the loop nothing is left, and the run ended soon.
func TestEventsBreak(t *testing.T) {
	total := 1
	for at := 0; at < total; at++ {
		bubble(t, variety, func(t *testing.T, srv *exectest.Server) {
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
				return at == 0 && total == 1 || seen <= at // at first count them
			})
			if at == 0 && total == 1 {
				total, at = seen, -1
				return
			}
			if seen != at+1 {
				t.Errorf("%d events, left at %d", seen, at)
			}
			if running > 0 && !errors.Is(err, context.Canceled) {
				t.Errorf("left at %d of %d, error %v, states %s", at, total, err, states(result))
			}
			if took := time.Since(left); took > 5*time.Second {
				t.Errorf("left at %d, ended %v later: %v", at, took, rec.calls)
			}
		})
	}
	if total < 30 {
		t.Errorf("%d events", total)
	}
}

// TestEventsBreakError wants to know why the run ended.
func TestEventsBreakError(t *testing.T) {
	bubble(t, []exectest.Option{node("a", sleeps(time.Hour))}, func(t *testing.T, srv *exectest.Server) {
		_, result, err := loop(t.Context(), t, srv.Client(), "x", func(event consulexec.Event) bool { return event.Type != consulexec.EventAck })
		if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "loop over Events") || states(result) != "a: running" {
			t.Errorf("error %v, states %s", err, states(result))
		}
	})
}

// TestEventsError has runs that fail: the error is the last that the loop gets.
func TestEventsError(t *testing.T) {
	t.Run("no targets", func(t *testing.T) {
		bubble(t, []exectest.Option{node("a", ok)}, func(t *testing.T, srv *exectest.Server) {
			rec, _, err := loop(t.Context(), t, srv.Client(), "x", nil, consulexec.WithNode("nobody"))
			if !errors.Is(err, consulexec.ErrNoTargets) || !slices.Equal(rec.calls, []string{"error"}) {
				t.Errorf("error %v, calls %v", err, rec.calls)
			}
		})
	})
	t.Run("session lost", func(t *testing.T) {
		bubble(t, []exectest.Option{node("a", sleeps(time.Hour))}, func(t *testing.T, srv *exectest.Server) {
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
		bubble(t, []exectest.Option{node("a", sleeps(time.Hour))}, func(t *testing.T, srv *exectest.Server) {
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

// TestEventsPanic has the loop body panic, or end the goroutine, at the ack.
func TestEventsPanic(t *testing.T) {
	for name, end := range map[string]func(){
		"panic":  func() { panic("on purpose") },
		"goexit": runtime.Goexit,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, []exectest.Option{node("a", sleeps(time.Hour))}, func(t *testing.T, srv *exectest.Server) {
				rec := &recorder{t: t}
				e, err := consulexec.New("x", append(rec.options(), consulexec.WithClient(srv.Client()))...)
				if err != nil {
					t.Fatal(err)
				}
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
					t.Errorf("left behind: %v %v", keys, sessions)
				}
				if result, err := e.Wait(); err == nil || states(result) != "a: running" {
					t.Errorf("error %v, states %s", err, states(result))
				}
				if want := []string{"submit", "ack a"}; !slices.Equal(rec.calls, want) {
					t.Errorf("calls %v, want %v", rec.calls, want)
				}
			})
		})
	}
}

// TestEventsOnce ranges over runs that have begun already, and without a context.
func TestEventsOnce(t *testing.T) {
	one := func(t *testing.T, events iter.Seq2[consulexec.Event, error]) error {
		t.Helper()
		var errs []error
		for event, err := range events {
			if !isZero(event) || err == nil {
				t.Errorf("event %v, error %v", event, err)
			}
			errs = append(errs, err)
		}
		if len(errs) != 1 {
			t.Fatalf("errors %v", errs)
		}
		return errs[0]
	}
	bubble(t, []exectest.Option{node("a", ok)}, func(t *testing.T, srv *exectest.Server) {
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
		if n != 4 {
			t.Errorf("%d events", n)
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
		if result, err := started.Wait(); err != nil || states(result) != "a: exit 0" {
			t.Errorf("error %v, states %s", err, states(result))
		}
		//lint:ignore SA1012 what a nil context does is the point
		if err := one(t, newExec().Events(nil)); err == nil || !strings.Contains(err.Error(), "nil context") {
			t.Errorf("nil context: %v", err)
		}
		if srv.Executions("a") != 2 {
			t.Errorf("ran %d times", srv.Executions("a"))
		}
	})
}

// TestEventsPull has the caller ask for each event, and stop in the midst.
func TestEventsPull(t *testing.T) {
	bubble(t, []exectest.Option{node("a", sleeps(time.Hour))}, func(t *testing.T, srv *exectest.Server) {
		e, err := consulexec.New("x", consulexec.WithClient(srv.Client()))
		if err != nil {
			t.Fatal(err)
		}
		next, stop := iter.Pull2(e.Events(t.Context()))
		for _, want := range []string{"submit", "ack a", "heartbeat a"} {
			if event, err, more := next(); name(event) != want || err != nil || !more {
				t.Errorf("event %v, error %v, want %s", event, err, want)
			}
		}
		stop()
		if _, _, more := next(); more {
			t.Error("more after the stop")
		}
		result, err := e.Wait()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		checkNothingLeft(t, srv.Client(), e, result)
	})
}

// conformEvents ranges over a whole run, and over one that it leaves.
func conformEvents(t *testing.T, client *api.Client) {
	rec, result, err := loop(t.Context(), t, client, "echo x; sleep 1; exit 2", nil, answering, consulexec.WithWait(300*time.Millisecond))
	if err != nil || states(result) != "db-1: exit 2, web-1: exit 2, web-2: exit 2" {
		t.Errorf("error %v, states %s", err, states(result))
	}
	for what, least := range map[string]int{"submit": 1, "ack": 3, "output": 3, "heartbeat": 1, "exit": 3} {
		if n := rec.count(what); n < least {
			t.Errorf("%d events %s", n, what)
		}
	}
	for _, at := range []consulexec.EventType{consulexec.EventSubmit, consulexec.EventAck, consulexec.EventOutput} {
		_, _, err := loop(t.Context(), t, client, "echo x; sleep 10", func(event consulexec.Event) bool { return event.Type != at }, answering)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("left at %v: error %v", at, err)
		}
	}
}
