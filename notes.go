package consulexec

import "bytes"

// A noteFilter takes the runner's note on a timeout out of a node's output. The
// note is the end of the output. So output that may be the beginning of it is
// held back until the next chunk, or the end, shows what it is. The zero
// noteFilter takes nothing out.
type noteFilter struct {
	note []byte // its first byte is at no other place in it
	held []byte // the last bytes of the output, a prefix of note, or empty
}

// add takes the next chunk. It returns held output that is not the note, and
// the part of chunk that is not the note. Either may be empty.
func (f *noteFilter) add(chunk []byte) (before, output []byte) {
	if len(f.note) == 0 {
		return nil, chunk
	}
	if bytes.HasPrefix(f.note[len(f.held):], chunk) {
		f.held = append(f.held, chunk...)
		return nil, nil
	}
	before, f.held = f.held, nil
	begin := bytes.LastIndexByte(chunk, f.note[0])
	if begin < 0 || !bytes.HasPrefix(f.note, chunk[begin:]) {
		return before, chunk
	}
	f.held = bytes.Clone(chunk[begin:]) // the receiver of the output may change chunk
	return before, chunk[:begin]
}

// end ends the output. It returns what was held and is not the note, and
// whether the note came.
func (f *noteFilter) end() (rest []byte, noted bool) {
	held := f.held
	f.held = nil
	if len(held) > 0 && len(held) == len(f.note) {
		return nil, true
	}
	return held, false
}
