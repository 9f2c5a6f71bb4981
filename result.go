package consulexec

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A State says what became of a node.
type State int

const (
	// StateNoResponse is the state of an expected node that has not
	// acknowledged the job: it may be down, have remote exec disabled (Consul's
	// default since 0.8), or lack the ACL rule key:write on the prefix. NodeResult.Err
	// says more where more is known.
	StateNoResponse State = iota

	// StateRunning is the state of a node that acknowledged the job and had not
	// ended it when the run ended.
	StateRunning

	// StateExited is the state of a node whose command ended with a status.
	StateExited

	// StateLost is the state of a node that acknowledged the job and then fell
	// silent for the lost timeout. Its command may still run.
	StateLost

	// StateSkipped is the state of a node that was never told: of a run that
	// WithMaxFailures stopped, or that failed before the node's turn.
	StateSkipped

	// StateKilled is the state of a node whose command still ran when the context
	// ended, and was ended then: see WithKillOnCancel. Its status is not known.
	StateKilled
)

// String returns the state in words, such as "no response".
func (s State) String() string {
	switch s {
	case StateNoResponse:
		return "no response"
	case StateRunning:
		return "running"
	case StateExited:
		return "exited"
	case StateLost:
		return "lost"
	case StateSkipped:
		return "skipped"
	case StateKilled:
		return "killed"
	}
	return fmt.Sprintf("State(%d)", int(s))
}

// Result is what a run came to. It is complete, and no longer changes, when
// Run or Wait returns it.
type Result struct {
	// Session is the ID of the session that the run held, or empty where it did
	// not get one. The job and its results stood under <prefix>/<Session>/.
	Session string

	// Datacenter is the one that WithDatacenter or the configuration names, and
	// empty where neither does: the agent's own.
	Datacenter string

	// Nodes has every node that was expected or that acknowledged the job,
	// sorted by name.
	Nodes []NodeResult

	// DiscoveryErr is nil where Consul's catalog told which nodes to expect, so
	// that the end of the run was exact. Otherwise it says why not: ErrDiscoveryOff,
	// or ErrPermissionDenied where the token may not read the whole catalog. Nobody
	// was expected then but the nodes of WithNodes; without these the run ended by
	// silence, and a node that never answered is unknown.
	DiscoveryErr error

	err error // why the run does not count as a success, besides its nodes
}

// Node returns the result of the node called name, and whether there is one.
func (r *Result) Node(name string) (NodeResult, bool) {
	i, found := slices.BinarySearchFunc(r.Nodes, name, func(n NodeResult, name string) int {
		return strings.Compare(n.Node, name)
	})
	if !found {
		return NodeResult{}, false
	}
	return r.Nodes[i], true
}

// Err returns nil when the run went to its end, every expected node and every
// other one that answered exited with status 0, and there were at least as many
// as WithMinNodes asks for. Otherwise it returns an error that has the run's own
// error, if any, and names each node that did not, and how; errors.As finds the
// first as a *NodeError.
func (r *Result) Err() error {
	errs := []error{r.err}
	for _, n := range r.Nodes {
		errs = append(errs, n.Err)
	}
	return errors.Join(errs...)
}

// NodeResult is what became of one node.
type NodeResult struct {
	// Node is the node's name in Consul.
	Node string

	// State is how far the node came.
	State State

	// ExitCode is the status of the command where State is StateExited: -1
	// where a signal ended it, 255 where it could not be started or the agent
	// failed to write its output, 127 where the shell did not find it. It is -1
	// in every other state.
	ExitCode int

	// Output is the beginning of the output, stdout and stderr in one, up to as
	// many bytes as WithCapture says; nil without WithCapture.
	Output []byte

	// OutputBytes is the length of the whole output, captured or not.
	OutputBytes int64

	// Acked and Exited are when this client learned that the node had taken the
	// job, and that its command had ended; zero where it did not.
	Acked, Exited time.Time

	// Err is nil where the node exited with status 0, and otherwise a *NodeError.
	Err error
}
