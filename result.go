package consulexec

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A State is the outcome of a node.
type State int

const (
	// StateNoResponse is the state of an expected node that did not acknowledge
	// the job. It did not run the command and will not. It may be down, have
	// remote exec disabled (Consul's default since 0.8), or its agent's token may
	// lack key:write on the prefix. NodeResult.Err says more if more is known.
	StateNoResponse State = iota

	// StateRunning is the state of a node that acknowledged the job and had not
	// ended it when the run ended.
	StateRunning

	// StateExited is the state of a node whose command ended with a status.
	StateExited

	// StateLost is the state of a node that acknowledged the job and then fell
	// silent for the lost timeout. Its command may still run. WithRecovery says
	// when a node is lost in a run with recovery. It is also the
	// state of a silent node that could not be fenced, without a call of OnLost:
	// the run ended early and Consul could not be asked, or the key of the node's
	// acknowledgement is somebody else's. The error says that the node may have
	// taken the job.
	StateLost

	// StateSkipped is the state of a node that the job was not dispatched to:
	// WithMaxFailures stopped the run, WithLimit did not need the node, or the
	// run failed before the node's turn.
	StateSkipped

	// StateKilled is the state of a node whose command was ended because the
	// run's context had ended or a callback had panicked. See WithKillOnCancel.
	// Its status is not known.
	StateKilled
)

var stateNames = names[State]{
	StateNoResponse: "no response",
	StateRunning:    "running",
	StateExited:     "exited",
	StateLost:       "lost",
	StateSkipped:    "skipped",
	StateKilled:     "killed",
}

// String returns the state in words, such as "no response".
func (s State) String() string { return stateNames.of(s, "State") }

// A Result is the outcome of a run. It is complete, and no longer changes, when
// Run or Wait returns it.
type Result struct {
	// ID is the ID of the run. See Exec.ID.
	ID string

	// Session is the ID of the run's session, or empty if the run got none. The
	// job and what the nodes wrote stood under <prefix>/<Session>/.
	Session string

	// Datacenter is the datacenter that WithDatacenter or the configuration
	// names. It is empty if neither does, which means the agent's own.
	Datacenter string

	// Submitted says that an event went out to the nodes, or may have. If it is
	// false, no node ran the command or will run it.
	Submitted bool

	// Started and Ended are when the run began and when it was over, clean-up
	// included.
	Started, Ended time.Time

	// Nodes has every node that was expected or acknowledged the job, sorted by
	// name.
	Nodes []NodeResult

	// DiscoveryErr is nil if Consul's catalog named the nodes to expect, so
	// that the end of the run was exact. Otherwise it is ErrDiscoveryOff, or
	// ErrPermissionDenied if the token may not read the whole catalog. Then
	// only the nodes of WithNodes were expected. Without WithNodes silence
	// ended the run, and a node that never answered is unknown; a run whose
	// options need to know the nodes, such as WithLimit, failed. A caller who
	// can do without the catalog gives WithoutDiscovery: ErrDiscoveryOff is no
	// failure.
	DiscoveryErr error

	err error // why the run is no success, besides its nodes
}

// Node returns the result of the node with this name, and whether there is one.
func (r *Result) Node(name string) (NodeResult, bool) {
	i, found := slices.BinarySearchFunc(r.Nodes, name, func(n NodeResult, name string) int {
		return strings.Compare(n.Node, name)
	})
	if !found {
		return NodeResult{}, false
	}
	return r.Nodes[i], true
}

