package main

import (
	"bytes"
	"encoding/json"
	"time"

	"github.com/consulexec/consulexec"
)

// jsonFormat prints one JSON object a line. The comment at the top of main.go
// has the schema.
type jsonFormat struct {
	screen *screen
	hold   hold
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

// A jsonTargets is the object of -list.
type jsonTargets struct {
	Type   string    `json:"type"`
	Time   time.Time `json:"time"`
	Status int       `json:"status"`
	Error  string    `json:"error,omitempty"`
	Nodes  []string  `json:"nodes"`
}

func (f jsonFormat) print(object any) {
	var line bytes.Buffer
	encoder := json.NewEncoder(&line)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(object); err != nil {
		panic(err) // every field of the objects can be encoded
	}
	f.screen.out(f.screen.safe(line.String()))
}

func (f jsonFormat) event(event consulexec.Event) {
	switch event.Type {
	case consulexec.EventTargets:
		return // the summary has the nodes
	case consulexec.EventOutput:
		f.output(event.Node, event.Time, f.hold.add(event.Node, event.Output))
		return
	case consulexec.EventExit, consulexec.EventLost:
		f.output(event.Node, event.Time, f.hold.release(event.Node))
	}
	f.print(event)
}

func (f jsonFormat) output(node string, now time.Time, output []byte) {
	if len(output) > 0 {
		f.print(consulexec.Event{Type: consulexec.EventOutput, Time: now, Node: node, Output: output})
	}
}

func (f jsonFormat) end(o outcome) {
	now := time.Now()
	for _, n := range o.result.Nodes {
		f.output(n.Node, now, f.hold.release(n.Node))
	}
	f.print(jsonSummary{
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
	})
	o.unfinished(f.screen)
}

// text returns the text of an error, or nothing for nil.
func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
