package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/fatih/color"
	"golang.org/x/term"

	"github.com/consulexec/consulexec"
)

// redraw is how often the progress line follows what happens. It is written only
// when it has changed.
const redraw = 100 * time.Millisecond

// A screen is standard output and standard error. Where both are the terminal it
// keeps the progress line below what they print.
type screen struct {
	stdout, stderr io.Writer
	fail           func(error) // is told when standard output can't be written

	mu    sync.Mutex // guards what follows, and keeps writes apart
	tally tally
	shown string // the progress line that stands there

	stop, stopped chan struct{}
}

// newScreen begins to show progress, unless the output goes elsewhere, or NO_COLOR
// or TERM=dumb ask for plain text; then there are no colours either.
func newScreen(fail func(error)) *screen {
	s := &screen{
		stdout:  color.Output, // on old Windows consoles, these interpret what we write
		stderr:  color.Error,
		fail:    fail,
		tally:   tally{began: time.Now(), nodes: make(map[string]consulexec.NodeResult)},
		stop:    make(chan struct{}),
		stopped: make(chan struct{}),
	}
	color.NoColor = color.NoColor || !term.IsTerminal(int(os.Stderr.Fd())) // color has looked at the rest
	go s.live(!color.NoColor)
	return s
}

// live draws the progress line until close.
func (s *screen) live(on bool) {
	defer close(s.stopped)
	ticker := time.NewTicker(redraw)
	defer ticker.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-ticker.C:
			if on {
				s.draw()
			}
		}
	}
}

func (s *screen) draw() {
	s.mu.Lock()
	defer s.mu.Unlock()
	width, _, err := term.GetSize(int(os.Stderr.Fd()))
	if err != nil || width < 2 {
		return
	}
	if line := s.tally.line(width - 1); line != s.shown { // in the last column some terminals wrap
		s.clear()
		fmt.Fprint(s.stderr, line)
		s.shown = line
	}
}

// clear removes the progress line. The caller holds mu.
func (s *screen) clear() {
	if s.shown != "" {
		fmt.Fprint(s.stderr, "\r\x1b[K")
		s.shown = ""
	}
}

// out prints whole lines on standard output.
func (s *screen) out(lines string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
	if _, err := io.WriteString(s.stdout, lines); err != nil {
		s.fail(err)
	}
}

// err prints a line on standard error.
func (s *screen) err(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
	fmt.Fprintln(s.stderr, line)
}

// update changes the tally.
func (s *screen) update(change func(*tally)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.tally)
}

// close removes the progress line for good.
func (s *screen) close() {
	close(s.stop)
	<-s.stopped
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
}

// abandon removes the progress line unless somebody is writing, who may never end.
func (s *screen) abandon() {
	if s.mu.TryLock() {
		s.clear()
	}
}

// A tally says how far the nodes are.
type tally struct {
	began  time.Time
	total  int // the expected nodes, or 0 where they are not known
	acked  int
	exited int
	nodes  map[string]consulexec.NodeResult // as far as they were heard of
}

// take counts an event.
func (t *tally) take(event consulexec.Event) {
	n := t.nodes[event.Node]
	switch event.Type {
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

// line is the progress line in no more than width columns. Done are the nodes that
// have exited, the failed ones among them; lost are the silent ones too.
func (t *tally) line(width int) string {
	var running, failed, lost int
	for _, n := range t.nodes {
		switch {
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
		line = fmt.Sprintf(layout, t.exited, running, failed, lost, max(t.total, len(t.nodes)), elapsed)
		if len(line) <= width {
			return line
		}
	}
	return line[:width]
}
