package consulexec

import (
	"errors"
	"fmt"
)

var (
	// ErrNoCommand is in the error of New where there is nothing to run: no
	// command, no script and no arguments.
	ErrNoCommand = errors.New("no command")

	// ErrStarted is what Start and Run return for an Exec that ran already.
	ErrStarted = errors.New("consulexec: already started")

	// ErrNotStarted is what Wait returns for an Exec that was not started.
	ErrNotStarted = errors.New("consulexec: not started")

	// ErrNoTargets is in the error of a run for which there is no node: the
	// catalog has no node alive that matches, and none was told; or, where the
	// expected nodes are not known, none answered.
	ErrNoTargets = errors.New("no matching node")

	// ErrSessionLost is in the error of a run whose session ended before the
	// run: destroyed by somebody, expired, or lost with the node that held it.
	// The agents can report nothing after that; the commands go on.
	ErrSessionLost = errors.New("session lost")

	// ErrPermissionDenied is in the error of a run whose token lacks a
	// permission, and in Result.DiscoveryErr where the token may not read the
	// catalog.
	ErrPermissionDenied = errors.New("permission denied")

	// ErrDiscoveryOff is Result.DiscoveryErr of a run WithoutDiscovery.
	ErrDiscoveryOff = errors.New("discovery is off")
)

// NodeError says why a node does not count as a success.
type NodeError struct {
	Node     string
	State    State
	ExitCode int   // where State is StateExited
	Err      error // what else is known, or nil
}

// Error names the node and what became of it.
func (e *NodeError) Error() string {
	text := fmt.Sprintf("node %s: ", e.Node)
	switch {
	case e.State != StateExited:
		text += e.State.String()
	case e.ExitCode == -1:
		text += "ended by a signal"
	default:
		text += fmt.Sprintf("exit status %d", e.ExitCode)
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap returns e.Err.
func (e *NodeError) Unwrap() error { return e.Err }
