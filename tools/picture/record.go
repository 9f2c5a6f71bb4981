package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	uv "github.com/charmbracelet/ultraviolet"
	"github.com/charmbracelet/x/vt"
	"github.com/creack/pty"
)

const (
	prompt = "$ "

	keystroke = 35 * time.Millisecond  // between two keys
	pause     = 700 * time.Millisecond // before a line is typed
	settle    = 300 * time.Millisecond // silence after which a prompt counts
	blend     = 25 * time.Millisecond  // changes within this time are one frame
	limit     = time.Minute            // longest time for one line's command
)

// A frame is the terminal's content from a time on.
type frame struct {
	at     time.Duration
	screen screen
}

// A screen is the content of a terminal.
type screen struct {
	cells  [][]cell // by row
	x, y   int      // the cursor
	hidden bool     // whether the cursor is hidden
}

// A cell is one position on a screen. Its text is empty after a wide character.
type cell struct {
	text  string
	style style
}

// line returns the text of a row without trailing spaces.
func (s screen) line(y int) string {
	var b strings.Builder
	for _, c := range s.cells[y] {
		b.WriteString(c.text)
	}
	return strings.TrimRight(b.String(), " ")
}

// prompted reports whether the shell waits for a line.
func (s screen) prompted() bool {
	return s.x == len(prompt) && s.line(s.y) == strings.TrimRight(prompt, " ")
}

// text returns all lines of a screen.
func (s screen) text() string {
	var b strings.Builder
	for y := range s.cells {
		b.WriteString(s.line(y) + "\n")
	}
	return strings.TrimRight(b.String(), "\n")
}

// equal reports whether two screens look the same.
func (s screen) equal(o screen) bool {
	if s.x != o.x || s.y != o.y || s.hidden != o.hidden {
		return false
	}
	for y := range s.cells {
		for x := range s.cells[y] {
			if s.cells[y][x] != o.cells[y][x] {
				return false
			}
		}
	}
	return true
}

// A recorder is a terminal that records its frames.
type recorder struct {
	terminal *vt.Emulator
	frames   []frame
}

func newRecorder(columns, rows int) *recorder {
	return &recorder{terminal: vt.NewEmulator(columns, rows)}
}

// write shows a program's output and records the frame.
func (r *recorder) write(at time.Duration, output []byte) {
	r.terminal.Write(output) // never fails
	s := r.screen()
	last := len(r.frames) - 1
	switch {
	case last < 0:
		r.frames = append(r.frames, frame{0, s})
	case r.frames[last].screen.equal(s):
	case last > 0 && at-r.frames[last].at < blend:
		r.frames[last].screen = s
	default:
		r.frames = append(r.frames, frame{at, s})
	}
}

// screen returns the terminal's current content.
func (r *recorder) screen() screen {
	cursor := r.terminal.CursorPosition()
	s := screen{x: cursor.X, y: cursor.Y, hidden: r.terminal.CursorHidden()}
	for y := range r.terminal.Height() {
		row := make([]cell, r.terminal.Width())
		for x := range row {
			row[x] = cellOf(r.terminal.CellAt(x, y))
		}
		s.cells = append(s.cells, row)
	}
	return s
}

func cellOf(c *uv.Cell) cell {
	switch {
	case c == nil:
		return cell{text: " "}
	case c.Width == 0:
		return cell{}
	case c.Content == "":
		return cell{" ", styleOf(c.Style)}
	}
	return cell{c.Content, styleOf(c.Style)}
}

// record runs a shell in a terminal and types each line when the shell shows a
// prompt. It returns the frames up to the prompt after the last line.
func record(ctx context.Context, sh *exec.Cmd, columns, rows int, lines []string) ([]frame, error) {
	keyboard, err := pty.StartWithSize(sh, &pty.Winsize{Cols: uint16(columns), Rows: uint16(rows)})
	if err != nil {
		return nil, fmt.Errorf("start %s in a terminal: %w", sh, err)
	}
	r := newRecorder(columns, rows)
	output := make(chan []byte)
	go func() { // ends when the shell ends or the terminal is closed
		defer close(output)
		for {
			b := make([]byte, 4096)
			n, err := keyboard.Read(b)
			if err != nil {
				return
			}
			output <- b[:n]
		}
	}()
	answered := make(chan struct{})
	go func() { // passes the terminal's answers to a program's queries
		defer close(answered)
		io.Copy(keyboard, r.terminal)
	}()
	defer func() {
		sh.Process.Kill()
		keyboard.Close()
		for range output {
		}
		sh.Wait()
		r.terminal.InputPipe().(io.Closer).Close() // Close races with Read
		<-answered
	}()

	s := session{recorder: r, keyboard: keyboard, output: output, began: time.Now()}
	for _, line := range lines {
		if err := s.awaitPrompt(ctx); err != nil {
			return nil, err
		}
		if err := s.enter(ctx, line); err != nil {
			return nil, fmt.Errorf("type %q: %w", line, err)
		}
	}
	if err := s.awaitPrompt(ctx); err != nil {
		return nil, err
	}
	return r.frames, nil
}

// A session is a shell in a terminal.
type session struct {
	*recorder
	keyboard *os.File
	output   <-chan []byte
	began    time.Time
}

// awaitPrompt waits until the shell shows a prompt.
func (s *session) awaitPrompt(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no prompt within %v", limit))
	defer cancel()
	for {
		more, err := s.show(ctx, settle)
		if err != nil {
			return fmt.Errorf("%w; the terminal shows:\n%s", err, s.screen().text())
		}
		if !more && s.screen().prompted() {
			return nil
		}
	}
}

// enter types a line at the pace of a practised typist.
func (s *session) enter(ctx context.Context, line string) error {
	next := time.Now().Add(pause)
	for _, key := range line + "\r" {
		for time.Now().Before(next) {
			if _, err := s.show(ctx, time.Until(next)); err != nil {
				return err
			}
		}
		if _, err := s.keyboard.WriteString(string(key)); err != nil {
			return err
		}
		next = next.Add(keystroke)
	}
	return nil
}

// show shows the next piece of output. It returns false if none came in time.
func (s *session) show(ctx context.Context, wait time.Duration) (bool, error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case output, ok := <-s.output:
		if !ok {
			return false, errors.New("the shell ended")
		}
		s.write(time.Since(s.began), output)
		return true, nil
	case <-timer.C:
		return false, nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}
