package consulexec

import (
	"errors"
	"fmt"

	"github.com/consulexec/consulexec/internal/consul"
)

var (
	// ErrNoCommand is in the error of New if there is nothing to run: no
	// command, no script and no arguments.
	ErrNoCommand = errors.New("no command")

	// ErrBadOption is in the error of New if an option or the command is not
	// usable. See OptionError.
	ErrBadOption = errors.New("bad option")

	// ErrStarted is what Start, Run and Events return for an Exec that was
	// started before.
	ErrStarted = errors.New("consulexec: already started")

	// ErrNotStarted is what Wait returns for an Exec that was not started.
	ErrNotStarted = errors.New("consulexec: not started")

	// ErrNoTargets is in the error of a run that has no node: the catalog has
	// no node that is alive and matches, and no node got the job. If the
	// expected nodes are not known, it means that no node has answered.
	ErrNoTargets = errors.New("no matching node")

	// ErrTooFewNodes is in Result.Err if fewer nodes took the job than WithLimit
	// asks for, or fewer exited than WithMinNodes asks for.
	ErrTooFewNodes = errors.New("too few nodes")

	// ErrTimedOut is in the error of a node whose command WithTimeout had to
	// end. See NodeResult.TimedOut.
	ErrTimedOut = errors.New("timed out")

	// ErrUnavailable is in the error of a run that Consul did not serve: it
	// could not be reached, had no leader, was overloaded or gave no answer, for
	// as long as the run tries. If that cost the run its session, the error is
	// ErrSessionLost as well.
	ErrUnavailable = consul.ErrUnavailable

	// ErrSessionLost is in the error of a run whose session ended before the run.
	// WithRecovery opens a new one. Somebody destroyed it, it expired, or the
	// node that held it left the catalog. Agents can report nothing after that;
	// their commands go on.
	ErrSessionLost = consul.ErrSessionLost

	// ErrPermissionDenied is in the error of a run whose token lacks a
	// permission. It is also in Result.DiscoveryErr if the token may not read
	// the catalog.
	ErrPermissionDenied = consul.ErrPermissionDenied

	// ErrDiscoveryOff is Result.DiscoveryErr of a run WithoutDiscovery.
	ErrDiscoveryOff = errors.New("discovery is off")

	// ErrLoopLeft is in the error of Wait if the loop over Events was left,
	// beside context.Canceled. It is the caller's own doing, so it is not in
	// Result.Err.
	ErrLoopLeft = errors.New("the loop over Events was left")
)

// An OptionError says what is wrong with an option or with the command. For
// errors.Is it is ErrBadOption.
type OptionError struct {
	// Option is the name of the option, such as "WithNode", or "command". If
	// several options do not go together, it is the first of them.
	Option string

	// Value is the value of that option as text, such as "99ms", or the part of
	// it that is wrong. It is empty if there is none, and if it may be secret:
	// a command, a script, arguments, an environment, a config.
	Value string

	// Err says what is wrong.
	Err error

	shown string // what follows the name in the text, such as `("(")`
}

// Error names the option, its value and the problem. It does not repeat the
// text of a command, its arguments or its environment, which may be secret.
func (e *OptionError) Error() string {
	shown := e.shown
	if shown == "" && e.Value != "" {
		shown = "(" + e.Value + ")"
	}
	return e.Option + shown + ": " + e.Err.Error()
}

// Unwrap returns e.Err.
func (e *OptionError) Unwrap() error { return e.Err }

// Is reports whether target is ErrBadOption.
func (e *OptionError) Is(target error) bool { return target == ErrBadOption }

// badValue returns the error of an option that was given value.
func badValue(option string, value any, problem error) error {
	text, format := fmt.Sprint(value), "(%v)"
	switch value := value.(type) {
	case nil:
		return &OptionError{Option: option, Err: problem, shown: "(nil)"}
	case string:
		format = "(%q)"
	case []string:
		text, format = fmt.Sprintf("%q", value), "(%q)"
	}
	return &OptionError{Option: option, Value: text, Err: problem, shown: fmt.Sprintf(format, value)}
}

// A NodeError says why a node does not count as a success.
type NodeError struct {
	Node     string
	State    State
	ExitCode int   // if State is StateExited
	Err      error // what else is known, or nil
}

// Error names the node and its outcome.
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
