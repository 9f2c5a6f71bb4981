package main

import (
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/consulexec/consulexec"
)

// maxBatch limits the bytes that a reader gets at once. The last message of a
// batch may exceed it.
const maxBatch = 64 << 10

// An event is a message of the service itself, in JSON. All others are events of
// the run, as package consulexec encodes them; and at the end, the result of each
// node that has not exited, which has no type.
type event struct {
	Type  string    `json:"type"` // start, cut (before a node's output if there was more), or end, which is the last
	Time  time.Time `json:"time,omitzero"`
	Order *order    `json:"order,omitempty"` // of start
	User  string    `json:"user,omitempty"`  // of start, if the service knows the user
	Node  string    `json:"node,omitempty"`  // of cut
	Bytes int64     `json:"bytes,omitempty"` // of cut: how many bytes of the node's output were dropped
	Error string    `json:"error,omitempty"` // of end, if the run or a node failed
}

// A message is an event. IDs count from 1, in the order of events.
type message struct {
	id     int
	data   []byte // the event in JSON
	output *piece // of an event of output, in place of data
}

// encode returns the message of an event, which can be encoded.
func encode(id int, event any) message {
	data, err := json.Marshal(event)
	if err != nil {
		panic(err)
	}
	return message{id: id, data: data}
}

// isGap reports whether the message was output that is dropped.
func (m message) isGap() bool { return m.output != nil && len(m.output.data) == 0 }

// A record keeps the events of a run for readers that come at any time. It never
// waits for a reader. Its methods are safe for concurrent use.
type record struct {
	mu       sync.Mutex    // guards the fields below
	more     chan struct{} // closed at the next message
	ids      int           // the last ID
	last     int           // the ID of the end, or 0 before it
	messages []message     // in the order of their IDs
	gaps     int           // how many of messages are gaps
	outputs  outputs
}

func newRecord() *record { return &record{more: make(chan struct{})} }

// add records an event.
func (r *record) add(event any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.append(encode(r.ids+1, event))
}

// end records the last event.
func (r *record) end(e event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = r.ids + 1
	r.append(encode(r.last, e))
}

// addOutput records output of a node.
func (r *record) addOutput(node string, at time.Time, output []byte) {
	if len(output) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	p, dropped := r.outputs.add(node, at, r.ids+1, output)
	r.append(message{id: r.ids + 1, output: p})
	if r.gaps += dropped; r.gaps > len(r.messages)/2 {
		r.messages = slices.DeleteFunc(r.messages, message.isGap)
		r.gaps = 0
	}
}

// append appends the next message. The caller holds mu.
func (r *record) append(m message) {
	r.ids++
	r.messages = append(r.messages, m)
	close(r.more)
	r.more = make(chan struct{})
}

// nearest returns the ID, or that of the last message if it is larger, or 0 if it
// is negative. A reader with an ID that it never got would wait for ever.
func (r *record) nearest(id int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return max(0, min(id, r.ids))
}

// seenAll reports whether no message will ever follow the one with this ID.
func (r *record) seenAll(id int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last > 0 && id >= r.last
}

// bytes returns how many bytes of output were recorded, and how many of them
// are no longer kept.
func (r *record) bytes() (output, dropped int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return int64(r.outputs.bytes) + r.outputs.dropped, r.outputs.dropped
}

// after returns the messages after the one with this ID, in order, up to
// maxBatch. A node's output begins with a cut, which has no ID, if the reader
// misses output before it. The channel more is closed at the next message.
func (r *record) after(id int) (batch []message, more <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i, _ := slices.BinarySearchFunc(r.messages, id+1, func(m message, id int) int { return m.id - id })
	for size := 0; i < len(r.messages) && size < maxBatch; i++ {
		m := r.messages[i]
		if m.isGap() {
			continue
		}
		if p := m.output; p != nil {
			if p == p.node.pieces[0] && id < p.node.droppedID {
				batch = append(batch, encode(0, event{Type: "cut", Node: p.node.name, Bytes: p.node.dropped}))
			}
			m = encode(m.id, consulexec.Event{Type: consulexec.EventOutput, Time: p.time, Node: p.node.name, Output: p.data})
		}
		size += len(m.data)
		batch = append(batch, m)
	}
	return batch, r.more
}
