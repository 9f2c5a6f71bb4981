package reader

import (
	"fmt"
	"strconv"
	"time"
)

// maxChunk is how many bytes of output an agent writes to a key at most.
const maxChunk = 4096

// A Record is one thing that a node reported.
type Record struct {
	Node       string
	Dispatch   string // for which the node wrote it
	Kind       Kind   // Ack, Output or Exit
	Value      []byte // of Output (empty for a heartbeat) and Exit
	Incomplete bool   // output that the node wrote before is missing, or was written over
}

// A Batch has records of several nodes, in the order in which each node wrote
// them.
type Batch struct {
	Records []Record

	// Listed is set in the last batch of a listing, to the time when the reader
	// asked for the listing. A record that is in no batch so far had not been
	// written then.
	Listed time.Time

	// Outage is set beside Listed. It is how long before the listing nothing
	// could be read.
	Outage time.Duration

	// Twice is set beside Listed to nodes that seem to have run the job twice: a
	// value was written over before it was read, or a key again after it was. If
	// the job has a runner, ack and exit are no sign of that.
	Twice []string

	// TurnedAway is set beside Listed to nodes on which the runner turned a second
	// copy of the job away.
	TurnedAway []string

	// Empty is set beside Listed if there was no key at all. Then the session may
	// be gone.
	Empty bool

	// Jobs is set beside Listed to the dispatches whose job's key was there.
	Jobs []string

	// Err is set in the last batch of all. It says why the reader ended.
	Err error
}

// ParseExit parses the value of an Exit key: decimal text, -1 if a signal ended
// the process.
func ParseExit(value []byte) (int, error) {
	code, err := strconv.Atoi(string(value))
	if err != nil {
		const most = 32 // bytes of a stranger's value in an error's text
		return 0, fmt.Errorf("exit status %q is not a number", value[:min(len(value), most)])
	}
	return code, nil
}
