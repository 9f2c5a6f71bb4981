package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

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
	result *consulexec.Result
	err    error // why the job failed, or nil
	tally  tally
}

// status is the exit status of the program.
func (o outcome) status() int {
	if o.err != nil {
		return 1
	}
	status := 0
	for _, n := range o.result.Nodes {
		switch {
		case n.State == consulexec.StateLost || n.State == consulexec.StateNoResponse:
			return 3
		case n.Err != nil:
			status = 2
		}
	}
	return status
}

// sentence returns the state and exit code of a node in words for people.
func sentence(s consulexec.State, code int) string {
	switch s {
	case consulexec.StateExited:
		return fmt.Sprintf("finished with exit code %d", code)
	case consulexec.StateRunning:
		return "still running"
	}
	return s.String()
}

// completed returns the last line of the text, or nothing if the job failed
// before any node acknowledged it.
func (o outcome) completed() string {
	if o.err != nil && o.tally.acked == 0 && !errors.Is(o.err, consulexec.ErrNoTargets) {
		return ""
	}
	return fmt.Sprintf("%d / %d node(s) completed / acknowledged\n", o.tally.exited, o.tally.acked)
}

var (
	good      = color.New(color.FgGreen)
	bad       = color.New(color.FgRed)
	warning   = color.New(color.FgYellow)
	faint     = color.New(color.Faint)
	nodeColor = color.New(color.FgCyan)
)

// verdict returns the colour for the state and exit code of a node.
func verdict(state consulexec.State, code int) *color.Color {
	switch {
	case state != consulexec.StateExited:
		return warning
	case code != 0:
		return bad
	}
	return good
}

// textFormat prints what consul exec prints. On standard error it adds what
// consul exec does not report.
type textFormat struct {
	screen  *screen
	verbose bool
}

func (f textFormat) event(event consulexec.Event) {
	node := "==> " + event.Node + ": "
	switch event.Type {
	case consulexec.EventAck:
		f.detail(node + "acknowledged")
	case consulexec.EventHeartbeat:
		f.detail(node + "heartbeat received")
	case consulexec.EventOutput:
		f.screen.out(prefixed(event.Node, string(event.Output)))
	case consulexec.EventExit:
		line := fmt.Sprintf("%sfinished with exit code %d", node, event.ExitCode)
		f.screen.out(verdict(consulexec.StateExited, event.ExitCode).Sprint(line) + "\n")
	case consulexec.EventLost:
		f.screen.err(warning.Sprint(node + "lost" + reason(event.Err)))
	}
}

func (f textFormat) detail(line string) {
	if f.verbose {
		f.screen.out(faint.Sprint(line) + "\n")
	}
}

// prefixed puts the name of the node before each line of a piece of output. If
// the piece ends with a newline, one more line has only the name, as in consul
// exec.
func prefixed(node, output string) string {
	name := nodeColor.Sprintf("    %s:", node) + " "
	return strings.TrimRightFunc(name+strings.ReplaceAll(output, "\n", "\n"+name), unicode.IsSpace) + "\n"
}

func (f textFormat) end(o outcome) {
	o.unfinished(f.screen)
	f.screen.out(o.completed())
	if f.verbose {
		f.screen.out(fmt.Sprintf("Completed in %.2f seconds\n", time.Since(o.tally.began).Seconds()))
	}
}

// unfinished lists on standard error the nodes that still run the command, did
// not respond or never got the job, and says why. If nobody knows which nodes
// should have answered, it says that, too.
func (o outcome) unfinished(s *screen) {
	if o.err == nil && o.result.DiscoveryErr != nil {
		s.err(warning.Sprintf("nobody knows which nodes should have answered: %v", o.result.DiscoveryErr))
	}
	var order []string
	nodes := make(map[string][]string)
	for _, n := range o.result.Nodes {
		if n.State == consulexec.StateExited || n.State == consulexec.StateLost {
			continue
		}
		text := sentence(n.State, n.ExitCode) + reason(n.Err)
		if nodes[text] == nil {
			order = append(order, text)
		}
		nodes[text] = append(nodes[text], n.Node)
	}
	for _, text := range order {
		s.err(warning.Sprintf("==> %s: %s", fold(nodes[text]), text))
	}
}

