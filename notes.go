package consulexec

import (
	"bytes"
	"slices"
)

// A noteFilter takes the runner's note out of a node's output. A note is the end
// of the output. So output that may be the beginning of one is held back until
// the next chunk, or the end, shows what it is. The zero noteFilter takes
// nothing out.
type noteFilter struct {
	notes [][]byte // all begin with the same byte, which is at no other place in them
	held  []byte   // the last bytes of the output, a prefix of a note, or empty
}

// begins reports whether a note begins with text.
func (f *noteFilter) begins(text []byte) bool {
	return slices.ContainsFunc(f.notes, func(note []byte) bool { return bytes.HasPrefix(note, text) })
}

// add takes the next chunk. It returns held output that is not the note, and
// the part of chunk that is not the note. Either may be empty.
func (f *noteFilter) add(chunk []byte) (before, output []byte) {
	if len(f.notes) == 0 {
		return nil, chunk
	}
	if longer := slices.Concat(f.held, chunk); f.begins(longer) {
		f.held = longer
		return nil, nil
	}
	before, f.held = f.held, nil
	begin := bytes.LastIndexByte(chunk, f.notes[0][0])
	if begin < 0 || !f.begins(chunk[begin:]) {
		return before, chunk
	}
	f.held = bytes.Clone(chunk[begin:]) // the receiver of the output may change chunk
	return before, chunk[:begin]
}

// end ends the output. It returns what was held and is not a note, and the index
// of the note that came, or -1.
func (f *noteFilter) end() (rest []byte, note int) {
	held := f.held
	f.held = nil
	note = slices.IndexFunc(f.notes, func(n []byte) bool { return bytes.Equal(n, held) })
	if note >= 0 {
		held = nil
	}
	return held, note
}
