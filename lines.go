package consulexec

import (
	"bytes"
	"maps"
	"slices"
)

// MaxLine is how many bytes of a line OnLine delivers in one piece: 64 KiB, as
// bufio.Scanner takes by default. A line is kept in memory until its end has come,
// and one that never ends must not fill it.
const MaxLine = 64 << 10

// OnLine calls fn with each line of a node's output, in order, without the newline
// that ends it ("\n" or "\r\n"); an empty line too. Where the agent cuts the output
// into pieces makes no difference: a line is delivered when its newline has come,
// after the call of OnOutput with the piece that has it.
//
// What follows the last newline is a line as well, delivered before OnExit or
// OnLost; and before OnError, where the run fails while the node still runs. A line
// of more than MaxLine bytes is delivered in pieces of MaxLine bytes, the last one
// shorter, which may cut a character in two. Bytes that are not UTF-8 are left as
// they are, and so is a "\r" that no "\n" follows.
func OnLine(fn func(node, line string)) Option {
	return func(c *config) error { return setCallback(&c.callbacks.line, "OnLine", fn, fn == nil) }
}

// cutLines has the callback for lines called by those for output and for the end
// of a node and of the run.
func (c *callbacks) cutLines() {
	if c.line == nil {
		return
	}
	given := *c
	begun := make(map[string]*line) // of the nodes that run
	end := func(node string) {
		if l := begun[node]; l != nil {
			delete(begun, node)
			l.end(func(text string) { given.line(node, text) })
		}
	}
	c.output = func(node string, output []byte) {
		given.output(node, output)
		l := begun[node]
		if l == nil {
			l = new(line)
			begun[node] = l
		}
		l.add(output, func(text string) { given.line(node, text) })
	}
	c.exit = func(node string, code int) {
		end(node)
		given.exit(node, code)
	}
	c.lost = func(node string, err error) {
		end(node)
		given.lost(node, err)
	}
	c.fail = func(err error) {
		for _, node := range slices.Sorted(maps.Keys(begun)) {
			end(node)
		}
		given.fail(err)
	}
}

// A line is a line whose end has not come: at most MaxLine bytes of it, and where
// these are all there may be, a "\r" that may belong to the newline.
type line struct {
	begun []byte
}

// add calls whole with each line, or full piece of one, that output completes.
func (l *line) add(output []byte, whole func(text string)) {
	for {
		part, rest, ends := bytes.Cut(output, []byte("\n"))
		for l.over(part) {
			n := MaxLine - len(l.begun)
			if n < 0 { // the "\r" was none of a newline
				whole(string(l.begun[:MaxLine]))
				l.begun = append(l.begun[:0], l.begun[MaxLine:]...)
				continue
			}
			l.keep(part[:n])
			part = part[n:]
			whole(string(l.begun))
			l.begun = l.begun[:0]
		}
		l.keep(part)
		if !ends {
			return
		}
		whole(string(bytes.TrimSuffix(l.begun, []byte("\r"))))
		l.begun = l.begun[:0]
		output = rest
	}
}

// over tells whether the line is too long with part.
func (l *line) over(part []byte) bool {
	over := len(l.begun) + len(part) - MaxLine
	if over == 1 { // a "\r" may be there, in part or before it
		return len(part) > 0 && !bytes.HasSuffix(part, []byte("\r"))
	}
	return over > 1
}

// keep appends part, which fits. Append alone would take more memory than the
// line may have.
func (l *line) keep(part []byte) {
	if n := len(l.begun) + len(part); n > cap(l.begun) {
		grown := make([]byte, len(l.begun), min(max(n, 2*cap(l.begun)), MaxLine+1))
		copy(grown, l.begun)
		l.begun = grown
	}
	l.begun = append(l.begun, part...)
}

// end calls whole with what there is of a line that no newline ends.
func (l *line) end(whole func(text string)) {
	for piece := range slices.Chunk(l.begun, MaxLine) {
		whole(string(piece))
	}
}
