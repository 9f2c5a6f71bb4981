package main

import (
	"context"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/consulexec/consulexec"
)

// A run is under way, or has ended and can still be read.
type run struct {
	id      string
	exec    *consulexec.Exec
	order   order
	user    string // who has started it, if the service knows
	started time.Time
	cancel  context.CancelFunc
	record  *record

	done   chan struct{} // closed when the fields below are final
	ended  time.Time
	result *consulexec.Result
	err    error // of the run

	mu    sync.Mutex // guards tally
	tally tally
}

// A tally counts the nodes of a run.
type tally struct {
	Expected  int `json:"expected"` // 0 if nobody knows
	Running   int `json:"running"`
	Succeeded int `json:"succeeded"` // exited with 0
	Failed    int `json:"failed"`    // all others that have ended, or did not start
}

func newRun(e *consulexec.Exec, o order, user string) *run {
	return &run{id: e.ID(), exec: e, order: o, user: user, started: time.Now(), record: newRecord(), done: make(chan struct{})}
}

// follow runs the command and records the events.
func (r *run) follow(ctx context.Context) {
	r.record.add(event{Type: "start", Time: r.started, Order: &r.order, User: r.user})
	parts := map[string][]byte{} // by node: the first bytes of a character whose rest is yet to arrive
	for e, err := range r.exec.Events(ctx) {
		if err != nil {
			continue // Wait returns it too
		}
		r.count(e)
		switch e.Type {
		case consulexec.EventTargets, consulexec.EventHeartbeat:
		case consulexec.EventOutput:
			var whole []byte
			whole, parts[e.Node] = cutCharacter(append(parts[e.Node], e.Output...))
			r.record.addOutput(e.Node, e.Time, whole)
		default:
			r.record.addOutput(e.Node, e.Time, parts[e.Node])
			delete(parts, e.Node)
			r.record.add(e)
		}
	}
	r.result, r.err = r.exec.Wait()
	for _, n := range r.result.Nodes {
		if n.State != consulexec.StateExited {
			r.record.addOutput(n.Node, time.Now(), parts[n.Node])
			r.record.add(n)
		}
	}
	r.conclude()
	end := event{Type: "end", Time: r.ended}
	if failed := r.result.Err(); failed != nil {
		end.Error = describe(failed)
	}
	close(r.done) // before the end, so that whoever has read the end can start another run
	r.record.end(end)
}

// count counts an event in the tally.
func (r *run) count(e consulexec.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch e.Type {
	case consulexec.EventTargets:
		r.tally.Expected = len(e.Nodes)
	case consulexec.EventAck:
		r.tally.Running++
	case consulexec.EventExit, consulexec.EventLost:
		r.tally.Running--
		if e.Err == nil {
			r.tally.Succeeded++
		} else {
			r.tally.Failed++
		}
	case consulexec.EventNoResponse:
		r.tally.Failed++
	}
}

// conclude counts the nodes of the result, which may know more than the events.
func (r *run) conclude() {
	r.ended = time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tally.Running, r.tally.Succeeded = 0, 0
	for _, n := range r.result.Nodes {
		if n.Err == nil {
			r.tally.Succeeded++
		}
	}
	r.tally.Failed = len(r.result.Nodes) - r.tally.Succeeded
}

// counted returns the tally.
func (r *run) counted() tally {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tally
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
