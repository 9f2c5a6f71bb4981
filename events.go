package consulexec

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"
)

// An EventType says what an Event tells.
type EventType int

const (
	// EventSubmit comes once, before all others: the event that starts the job is
	// on its way to the nodes. See OnSubmit.
	EventSubmit EventType = iota + 1

	// EventAck says that Node has taken the job. See OnAck.
	EventAck

	// EventOutput has a piece of Node's output. See OnOutput.
	EventOutput

	// EventHeartbeat says that the command still runs on Node and prints
	// nothing. See OnHeartbeat.
	EventHeartbeat

	// EventExit says that the command has ended on Node, with ExitCode. See
	// OnExit.
	EventExit

	// EventLost says that Node ran the command and counts as lost. See OnLost.
	EventLost

	// EventNoResponse says that Node was expected to take the job and has not. See
	// OnNoResponse.
	EventNoResponse
)

// String returns the type in words, such as "no response".
func (t EventType) String() string {
	switch t {
	case EventSubmit:
		return "submit"
	case EventAck:
		return "ack"
	case EventOutput:
		return "output"
	case EventHeartbeat:
		return "heartbeat"
	case EventExit:
		return "exit"
	case EventLost:
		return "lost"
	case EventNoResponse:
		return "no response"
	}
	return fmt.Sprintf("EventType(%d)", int(t))
}

// An Event is one thing that happens in a run. The zero Event is none.
type Event struct {
	Type EventType

	// Node is the node's name in Consul, and empty for EventSubmit.
	Node string

	// Output is what EventOutput brings: stdout and stderr in one, between 1 and
	// 4096 bytes, cut without regard for lines or characters. It may be kept.
	Output []byte

	// ExitCode is the status that EventExit brings. See NodeResult.ExitCode for
	// the codes.
	ExitCode int

	// Err is a *NodeError that says why, for EventLost, and nil for the others.
	Err error

	// Time is when this client learned of it.
	Time time.Time
}

// errLoopEnded is why a run ends whose loop was left.
var errLoopEnded = errors.New("the loop over Events has ended")

// Events runs the command and returns what happens as a sequence to range over, in
// place of Start, Run and callbacks:
//
//	for event, err := range e.Events(ctx) {
//		if err != nil {
//			return err
//		}
//		...
//	}
//	result, err := e.Wait()
//
// The run begins with the loop, on the loop's goroutine. Events come in the order
// of the callbacks, and a loop body that takes its time is like a callback that
// does. The error of the run, that of Wait, comes last, with a zero
// Event; a loop that ends without one is done. As an Exec runs once, a second loop,
// or one after Start or Run, gets ErrStarted, and nothing else.
//
// To leave the loop is to cancel ctx: the run ends, and its session and keys are
// removed before the statement after the loop. The error of Wait then wraps
// context.Canceled, unless the run had come to its end, which is after the last
// node's event: a loop that wants the run's success goes on until it ends. After a panic in the
// loop body they are removed before the panic goes on.
//
// Callbacks that New was given are called as well, each before its event is in the
// loop, OnDone or OnError after the last event and before the error. When the loop
// is left they are called for what had been read from Consul already, which the
// Result has too, and then OnError or OnDone.
func (e *Exec) Events(ctx context.Context) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		if err := e.begin(ctx); err != nil {
			yield(Event{}, err)
			return
		}
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		left := false
		config := *e.config
		config.callbacks = config.callbacks.before(func(event Event) {
			if !left && !yield(event, nil) {
				left = true
				cancel(errLoopEnded)
			}
		})
		e.config = &config
		e.run(ctx)
		if e.err != nil && !left {
			yield(Event{}, e.err)
		}
	}
}

// before returns callbacks that call c's and then then, with what it was about.
func (c callbacks) before(then func(Event)) callbacks {
	given := c
	report := func(event Event, call func()) {
		event.Time = time.Now()
		call()
		then(event)
	}
	c.submit = func() { report(Event{Type: EventSubmit}, given.submit) }
	c.ack = func(node string) { report(Event{Type: EventAck, Node: node}, func() { given.ack(node) }) }
	c.output = func(node string, output []byte) {
		report(Event{Type: EventOutput, Node: node, Output: output}, func() { given.output(node, output) })
	}
	c.heartbeat = func(node string) {
		report(Event{Type: EventHeartbeat, Node: node}, func() { given.heartbeat(node) })
	}
	c.exit = func(node string, code int) {
		report(Event{Type: EventExit, Node: node, ExitCode: code}, func() { given.exit(node, code) })
	}
	c.lost = func(node string, err error) {
		report(Event{Type: EventLost, Node: node, Err: err}, func() { given.lost(node, err) })
	}
	c.noResponse = func(node string) {
		report(Event{Type: EventNoResponse, Node: node}, func() { given.noResponse(node) })
	}
	return c
}
