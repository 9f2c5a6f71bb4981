package main

import (
	"bytes"
	"unicode/utf8"
)

// maxLine is how many bytes of a line are held back at most.
const maxLine = 64 << 10

// A hold keeps the end of each node's output until the rest of a character, or
// of a line, has come. Agents cut output anywhere.
type hold struct {
	lines bool // whether to hold back lines, not only characters
	held  map[string][]byte
}

func newHold(lines bool) hold { return hold{lines, make(map[string][]byte)} }

// add adds a piece of a node's output and returns what is whole. That may be
// nothing.
func (h hold) add(node string, piece []byte) (whole []byte) {
	output := append(h.held[node], piece...)
	end := len(output) - partial(output)
	if h.lines {
		if line := bytes.LastIndexByte(output, '\n') + 1; line > 0 || len(output) < maxLine {
			end = line
		}
	}
	h.held[node] = bytes.Clone(output[end:])
	return output[:end]
}

// release returns what is held of a node's output, which has ended.
func (h hold) release(node string) []byte {
	held := h.held[node]
	delete(h.held, node)
	return held
}

// partial returns how many bytes at the end of output are the start of an
// incomplete character.
func partial(output []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(output); n++ {
		if last := output[len(output)-n:]; utf8.RuneStart(last[0]) {
			if utf8.FullRune(last) {
				return 0
			}
			return n
		}
	}
	return 0
}
