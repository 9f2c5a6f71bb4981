package consulexec

import (
	"cmp"
	"slices"
	"strings"
)

// A Group is a set of nodes with the same outcome.
type Group struct {
	// Nodes has the names of the nodes, sorted; at least one.
	Nodes []string

	// State, ExitCode, Output and OutputBytes are the same for each of them. See
	// NodeResult.
	State       State
	ExitCode    int
	Output      []byte
	OutputBytes int64
}

// Groups returns the nodes by what became of them: those of one group are in the
// same state, with the same exit code and the same output. The largest group comes
// first, and among groups of one size the one whose first node does.
//
// Output is compared as far as WithCapture kept it, and by its length: without
// WithCapture, two outputs of the same length count as the same, and with it, two
// that begin with the same captured bytes and have the same length.
func (r *Result) Groups() []Group {
	type outcome struct {
		state  State
		code   int
		output string
		bytes  int64
	}
	var groups []Group
	of := make(map[outcome]int) // index in groups
	for _, n := range r.Nodes {
		o := outcome{n.State, n.ExitCode, string(n.Output), n.OutputBytes}
		i, found := of[o]
		if !found {
			i = len(groups)
			of[o] = i
			groups = append(groups, Group{State: n.State, ExitCode: n.ExitCode, Output: n.Output, OutputBytes: n.OutputBytes})
		}
		groups[i].Nodes = append(groups[i].Nodes, n.Node)
	}
	slices.SortFunc(groups, func(a, b Group) int {
		return cmp.Or(cmp.Compare(len(b.Nodes), len(a.Nodes)), strings.Compare(a.Nodes[0], b.Nodes[0]))
	})
	return groups
}
