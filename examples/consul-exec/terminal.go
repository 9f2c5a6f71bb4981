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

// redraw is how often the progress line is brought up to date. It is written
// only if it has changed.
const redraw = 100 * time.Millisecond

// A screen prints on standard output and standard error. If both are a
// terminal, it keeps a progress line below the printed lines.
type screen struct {
	stdout, stderr io.Writer
	writeFailed    func(error) // called if a write to standard output fails
	onTerminal     bool        // whether standard output is a terminal
	watched        bool        // whether standard error is one

	mu    sync.Mutex // guards tally and shown, and serializes the writes
	tally tally
	shown string // the progress line on the terminal, or empty

	stop, stopped chan struct{}
}

// newScreen returns a screen that shows progress, if wanted, and colours. It
// shows neither if the output goes elsewhere, or if NO_COLOR or TERM=dumb asks
// for plain text.
func newScreen(progress bool, writeFailed func(error)) *screen {
	s := &screen{
		stdout:      color.Output, // on old Windows consoles, color interprets the control sequences
		stderr:      color.Error,
		writeFailed: writeFailed,
		onTerminal:  term.IsTerminal(int(os.Stdout.Fd())),
		watched:     term.IsTerminal(int(os.Stderr.Fd())),
		tally:       tally{began: time.Now(), nodes: make(map[string]consulexec.NodeResult)},
		stop:        make(chan struct{}),
		stopped:     make(chan struct{}),
	}
	color.NoColor = color.NoColor || !s.watched // color has checked stdout and the environment
	go s.live(progress && !color.NoColor)
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
	if line := s.tally.line(width - 1); line != s.shown { // some terminals wrap after a character in the last column
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
		s.writeFailed(err)
	}
}

// safe returns text for out: on a terminal, with control characters made
// visible. Whatever comes from a node needs it.
func (s *screen) safe(text string) string {
	if !s.onTerminal {
		return text
	}
	return visible(text)
}

// err prints a line on standard error.
func (s *screen) err(line string) { s.errIn(fmt.Sprint, line) }

// warn prints a line on standard error that stands out.
func (s *screen) warn(line string) { s.errIn(warning.Sprint, line) }

func (s *screen) errIn(paint func(...any) string, line string) {
	if s.watched {
		line = visible(line)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
	fmt.Fprintln(s.stderr, paint(line))
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

// abandon removes the progress line when the program is about to exit, and keeps
// mu, so that nothing is drawn after it. It does not wait long for a write that
// is under way: that one may be stuck forever.
func (s *screen) abandon() {
	for deadline := time.Now().Add(redraw); !s.mu.TryLock(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return
		}
	}
	s.clear()
}
