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

	keystroke = 35 * time.Millisecond  // between two of them
	pause     = 700 * time.Millisecond // before a line is typed
	settle    = 300 * time.Millisecond // without output, before a prompt counts as one
	blend     = 25 * time.Millisecond  // changes within this time are one frame
	limit     = time.Minute            // that a line may keep the shell busy
)

// A frame is what the terminal showed from a time on.
type frame struct {
	at     time.Duration
	screen screen
}

// A screen is the content of a terminal.
type screen struct {
	cells  [][]cell // by row
	x, y   int      // the cursor
	hidden bool     // whether there is none
}

// A cell is one place on a screen. Its text is empty behind a wide character.
type cell struct {
	text  string
	style style
}

// line is the text of a row, without the spaces at its end.
func (s screen) line(y int) string {
	var b strings.Builder
	for _, c := range s.cells[y] {
		b.WriteString(c.text)
	}
	return strings.TrimRight(b.String(), " ")
}

// prompted is whether the shell waits for a line.
func (s screen) prompted() bool {
	return s.x == len(prompt) && s.line(s.y) == strings.TrimRight(prompt, " ")
}

// text is all lines of a screen.
func (s screen) text() string {
	var b strings.Builder
	for y := range s.cells {
		b.WriteString(s.line(y) + "\n")
	}
	return strings.TrimRight(b.String(), "\n")
}

// equal is whether two screens look the same.
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

// A recorder is a terminal that remembers what it showed.
type recorder struct {
	terminal *vt.Emulator
	frames   []frame
}

func newRecorder(columns, rows int) *recorder {
	return &recorder{terminal: vt.NewEmulator(columns, rows)}
}

// write shows output of a program.
func (r *recorder) write(at time.Duration, output []byte) {
	r.terminal.Write(output) // has no error
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

// screen is what the terminal shows now.
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

// record runs a shell in a terminal and types the lines, each once the shell waits
// for it. It returns what the terminal showed up to the prompt after the last one.
func record(ctx context.Context, sh *exec.Cmd, columns, rows int, lines []string) ([]frame, error) {
	keyboard, err := pty.StartWithSize(sh, &pty.Winsize{Cols: uint16(columns), Rows: uint16(rows)})
	if err != nil {
		return nil, fmt.Errorf("start %s in a terminal: %w", sh, err)
	}
	r := newRecorder(columns, rows)
	output := make(chan []byte)
	go func() { // ends when the shell has, or the terminal is closed
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
	go func() { // what the terminal says when a program asks it
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

// awaitPrompt waits until the shell waits for a line.
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

// enter types a line, at the pace of somebody who knows it.
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

// show shows the next piece of output, and tells whether one came in time.
func (s *session) show(ctx context.Context, wait time.Duration) (bool, error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case output, ok := <-s.output:
		if !ok {
			return false, errors.New("the shell has ended")
		}
		s.write(time.Since(s.began), output)
		return true, nil
	case <-timer.C:
		return false, nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}
