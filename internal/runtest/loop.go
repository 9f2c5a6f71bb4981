package runtest

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/consulexec/consulexec"
)

// Loop ranges over the events of a run, compares each with the callbacks, and
// makes all checks at the end. Body, if not nil, gets each event; it leaves the
// loop by returning false.
func (r *Recorder) Loop(ctx context.Context, command string, body func(consulexec.Event) bool, options ...consulexec.Option) (*consulexec.Result, error) {
	r.tb.Helper()
	e := r.New(command, options...)
	output := make(map[string][]byte)
	var events []string
	var last time.Time
	var yielded error
	left := false
	for event, err := range e.Events(ctx) {
		if yielded != nil {
			r.tb.Errorf("event %v after error %v", event, yielded)
		}
		if err != nil {
			yielded = err
			if !reflect.ValueOf(event).IsZero() {
				r.tb.Errorf("event %v with error %v", event, err)
			}
			if r.Count("error") != 1 {
				r.tb.Errorf("error %v before OnError: %v", err, r.Calls)
			}
			continue
		}
		if event.Type == consulexec.EventTargets {
			if !slices.Equal(event.Nodes, r.Targets) || (event.Nodes == nil) != (r.Targets == nil) || len(events) > 0 {
				r.tb.Errorf("event with targets %q after events %v, OnTargets got %q", event.Nodes, events, r.Targets)
			}
		} else {
			events = append(events, EventCall(event))
		}
		if !slices.Equal(events, r.Calls) {
			r.tb.Errorf("events %v after callbacks %v", events, r.Calls)
		}
		r.checkEvent(event, last)
		last = event.Time
		output[event.Node] = append(output[event.Node], event.Output...)
		if body != nil && !body(event) {
			left = true
			break
		}
	}
	result, err := e.Wait()
	r.Check(e, result, err)
	if on := goroutine(); on != r.goroutine {
		r.tb.Errorf("callbacks are on %s, the loop is on %s", r.goroutine, on)
	}
	if left {
		return result, err
	}
	if yielded != err {
		r.tb.Errorf("the loop got error %v, Wait returned %v", yielded, err)
	}
	calls := r.Calls[:len(r.Calls)-1] // without done or error
	if !slices.Equal(events, calls) {
		r.tb.Errorf("events %v, callbacks %v", events, calls)
	}
	for _, n := range result.Nodes {
		if !bytes.Equal(output[n.Node], n.Output) {
			r.tb.Errorf("%s: output %q in the loop, %q in the result", n.Node, output[n.Node], n.Output)
		}
	}
	return result, err
}

// checkEvent checks the fields of an event. Last is the time of the one before.
func (r *Recorder) checkEvent(event consulexec.Event, last time.Time) {
	r.tb.Helper()
	if event.Type != consulexec.EventTargets && event.Nodes != nil {
		r.tb.Errorf("%s with nodes %q", EventCall(event), event.Nodes)
	}
	if (event.Type == consulexec.EventOutput) != (event.Output != nil) {
		r.tb.Errorf("%s with output %q", EventCall(event), event.Output)
	}
	failed := event.Type == consulexec.EventLost || event.Type == consulexec.EventNoResponse || event.ExitCode != 0
	node, isNode := event.Err.(*consulexec.NodeError)
	if failed != (event.Err != nil) || failed && (!isNode || node.Node != event.Node || node.ExitCode != event.ExitCode && node.State == consulexec.StateExited) {
		r.tb.Errorf("%s with error %v", EventCall(event), event.Err)
	}
	if event.Time.IsZero() || event.Time.Before(last) || time.Now().Before(event.Time) {
		r.tb.Errorf("%s at %v, the event before it at %v, now it is %v", EventCall(event), event.Time, last, time.Now())
	}
}

// EventCall returns the call that a recorder has for an event.
func EventCall(event consulexec.Event) string {
	switch event.Type {
	case consulexec.EventExit:
		return fmt.Sprintf("exit %s %d", event.Node, event.ExitCode)
	case consulexec.EventNoResponse:
		return "no-response " + event.Node
	}
	return strings.TrimSpace(event.Type.String() + " " + event.Node)
}
