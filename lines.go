package consulexec

import (
	"bytes"
	"maps"
	"slices"
)

// MaxLine is how many bytes of a line OnLine delivers in one piece: 64 KiB, as
// bufio.Scanner takes by default. A line is kept in memory until its end has
// come, and a line that never ends must not fill the memory.
const MaxLine = 64 << 10

// listener returns the listener that calls the callbacks. If OnLine is set, it
// also cuts output into lines.
func (h handlers) listener() listener {
	if h[eventLine] == nil {
		return h.handle
	}
	return (&lineCutter{next: h.handle, lines: make(map[string]*line)}).handle
}

// lineCutter hands events on and adds an event for each line of output.
type lineCutter struct {
	next  listener
	lines map[string]*line // the line that has begun, for each node that runs
}

func (c *lineCutter) handle(e Event) {
	switch e.Type {
	case EventExit, EventLost:
		c.end(e.Node)
	case eventError:
		for _, node := range slices.Sorted(maps.Keys(c.lines)) {
			c.end(node)
		}
	}
	c.next(e)
	if e.Type == EventOutput {
		l := c.lines[e.Node]
		if l == nil {
			l = new(line)
			c.lines[e.Node] = l
		}
		l.add(e.Output, c.emit(e.Node))
	}
}

// end hands on what a node has printed after its last newline.
func (c *lineCutter) end(node string) {
	if l := c.lines[node]; l != nil {
		delete(c.lines, node)
		l.end(c.emit(node))
	}
}

// emit returns a function that hands on one line of a node.
func (c *lineCutter) emit(node string) func(text []byte) {
	return func(text []byte) { c.next(Event{Type: eventLine, Node: node, Output: text}) }
}

// A line is an unfinished line of a node: up to MaxLine bytes, and perhaps a
// "\r" that may belong to the newline.
type line struct {
	begun []byte
}

// add calls emit with each line, or full piece of one, that output completes.
// emit must not keep text.
func (l *line) add(output []byte, emit func(text []byte)) {
	for {
		part, rest, ends := bytes.Cut(output, []byte("\n"))
		for l.over(part) {
			n := MaxLine - len(l.begun)
			if n < 0 { // the "\r" is not part of a newline
				emit(l.begun[:MaxLine])
				l.begun = append(l.begun[:0], l.begun[MaxLine:]...)
				continue
			}
			l.keep(part[:n])
			part = part[n:]
			emit(l.begun)
			l.begun = l.begun[:0]
		}
		l.keep(part)
		if !ends {
			return
		}
		emit(bytes.TrimSuffix(l.begun, []byte("\r")))
		l.begun = l.begun[:0]
		output = rest
	}
}

// over reports whether the line is too long with part.
func (l *line) over(part []byte) bool {
	over := len(l.begun) + len(part) - MaxLine
	if over == 1 { // a "\r" may come on top, in part or before it
		return len(part) > 0 && !bytes.HasSuffix(part, []byte("\r"))
	}
	return over > 1
}

// keep appends part, which fits. Plain append would take more memory than a
// line may have.
func (l *line) keep(part []byte) {
	if n := len(l.begun) + len(part); n > cap(l.begun) {
		grown := make([]byte, len(l.begun), min(max(n, 2*cap(l.begun)), MaxLine+1))
		copy(grown, l.begun)
		l.begun = grown
	}
	l.begun = append(l.begun, part...)
}

// end calls emit with a line that has begun and has no newline.
func (l *line) end(emit func(text []byte)) {
	for piece := range slices.Chunk(l.begun, MaxLine) {
		emit(piece)
	}
}
