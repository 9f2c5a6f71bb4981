package main

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/consulexec/consulexec"
)

const (
	// maxOutput is how many bytes of output a run keeps: the last ones, of all
	// its nodes together, encoded as JSON and including messageCost.
	maxOutput = 1 << 20

	// messageCost is roughly the memory that a message takes besides its data.
	messageCost = 64

	// maxBatch limits the bytes that a reader gets at once. The last message of
	// a batch may exceed it.
	maxBatch = 64 << 10
)

// An event is the content of a message, in JSON.
type event struct {
	// Type is "start", "submit", "ack", "output", "exit", "lost", "no response"
	// or "end", which is the last. At the end of the run, "running", "killed"
	// and "skipped" give the final state of a node. "cut" stands for missing
	// output.
	Type string    `json:"type"`
	Time time.Time `json:"time,omitzero"`
	Node string    `json:"node,omitempty"`

	Order    *order `json:"order,omitempty"`    // of start
	Output   string `json:"output,omitempty"`   // of output, in whole characters
	ExitCode *int   `json:"exitCode,omitempty"` // of exit
	Bytes    int64  `json:"bytes,omitempty"`    // of cut: how many were dropped
	Error    string `json:"error,omitempty"`    // of lost; of end, if the run or a node failed
}

// A message is an encoded event. IDs count from 1, in the order of events.
type message struct {
	id   int
	data []byte
}

// A run is under way, or has ended and can still be read. It keeps its events
// for late readers, and never waits for a reader.
type run struct {
	id     string
	exec   *consulexec.Exec
	cancel context.CancelFunc

	done  chan struct{} // closed when err and ended are final
	err   error
	ended time.Time

	mu        sync.Mutex    // guards the fields below
	more      chan struct{} // closed at the next message
	ids       int           // the last ID
	last      int           // the ID of the end, or 0 before it
	states    []message     // all events but output: a few for each node
	outputs   []message     // the output that is kept
	size      int           // of outputs, including messageCost
	dropped   int64         // bytes of output that are no longer kept
	droppedID int           // the ID of the last dropped message
}

func newRun(e *consulexec.Exec) *run {
	return &run{id: e.ID(), exec: e, done: make(chan struct{}), more: make(chan struct{})}
}

// follow runs the command and records the events.
func (r *run) follow(ctx context.Context, o order) {
	r.add(event{Type: "start", Order: &o})
	parts := map[string][]byte{} // by node: the first bytes of a character whose rest is yet to arrive
	for e, err := range r.exec.Events(ctx) {
		if err != nil {
			break // Wait returns the error too
		}
		out := event{Type: e.Type.String(), Node: e.Node}
		switch e.Type {
		case consulexec.EventTargets, consulexec.EventHeartbeat:
			continue
		case consulexec.EventOutput:
			var whole []byte
			whole, parts[e.Node] = cutCharacter(append(parts[e.Node], e.Output...))
			r.addOutput(e.Node, whole)
			continue
		case consulexec.EventExit:
			out.ExitCode = &e.ExitCode
		case consulexec.EventLost:
			out.Error = e.Err.Error()
		}
		r.addOutput(e.Node, parts[e.Node])
		delete(parts, e.Node)
		r.add(out)
	}
	result, err := r.exec.Wait()
	for _, n := range result.Nodes {
		if n.State == consulexec.StateRunning || n.State == consulexec.StateSkipped || n.State == consulexec.StateKilled {
			r.addOutput(n.Node, parts[n.Node])
			r.add(event{Type: n.State.String(), Node: n.Node})
		}
	}
	end := event{Type: "end"}
	if err != nil {
		end.Error = err.Error()
	} else if failed := result.Err(); failed != nil {
		end.Error = failed.Error()
	}
	r.add(end)
	r.err, r.ended = err, time.Now()
	close(r.done)
}

// cutCharacter cuts off an incomplete character at the end of the output.
func cutCharacter(output []byte) (whole, part []byte) {
	for i := len(output) - 1; i >= max(0, len(output)-utf8.UTFMax); i-- {
		if utf8.RuneStart(output[i]) {
			if !utf8.FullRune(output[i:]) {
				return output[:i], slices.Clone(output[i:])
			}
			break
		}
	}
	return output, nil
}

func (r *run) addOutput(node string, output []byte) {
	if len(output) > 0 {
		r.add(event{Type: "output", Node: node, Output: string(output)})
	}
}

// add records an event for every reader. If the output exceeds maxOutput, it
// drops the oldest.
func (r *run) add(e event) {
	e.Time = time.Now()
	data, err := json.Marshal(e)
	if err != nil {
		panic(err) // every field of an event can be encoded
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ids++
	m := message{r.ids, data}
	if e.Type != "output" {
		r.states = append(r.states, m)
	} else {
		r.outputs = append(r.outputs, m)
		r.size += len(data) + messageCost
		for r.size > maxOutput {
			r.size -= len(r.outputs[0].data) + messageCost
			r.dropped += int64(len(r.outputs[0].data))
			r.droppedID = r.outputs[0].id
			r.outputs[0].data = nil
			r.outputs = r.outputs[1:]
		}
	}
	if e.Type == "end" {
		r.last = m.id
	}
	close(r.more)
	r.more = make(chan struct{})
}

// over reports whether the run has ended.
func (r *run) over() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// seenAll reports whether no message will ever follow the one with this ID.
func (r *run) seenAll(id int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last > 0 && id >= r.last
}

// after returns the messages after the one with this ID, in order, up to
// maxBatch. If some of them were dropped, the batch begins with a cut, which
// has no ID. The channel more is closed at the next message.
func (r *run) after(id int) (batch []message, more <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if id < r.droppedID {
		data, _ := json.Marshal(event{Type: "cut", Bytes: r.dropped})
		batch = append(batch, message{0, data})
	}
	states, outputs := newer(r.states, id), newer(r.outputs, id)
	for size := 0; len(states)+len(outputs) > 0 && size < maxBatch; {
		from := &states
		if len(states) == 0 || len(outputs) > 0 && outputs[0].id < states[0].id {
			from = &outputs
		}
		batch = append(batch, (*from)[0])
		size += len((*from)[0].data)
		*from = (*from)[1:]
	}
	return batch, r.more
}

// newer returns the messages after the one with this ID.
func newer(messages []message, id int) []message {
	i, _ := slices.BinarySearchFunc(messages, id+1, func(m message, id int) int { return m.id - id })
	return messages[i:]
}
