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

// An event is a message of the service itself, in JSON. All others are events of
// the run, as package consulexec encodes them; and at the end, the result of each
// node that has not exited, which has no type.
type event struct {
	Type  string    `json:"type"` // start, cut (in place of missing output), or end, which is the last
	Time  time.Time `json:"time,omitzero"`
	Order *order    `json:"order,omitempty"` // of start
	Bytes int64     `json:"bytes,omitempty"` // of cut: how many were dropped
	Error string    `json:"error,omitempty"` // of end, if the run or a node failed
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
	r.add("start", event{Type: "start", Time: time.Now(), Order: &o})
	parts := map[string][]byte{} // by node: the first bytes of a character whose rest is yet to arrive
	for e, err := range r.exec.Events(ctx) {
		switch {
		case err != nil || e.Type == consulexec.EventTargets || e.Type == consulexec.EventHeartbeat:
			continue // Wait returns the error too
		case e.Type == consulexec.EventOutput:
			var whole []byte
			whole, parts[e.Node] = cutCharacter(append(parts[e.Node], e.Output...))
			r.addOutput(e, whole)
			continue
		}
		r.addOutput(e, parts[e.Node])
		delete(parts, e.Node)
		r.add("", e)
	}
	result, err := r.exec.Wait()
	for _, n := range result.Nodes {
		if n.State != consulexec.StateExited {
			r.addOutput(consulexec.Event{Time: time.Now(), Node: n.Node}, parts[n.Node])
			r.add("", n)
		}
	}
	end := event{Type: "end", Time: time.Now()}
	if failed := result.Err(); failed != nil {
		end.Error = failed.Error()
	}
	r.add("end", end)
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

// addOutput records output of the node of an event, at its time.
func (r *run) addOutput(e consulexec.Event, output []byte) {
	if len(output) > 0 {
		r.add("output", consulexec.Event{Type: consulexec.EventOutput, Time: e.Time, Node: e.Node, Output: output})
	}
}

// add records a message for every reader. Its kind is output, end or another. If
// the output exceeds maxOutput, it drops the oldest.
func (r *run) add(kind string, content any) {
	data, err := json.Marshal(content)
	if err != nil {
		panic(err) // all content can be encoded
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ids++
	m := message{r.ids, data}
	if kind != "output" {
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
	if kind == "end" {
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
