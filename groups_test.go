package consulexec_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
	"github.com/consulexec/consulexec/internal/runtest"
)

// describe returns groups as text.
func describe(groups []consulexec.Group) []string {
	var all []string
	for _, g := range groups {
		text := fmt.Sprintf("%s: %v %d %q of %d", strings.Join(g.Nodes, " "), g.State, g.ExitCode, g.Output, g.OutputBytes)
		if g.Truncated {
			text += ", truncated"
		}
		if g.TimedOut {
			text += ", timed out"
		}
		all = append(all, text)
	}
	return all
}

// TestGroups groups results that differ in one respect each.
func TestGroups(t *testing.T) {
	exited := func(node string, code int, output string) consulexec.NodeResult {
		n := consulexec.NodeResult{Node: node, State: consulexec.StateExited, ExitCode: code, OutputBytes: int64(len(output))}
		n.Output = append(n.Output, output...)
		return n
	}
	ended := func(node string, state consulexec.State, output string) consulexec.NodeResult {
		n := exited(node, -1, output)
		n.State, n.Err = state, errors.New(node)
		return n
	}
	cut := func(n consulexec.NodeResult, capture int) consulexec.NodeResult {
		if n.Output = n.Output[:min(len(n.Output), capture)]; capture == 0 {
			n.Output = nil
		}
		return n
	}
	truncated, timedOut := exited("b", 124, "up"), exited("d", 124, "up")
	truncated.Truncated, timedOut.TimedOut = true, true
	for _, test := range []struct {
		name  string
		nodes []consulexec.NodeResult
		want  []string
	}{
		{name: "none"},
		{"one", []consulexec.NodeResult{exited("a", 0, "up")}, []string{`a: exited 0 "up" of 2`}},
		{
			"all the same",
			[]consulexec.NodeResult{exited("a", 0, "up"), exited("b", 0, "up"), exited("c", 0, "up")},
			[]string{`a b c: exited 0 "up" of 2`},
		},
		{
			"truncated, timed out, neither",
			[]consulexec.NodeResult{exited("a", 124, "up"), truncated, exited("c", 124, "up"), timedOut},
			[]string{`a c: exited 124 "up" of 2`, `b: exited 124 "up" of 2, truncated`, `d: exited 124 "up" of 2, timed out`},
		},
		{
			"the largest first",
			[]consulexec.NodeResult{exited("a", 0, "x"), exited("b", 0, "y"), exited("c", 0, "z"), exited("d", 0, "z"), exited("e", 0, "y"), exited("f", 0, "z")},
			[]string{`c d f: exited 0 "z" of 1`, `b e: exited 0 "y" of 1`, `a: exited 0 "x" of 1`},
		},
		{
			"then by name",
			[]consulexec.NodeResult{exited("a", 0, "z"), exited("b", 0, "x"), exited("c", 0, "y")},
			[]string{`a: exited 0 "z" of 1`, `b: exited 0 "x" of 1`, `c: exited 0 "y" of 1`},
		},
		{
			"by code",
			[]consulexec.NodeResult{exited("a", 0, "x"), exited("b", 1, "x")},
			[]string{`a: exited 0 "x" of 1`, `b: exited 1 "x" of 1`},
		},
		{
			"by state, whatever the error",
			[]consulexec.NodeResult{
				ended("a", consulexec.StateLost, "x"), ended("b", consulexec.StateRunning, "x"), ended("c", consulexec.StateLost, "x"),
				exited("d", -1, "x"), ended("e", consulexec.StateNoResponse, ""), ended("f", consulexec.StateNoResponse, ""), ended("g", consulexec.StateSkipped, ""),
			},
			[]string{
				`a c: lost -1 "x" of 1`, `e f: no response -1 "" of 0`,
				`b: running -1 "x" of 1`, `d: exited -1 "x" of 1`, `g: skipped -1 "" of 0`,
			},
		},
		{
			"without capture, by length",
			[]consulexec.NodeResult{cut(exited("a", 0, "xx"), 0), cut(exited("b", 0, "yy"), 0), cut(exited("c", 0, "x"), 0)},
			[]string{`a b: exited 0 "" of 2`, `c: exited 0 "" of 1`},
		},
		{
			"over the capture, by beginning and length",
			[]consulexec.NodeResult{
				cut(exited("a", 0, "abcd"), 2), cut(exited("b", 0, "abef"), 2), cut(exited("c", 0, "abc"), 2),
				cut(exited("d", 0, "ab"), 2), cut(exited("e", 0, "axcd"), 2),
			},
			[]string{
				`a b: exited 0 "ab" of 4`, `c: exited 0 "ab" of 3`,
				`d: exited 0 "ab" of 2`, `e: exited 0 "ax" of 4`,
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			result := &consulexec.Result{Nodes: test.nodes}
			if got := describe(result.Groups()); !slices.Equal(got, test.want) {
				t.Errorf("groups\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
		})
	}
}

// TestGroupsOfRun groups the result of a run that captures all of the output, a
// part of it, or none.
func TestGroupsOfRun(t *testing.T) {
	options := []exectest.Option{
		runtest.Node("a", exectest.Answer("1.27\n", 0)),
		runtest.Node("b", exectest.Answer("1.26\n", 0)),
		runtest.Node("c", exectest.Answer("1.27\n", 0)),
		runtest.Node("d", exectest.Answer("", 127)),
		runtest.Node("off", runtest.Up, exectest.ExecDisabled()),
	}
	for capture, want := range map[int][]string{
		100: {`a c: exited 0 "1.27\n" of 5`, `b: exited 0 "1.26\n" of 5`, `d: exited 127 "" of 0`, `off: no response -1 "" of 0`},
		3:   {`a b c: exited 0 "1.2" of 5`, `d: exited 127 "" of 0`, `off: no response -1 "" of 0`},
		0:   {`a b c: exited 0 "" of 5`, `d: exited 127 "" of 0`, `off: no response -1 "" of 0`},
	} {
		runtest.Bubble(t, options, func(t *testing.T, srv *exectest.Server) {
			e, err := consulexec.New("x", consulexec.WithClient(srv.Client()), consulexec.WithCapture(capture))
			if err != nil {
				t.Fatal(err)
			}
			result, err := e.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got := describe(result.Groups()); !slices.Equal(got, want) {
				t.Errorf("capture %d: groups %v, want %v", capture, got, want)
			}
		})
	}
}
