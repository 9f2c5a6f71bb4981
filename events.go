package consulexec

import "time"

// An EventType says what an Event reports.
type EventType int

const (
	// EventTargets comes once, before all others: Nodes are expected to run the
	// command. They may have the job already, so to leave the loop here does not
	// stop them. See OnTargets.
	EventTargets EventType = iota + 1

	// EventSubmit comes once, before all others but EventTargets: the job is on
	// its way to the nodes. See OnSubmit.
	EventSubmit

	// EventAck says that Node has taken the job. See OnAck.
	EventAck

	// EventOutput has a piece of Node's output. See OnOutput.
	EventOutput

	// EventHeartbeat says that the command still runs on Node and prints
	// nothing. See OnHeartbeat.
	EventHeartbeat

	// EventExit says that the command has ended on Node with ExitCode. See
	// OnExit.
	EventExit

	// EventLost says that Node ran the command and counts as lost. See OnLost.
	EventLost

	// EventNoResponse says that Node was expected to take the job and did not.
	// See OnNoResponse.
	EventNoResponse
)

// Events that only callbacks see.
const (
	eventLine  EventType = -1 - iota // Output is a line
	eventDone                        // the run went to its end
	eventError                       // the run failed with Err
)

var eventNames = names[EventType]{
	EventTargets:    "targets",
	EventSubmit:     "submit",
	EventAck:        "ack",
	EventOutput:     "output",
	EventHeartbeat:  "heartbeat",
	EventExit:       "exit",
	EventLost:       "lost",
	EventNoResponse: "no response",
}

// String returns the type in words, such as "no response".
func (t EventType) String() string { return eventNames.of(t, "EventType") }

// An Event is one thing that happens in a run. The zero Event stands for no event.
type Event struct {
	Type EventType

	// Node is the node's name in Consul. It is empty for EventTargets and
	// EventSubmit.
	Node string

	// Nodes has the names of the expected nodes, for EventTargets. It is nil if
	// nobody knows them. The receiver may keep it. See OnTargets.
	Nodes []string

	// Output is the output of EventOutput: stdout and stderr in one stream, 1
	// to 4096 bytes, cut without regard to lines or characters. The receiver
	// may keep it.
	Output []byte

	// ExitCode is the status of EventExit. See NodeResult.ExitCode for the
	// codes.
	ExitCode int

	// Err is a *NodeError for EventLost, EventNoResponse, and an EventExit that
	// is no success: with another status than 0, or after WithTimeout had to end
	// the command. It is nil for the others. What the run learns of a node after
	// that event is in NodeResult.Err only.
	Err error

	// Time is when this client learned of it.
	Time time.Time
}

// listener takes the events of a run, in order, on one goroutine at a time.
type listener func(Event)

// handlers has the caller's callbacks for each type of event, in their order.
type handlers map[EventType][]listener

// handle calls the callbacks for e.
func (h handlers) handle(e Event) {
	for _, callback := range h[e.Type] {
		callback(e)
	}
}
