package consulexec

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/consulexec/consulexec/internal/runner"
)

// filterNotes sends chunks through a filter. It returns the output, and whether
// it ended with the note. The filter must hold back no more than the beginning
// of a note.
func filterNotes(t *testing.T, note []byte, chunks ...[]byte) (output string, noted bool) {
	t.Helper()
	f := noteFilter{}
	if note != nil {
		f.notes = [][]byte{note}
	}
	var stream, delivered []byte
	for _, chunk := range chunks {
		stream = append(stream, chunk...)
		chunk = bytes.Clone(chunk)
		before, output := f.add(chunk)
		delivered = append(append(delivered, before...), output...)
		clear(chunk) // the receiver of the output may do that
		held := stream[len(stream)-longestPrefix(note, stream):]
		if want := stream[:len(stream)-len(held)]; !bytes.Equal(delivered, want) {
			t.Fatalf("after %q, %q was delivered, want %q", stream, delivered, want)
		}
	}
	rest, i := f.end()
	if again, i := f.end(); len(again) > 0 || i >= 0 {
		t.Fatalf("the second end returns %q and %d", again, i)
	}
	return string(append(delivered, rest...)), i == 0
}

// longestPrefix returns the length of the longest prefix of note with which
// stream ends.
func longestPrefix(note, stream []byte) int {
	for n := min(len(note), len(stream)); n > 0; n-- {
		if bytes.HasSuffix(stream, note[:n]) {
			return n
		}
	}
	return 0
}

// TestNoteCut cuts streams at each pair of places.
func TestNoteCut(t *testing.T) {
	note := string(runner.NoteTimedOut.Text("5f1e0c9a-0000-4000-8000-0123456789ab"))
	for _, test := range []struct{ stream, want string }{
		{"", ""},
		{note, ""},
		{"up\n" + note, "up\n"},
		{"up\x00" + note, "up\x00"},
		{note + note, note},
		{note[:9] + note, note[:9]},
		{note[:9], note[:9]},
		{note[:len(note)-1], note[:len(note)-1]},
		{note + "\n", note + "\n"},
		{"a" + note + "b" + note[:20] + "c", "a" + note + "b" + note[:20] + "c"},
		{note[1:], note[1:]},
		{"\x00\x00\x00", "\x00\x00\x00"},
	} {
		for i := range len(test.stream) + 1 {
			for j := i; j <= len(test.stream); j++ {
				s := []byte(test.stream)
				got, noted := filterNotes(t, []byte(note), s[:i], s[i:j], s[j:])
				if got != test.want || noted != (test.want != test.stream) {
					t.Fatalf("%q cut at %d and %d: output %q, note %v, want %q", test.stream, i, j, got, noted, test.want)
				}
			}
		}
	}
}

// TestNoteRandom sends random streams of parts of the note in random chunks.
func TestNoteRandom(t *testing.T) {
	note := string(runner.NoteTimedOut.Text("id"))
	random := rand.New(rand.NewPCG(1, 2))
	notes := 0
	for range 20_000 {
		var stream string
		for range random.IntN(4) {
			part := note[random.IntN(3):]
			stream += []string{part[:random.IntN(len(part)+1)], note, "\x00", "text"}[random.IntN(4)]
		}
		var chunks [][]byte
		for rest := stream; rest != ""; {
			n := 1 + random.IntN(min(len(rest), 20))
			chunks = append(chunks, []byte(rest[:n]))
			rest = rest[n:]
			if random.IntN(5) == 0 {
				chunks = append(chunks, nil) // a heartbeat
			}
		}
		want, ends := strings.CutSuffix(stream, note)
		got, noted := filterNotes(t, []byte(note), chunks...)
		if got != want || noted != ends {
			t.Fatalf("chunks %q: output %q, note %v, want %q", chunks, got, noted, want)
		}
		if noted {
			notes++
		}
	}
	if notes < 1000 {
		t.Errorf("only %d streams end with the note", notes)
	}
}

// TestNoNote has a job without a timeout, whose output is its own.
func TestNoNote(t *testing.T) {
	note := string(runner.NoteTimedOut.Text("id"))
	if got, noted := filterNotes(t, nil, []byte(note), nil, []byte("\x00")); got != note+"\x00" || noted {
		t.Errorf("output %q, note %v", got, noted)
	}
}