// reason returns what the error of a node adds to its state.
func reason(err error) string {
	var node *consulexec.NodeError
	if !errors.As(err, &node) || node.Err == nil {
		return ""
	}
	return ": " + node.Err.Error()
}

// maxGrouped is how many bytes of a node's output groupFormat prints at most.
const maxGrouped = 1 << 20

// groupFormat prints each output once, below the names of its nodes.
type groupFormat struct{ screen *screen }

func (f groupFormat) event(consulexec.Event) {}

func (f groupFormat) end(o outcome) {
	for _, g := range o.result.Groups() {
		var text strings.Builder
		line := fmt.Sprintf("==> %s (%d): %s", fold(g.Nodes), len(g.Nodes), sentence(g.State, g.ExitCode))
		text.WriteString(verdict(g.State, g.ExitCode).Sprint(line) + "\n")
		for output := range bytes.Lines(g.Output) {
			fmt.Fprintf(&text, "    %s\n", bytes.TrimSuffix(output, []byte("\n")))
		}
		if more := g.OutputBytes - int64(len(g.Output)); more > 0 {
			text.WriteString(warning.Sprintf("    ... and %d more bytes\n", more))
		}
		f.screen.out(text.String())
	}
	f.screen.out(o.completed())
}

// jsonFormat prints one JSON object a line. The comment at the top of main.go
// has the schema.
type jsonFormat struct {
	screen *screen
	held   map[string][]byte // by node: the first bytes of a character whose rest is yet to arrive
}

type jsonSummary struct {
	Type           string                  `json:"type"`
	Time           time.Time               `json:"time"`
	Status         int                     `json:"status"`
	Error          string                  `json:"error,omitempty"`
	DiscoveryError string                  `json:"discovery_error,omitempty"`
	Session        string                  `json:"session,omitempty"`
	Datacenter     string                  `json:"datacenter,omitempty"`
	Seconds        float64                 `json:"seconds"`
	Acknowledged   int                     `json:"acknowledged"`
	Completed      int                     `json:"completed"`
	Nodes          []consulexec.NodeResult `json:"nodes"`
}

func (f jsonFormat) print(object any) {
	var line bytes.Buffer
	encoder := json.NewEncoder(&line)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(object); err != nil {
		panic(err) // every field of the objects can be encoded
	}
	f.screen.out(line.String())
}

func (f jsonFormat) event(event consulexec.Event) {
	switch event.Type {
	case consulexec.EventTargets:
		return // the summary has the nodes
	case consulexec.EventOutput:
		output := append(f.held[event.Node], event.Output...)
		whole := len(output) - partial(output)
		event.Output, f.held[event.Node] = output[:whole], output[whole:]
		if whole == 0 {
			return
		}
	case consulexec.EventExit, consulexec.EventLost:
		f.release(event.Node, event.Time)
	}
	f.print(event)
}

// release prints the bytes held for a node, whose output has ended.
func (f jsonFormat) release(node string, now time.Time) {
	if held := f.held[node]; len(held) > 0 {
		f.print(consulexec.Event{Type: consulexec.EventOutput, Time: now, Node: node, Output: held})
	}
	delete(f.held, node)
}

// partial returns how many bytes at the end of output are the start of an
// incomplete character. Agents cut output anywhere, even within a character.
func partial(output []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(output); n++ {
		if last := output[len(output)-n:]; utf8.RuneStart(last[0]) {
			if utf8.FullRune(last) {
				return 0
			}
			return n
		}
	}
	return 0
}

func (f jsonFormat) end(o outcome) {
	now := time.Now()
	summary := jsonSummary{
		Type:           "summary",
		Time:           now.UTC(),
		Status:         o.status(),
		Error:          text(o.err),
		DiscoveryError: text(o.result.DiscoveryErr),
		Session:        o.result.Session,
		Datacenter:     o.result.Datacenter,
		Seconds:        now.Sub(o.tally.began).Seconds(),
		Acknowledged:   o.tally.acked,
		Completed:      o.tally.exited,
		Nodes:          o.result.Nodes,
	}
	for _, n := range o.result.Nodes {
		f.release(n.Node, now)
	}
	f.print(summary)
	o.unfinished(f.screen)
}

// text returns the text of an error, or nothing for nil.
func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