// Err returns nil if the run was a success. That means: the run went to its
// end, or the caller left its loop. Every expected node exited with status 0,
// before WithTimeout had to end its command, and so did every other one that
// acknowledged; with WithLimit that is so of the nodes that took the job. As many
// nodes exited as WithMinNodes asks for. And DiscoveryErr is nil, or
// ErrDiscoveryOff, which the caller has asked for.
//
// Otherwise the error has all that went wrong: the error of Run and Wait, if
// any, but for ErrLoopLeft; DiscoveryErr; and the error of each node that
// failed, once. errors.As finds the first of these node errors as a *NodeError.
func (r *Result) Err() error {
	var errs []error
	if r.err != nil {
		errs = append(errs, r.err)
	}
	if err := r.DiscoveryErr; err != nil && !errors.Is(err, ErrDiscoveryOff) && !errors.Is(r.err, err) {
		errs = append(errs, prefixed(fmt.Errorf("nobody knows which nodes will answer: %w", err)))
	}
	for _, n := range r.Nodes {
		if n.Err != nil && !errors.Is(r.err, n.Err) { // the run's error may have it
			errs = append(errs, n.Err)
		}
	}
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

// A NodeResult is the outcome of one node.
type NodeResult struct {
	// Node is the node's name in Consul.
	Node string

	// State says how far the node got.
	State State

	// ExitCode is the status of the command if State is StateExited: -1 if a
	// signal ended it, 255 if it could not be started or the agent failed to
	// write its output (not with WithRecovery), 127 if the shell did not find it.
	// Under the runner, which WithTimeout describes, it is 128+n if signal n
	// ended the command, and 125 or 126 if the command could not run. A command
	// may exit with any of these numbers by itself. In every other state it is
	// -1.
	ExitCode int

	// TimedOut says that WithTimeout had to end the command. ExitCode is then
	// 124, as timeout(1) has it. A command that exits with 124 by itself did not
	// time out.
	TimedOut bool

	// Output is the beginning of the output, stdout and stderr in one stream,
	// up to the number of bytes that WithCapture sets. It is nil without
	// WithCapture.
	Output []byte

	// OutputBytes is the length of the whole output, captured or not, but at
	// most that of WithMaxOutput.
	OutputBytes int64

	// Truncated says that the node printed more than WithMaxOutput allows. What
	// follows the first OutputBytes bytes was thrown away.
	Truncated bool

	// Recovered is how often the node was reached again after it had been out of
	// reach. See WithRecovery.
	Recovered int

	// Acked is when this client learned that the node had taken the job. It is
	// zero if the client did not.
	Acked time.Time

	// Exited is when this client learned that the command had ended. For
	// StateLost it is when the client gave the node up, and for StateKilled when
	// it learned that nothing is left of the command. In other states it is zero.
	Exited time.Time

	// Err is nil if the node exited with status 0, or if WithLimit passed it over
	// or did not need it. Otherwise it is a *NodeError. It is one for status 0,
	// too, if what the node wrote shows that the command may have run twice. If
	// the agent's $SHELL seems to run nothing, as nologin does, the error says so
	// and names WithShell.
	Err error
}

// A Group is a set of nodes with the same outcome.
type Group struct {
	// Nodes has the names of the nodes, sorted; at least one.
	Nodes []string

	// State, ExitCode, Output, OutputBytes, Truncated and TimedOut are the same
	// for each node. See NodeResult.
	State       State
	ExitCode    int
	Output      []byte
	OutputBytes int64
	Truncated   bool
	TimedOut    bool
}

// Groups returns the nodes grouped by outcome: the nodes of a group have the
// same state, exit code and output. The largest group comes first. Groups of
// the same size are sorted by their first node.
//
// Two outputs are the same if they have the same length and the same captured
// beginning, and both or neither were truncated. Without WithCapture only the
// length counts. A command that was ended at the timeout is in another group
// than one that exited with status 124 by itself.
func (r *Result) Groups() []Group {
	type outcome struct {
		state  State
		code   int
		output string
		bytes  int64

		truncated, timedOut bool
	}
	var groups []Group
	index := make(map[outcome]int) // in groups
	for _, n := range r.Nodes {
		o := outcome{n.State, n.ExitCode, string(n.Output), n.OutputBytes, n.Truncated, n.TimedOut}
		i, found := index[o]
		if !found {
			i = len(groups)
			index[o] = i
			groups = append(groups, Group{
				State: n.State, ExitCode: n.ExitCode, Output: n.Output, OutputBytes: n.OutputBytes,
				Truncated: n.Truncated, TimedOut: n.TimedOut,
			})
		}
		groups[i].Nodes = append(groups[i].Nodes, n.Node)
	}
	slices.SortFunc(groups, func(a, b Group) int {
		return cmp.Or(cmp.Compare(len(b.Nodes), len(a.Nodes)), strings.Compare(a.Nodes[0], b.Nodes[0]))
	})
	return groups
}
