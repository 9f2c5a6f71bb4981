package main

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/consulexec/consulexec"
)

// textFormat prints what consul exec prints. On standard error it adds what
// consul exec does not report.
type textFormat struct {
	screen  *screen
	verbose bool
	hold    hold
}

func (f textFormat) event(event consulexec.Event) {
	node := "==> " + quote(event.Node) + ": "
	switch event.Type {
	case consulexec.EventAck:
		f.detail(node + "acknowledged")
	case consulexec.EventHeartbeat:
		f.detail(node + "heartbeat received")
	case consulexec.EventOutput:
		f.output(event.Node, f.hold.add(event.Node, event.Output))
	case consulexec.EventExit:
		f.output(event.Node, f.hold.release(event.Node))
		line := fmt.Sprintf("%sfinished with exit code %d", node, event.ExitCode)
		f.screen.out(verdictColor(consulexec.StateExited, event.ExitCode).Sprint(line) + "\n")
	case consulexec.EventLost:
		f.output(event.Node, f.hold.release(event.Node))
		f.screen.warn(node + "lost" + reason(event.Err))
	}
}

func (f textFormat) detail(line string) {
	if f.verbose {
		f.screen.out(faint.Sprint(line) + "\n")
	}
}

// output prints a piece of a node's output with the name before each line. If
// the piece ends with a newline, one more line has only the name, as in consul
// exec, but not with -lines.
func (f textFormat) output(node string, output []byte) {
	if len(output) == 0 {
		return
	}
	text := f.screen.safe(string(output))
	name := nodeColor.Sprintf("    %s:", quote(node)) + " "
	if f.hold.lines {
		text = strings.TrimSuffix(text, "\n")
	}
	text = name + strings.ReplaceAll(text, "\n", "\n"+name)
	if !f.hold.lines {
		text = strings.TrimRightFunc(text, unicode.IsSpace)
	}
	f.screen.out(text + "\n")
}

func (f textFormat) end(o outcome) {
	for _, n := range o.result.Nodes {
		f.output(n.Node, f.hold.release(n.Node))
	}
	o.unfinished(f.screen)
	f.screen.out(o.completed())
	if f.verbose {
		f.screen.out(fmt.Sprintf("Completed in %.2f seconds\n", time.Since(o.tally.began).Seconds()))
	}
}
