package main

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"hash"
	"slices"
	"strings"

	"github.com/consulexec/consulexec"
)

// maxGrouped is how many bytes of a node's output groupFormat prints at most.
const maxGrouped = 1 << 20

// groupFormat prints each output once, below the names of its nodes.
type groupFormat struct {
	screen *screen
	sums   map[string]hash.Hash // of the whole output, by node
}

func (f groupFormat) event(event consulexec.Event) {
	if event.Type != consulexec.EventOutput {
		return
	}
	if f.sums[event.Node] == nil {
		f.sums[event.Node] = sha256.New()
	}
	f.sums[event.Node].Write(event.Output)
}

func (f groupFormat) end(o outcome) {
	for _, nodes := range f.groups(o.result.Nodes) {
		f.print(nodes)
	}
	o.warn(f.screen)
	f.screen.out(o.completed())
}

// groups groups the nodes with the same verdict and the same whole output. The
// largest group comes first.
func (f groupFormat) groups(nodes []consulexec.NodeResult) [][]consulexec.NodeResult {
	type key struct {
		verdict, sum string
		truncated    bool
	}
	var order []key
	groups := make(map[key][]consulexec.NodeResult)
	for _, n := range nodes {
		k := key{verdict(n), "", n.Truncated}
		if sum := f.sums[n.Node]; sum != nil {
			k.sum = string(sum.Sum(nil))
		}
		if groups[k] == nil {
			order = append(order, k)
		}
		groups[k] = append(groups[k], n)
	}
	var sorted [][]consulexec.NodeResult
	for _, k := range order {
		sorted = append(sorted, groups[k])
	}
	slices.SortStableFunc(sorted, func(a, b []consulexec.NodeResult) int { return cmp.Compare(len(b), len(a)) })
	return sorted
}

// print prints a group.
func (f groupFormat) print(nodes []consulexec.NodeResult) {
	n := nodes[0]
	var names []string
	for _, n := range nodes {
		names = append(names, n.Node)
	}
	var text strings.Builder
	line := fmt.Sprintf("==> %s (%d): %s", fold(names), len(names), verdict(n))
	text.WriteString(verdictColor(n.State, n.ExitCode).Sprint(f.screen.safe(line)) + "\n")
	for output := range bytes.Lines(n.Output) {
		fmt.Fprintf(&text, "    %s\n", f.screen.safe(string(bytes.TrimSuffix(output, []byte("\n")))))
	}
	if more := n.OutputBytes - int64(len(n.Output)); more > 0 {
		text.WriteString(warning.Sprintf("    ... and %d more bytes\n", more))
	}
	if n.Truncated {
		text.WriteString(warning.Sprint("    ... and what -max-output cut off\n"))
	}
	f.screen.out(text.String())
}
