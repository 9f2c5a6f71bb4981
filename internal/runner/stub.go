package runner

import "time"

type Note string

const (
	NoteTimedOut           Note = "timed out"
	NoteEnded              Note = "ended"
	NoteNoTrace            Note = "no trace"
	NoteKilled             Note = "killed"
	NoteIncomplete         Note = "incomplete"
	NoteIncompleteTimedOut Note = "incomplete, timed out"
)

func (n Note) Text(id string) []byte { return []byte("\x00consulexec-" + id + " " + string(n)) }

func Ask(id, ask string, from int64, keep time.Duration) Job { panic("stub") }
