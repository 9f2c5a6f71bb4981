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
	// maxOutput is how many bytes of output are kept of a run, as JSON and with what
	// it takes to keep them: the last ones, of all its nodes together.
	maxOutput = 1 << 20

	// messageCost is about what a message takes beside its data.
	messageCost = 64

	// maxBatch is how many bytes a reader is given at once, and a message more.
	maxBatch = 64 << 10
)

// An event is what a message says, in JSON.
type event struct {
	// Type is "start", "submit", "ack", "output", "exit", "lost", "no response",
	// "running", "killed" and "skipped" for nodes that were left so, "cut" where output is
	// missing, and "end", the last.
	Type string    `json:"type"`
	Time time.Time `json:"time,omitzero"`
	Node string    `json:"node,omitempty"`

	Order    *order `json:"order,omitempty"`    // of start
	Output   string `json:"output,omitempty"`   // of output, in whole characters
	ExitCode *int   `json:"exitCode,omitempty"` // of exit
	Bytes    int64  `json:"bytes,omitempty"`    // of cut: how many are gone
	Error    string `json:"error,omitempty"`    // of lost; of end, where the run or a node failed
}

// A message is an event as it is sent. IDs count from 1, in the order of events.
type message struct {
	id   int
	data []byte
}

// A run is one that is under way, or has ended and can still be looked at. It
// keeps what happened for readers who come late, and never waits for one.
type run struct {
	id     string
	exec   *consulexec.Exec
	cancel context.CancelFunc

	done  chan struct{} // closed when the two below are final
	err   error
	ended time.Time

	mu      sync.Mutex    // guards what follows
	more    chan struct{} // closed at the next message
	ids     int
	last    int       // the ID of the end, 0 before
	states  []message // what happened to nodes: a few for each
	outputs []message // what they wrote, as far as it is kept
	size    int       // of outputs
	gone    int64     // bytes of output that are not kept any more
	goneID  int       // the last message of them
}

func newRun(e *consulexec.Exec) *run {
	return &run{id: e.ID(), exec: e, done: make(chan struct{}), more: make(chan struct{})}
}

// follow runs the command and takes down what happens.
func (r *run) follow(ctx context.Context, o order) {
	r.add(event{Type: "start", Order: &o})
	parts := map[string][]byte{} // the beginning of a character at the end of a node's output
	for e, err := range r.exec.Events(ctx) {
		if err != nil {
			break // Wait has it too
		}
		out := event{Type: e.Type.String(), Node: e.Node}
		switch e.Type {
		case consulexec.EventHeartbeat:
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

// cutCharacter cuts off a character that is not complete.
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

// add takes an event down, for every reader. Where that is too much output, the
// first of it goes.
func (r *run) add(e event) {
	e.Time = time.Now()
	data, err := json.Marshal(e)
	if err != nil {
		panic(err) // none of the types can fail
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
			r.gone += int64(len(r.outputs[0].data))
			r.goneID = r.outputs[0].id
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

// over tells whether the run has ended.
func (r *run) over() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// seenAll tells whether there will be nothing more for who has seen the message id.
func (r *run) seenAll(id int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last > 0 && id >= r.last
}

// after returns what came after the message id, or the first of it, in order;
// where there is nothing, more is closed when there is. A cut, which has no ID,
// comes before it where some of it is not kept any more.
func (r *run) after(id int) (batch []message, more <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if id < r.goneID {
		data, _ := json.Marshal(event{Type: "cut", Bytes: r.gone})
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

// newer returns the messages after id.
func newer(messages []message, id int) []message {
	i, _ := slices.BinarySearchFunc(messages, id+1, func(m message, id int) int { return m.id - id })
	return messages[i:]
}
