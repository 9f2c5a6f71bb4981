package main

import (
	"fmt"
	"time"

	"github.com/consulexec/consulexec"
)

// A tally counts the nodes by what became of them so far.
type tally struct {
	began  time.Time
	acked  int
	exited int
	nodes  map[string]consulexec.NodeResult // the nodes that are expected or had an event
}

// count records an event.
func (t *tally) count(event consulexec.Event) {
	n := t.nodes[event.Node]
	switch event.Type {
	case consulexec.EventTargets:
		for _, name := range event.Nodes {
			t.nodes[name] = consulexec.NodeResult{State: consulexec.StateSkipped}
		}
		return
	case consulexec.EventAck:
		n.State = consulexec.StateRunning
		t.acked++
	case consulexec.EventExit:
		n.State, n.ExitCode = consulexec.StateExited, event.ExitCode
		t.exited++
	case consulexec.EventLost:
		n.State = consulexec.StateLost
	case consulexec.EventNoResponse:
		n.State = consulexec.StateNoResponse
	default:
		return
	}
	t.nodes[event.Node] = n
}

// line returns the progress line, in at most width columns. The number of done
// nodes includes the failed ones; that of lost nodes includes those that did
// not respond.
func (t *tally) line(width int) string {
	var running, failed, lost int
	for _, n := range t.nodes {
		switch {
		case n.State == consulexec.StateSkipped: // its turn has not come yet
		case n.State == consulexec.StateRunning:
			running++
		case n.State != consulexec.StateExited:
			lost++
		case n.ExitCode != 0:
			failed++
		}
	}
	seconds := int(time.Since(t.began).Seconds())
	elapsed := fmt.Sprintf("%d:%02d", seconds/60, seconds%60)
	var line string
	for _, layout := range []string{
		"done %d  running %d  failed %d  lost %d  total %d  elapsed %s",
		"done %d run %d fail %d lost %d of %d %s",
		"D%d R%d F%d L%d /%d %s",
	} {
		line = fmt.Sprintf(layout, t.exited, running, failed, lost, len(t.nodes), elapsed)
		if len(line) <= width {
			return line
		}
	}
	return line[:width]
}
