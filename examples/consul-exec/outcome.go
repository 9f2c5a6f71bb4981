package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/fatih/color"

	"github.com/consulexec/consulexec"
)

// A format prints a run.
type format interface {
	event(consulexec.Event)
	end(outcome)
}

// An outcome is how a run ended.
type outcome struct {
	result  *consulexec.Result
	err     error    // why the job failed, or nil
	names   []string // of -nodes and -nodes-file
	blindOK bool     // whether the nodes to expect may be unknown
	tally   tally
}

// status is the exit status of the program.
func (o outcome) status() int {
	if o.err != nil {
		return 1
	}
	if o.result.DiscoveryErr != nil && !o.blindOK || o.tooFew() {
		return 3
	}
	status := 0
	for _, n := range o.result.Nodes {
		switch {
		case n.Err == nil: // or -limit did not need it
		case n.State == consulexec.StateLost || n.State == consulexec.StateNoResponse:
			return 3
		default:
			status = 2
		}
	}
	return status
}

// tooFew reports whether fewer nodes took the job than -limit asks for.
func (o outcome) tooFew() bool { return errors.Is(o.result.Err(), consulexec.ErrTooFewNodes) }

// failed returns the names of the nodes that have to be done again: those of the
// nodes that failed, and of the list that was given all on which the command did
// not succeed, whatever left them out.
func (o outcome) failed() (names []string) {
	for _, n := range o.result.Nodes {
		if n.Err != nil {
			names = append(names, n.Node)
		}
	}
	for _, name := range o.names {
		n, _ := o.result.Node(name)
		if succeeded := n.State == consulexec.StateExited && n.Err == nil; !succeeded && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// completed returns the last line of the text, or nothing if the job failed
// before any node acknowledged it.
func (o outcome) completed() string {
	if o.err != nil && o.tally.acked == 0 && !errors.Is(o.err, consulexec.ErrNoTargets) {
		return ""
	}
	return fmt.Sprintf("%d / %d node(s) completed / acknowledged\n", o.tally.exited, o.tally.acked)
}

// unfinished says on standard error which nodes the output leaves open, and
// why: those that still run the command, did not respond or never got the job,
// and those whose exit code does not say it all.
func (o outcome) unfinished(s *screen) {
	var order []string
	nodes := make(map[string][]string)
	for _, n := range o.result.Nodes {
		reported := n.Err == nil || n.State == consulexec.StateExited && reason(n.Err) == "" ||
			n.State == consulexec.StateLost && o.tally.nodes[n.Node].State == consulexec.StateLost
		if reported && !n.Truncated {
			continue
		}
		text := verdict(n)
		if n.Truncated {
			text += "; -max-output cut its output"
		}
		if nodes[text] == nil {
			order = append(order, text)
		}
		nodes[text] = append(nodes[text], n.Node)
	}
	for _, text := range order {
		s.warn(fmt.Sprintf("==> %s: %s", fold(nodes[text]), text))
	}
	o.warn(s)
}

// warn says on standard error what is wrong besides the nodes.
func (o outcome) warn(s *screen) {
	if err := o.result.DiscoveryErr; err != nil && !errors.Is(o.err, err) {
		line := fmt.Sprintf("nobody knows which nodes can answer: %v", err)
		if !o.blindOK {
			line += "; -blind-ok accepts that"
		}
		s.warn(line)
	}
	if o.tooFew() {
		s.warn(fmt.Sprintf("%d node(s) took the job, fewer than -limit", o.tally.acked))
	}
}

// verdict says in words what became of a node, and why.
func verdict(n consulexec.NodeResult) string {
	why := reason(n.Err)
	switch n.State {
	case consulexec.StateExited:
		return fmt.Sprintf("finished with exit code %d%s", n.ExitCode, why)
	case consulexec.StateRunning:
		return "still running" + why
	}
	if why == "" {
		why = usual[n.State]
	}
	return n.State.String() + why
}

// usual is what a state means if no reason is known.
var usual = map[consulexec.State]string{
	consulexec.StateNoResponse: ": did not take the job, and will not",
	consulexec.StateSkipped:    ": never got the job",
	consulexec.StateKilled:     ": ended by -kill",
}

// reason returns what the error of a node adds to its state.
func reason(err error) string {
	var node *consulexec.NodeError
	if !errors.As(err, &node) || node.Err == nil {
		return ""
	}
	return ": " + flagNames(node.Err.Error())
}

var (
	good      = color.New(color.FgGreen)
	bad       = color.New(color.FgRed)
	warning   = color.New(color.FgYellow)
	faint     = color.New(color.Faint)
	nodeColor = color.New(color.FgCyan)
)

// verdictColor returns the colour for the state and exit code of a node.
func verdictColor(state consulexec.State, code int) *color.Color {
	switch {
	case state != consulexec.StateExited:
		return warning
	case code != 0:
		return bad
	}
	return good
}
