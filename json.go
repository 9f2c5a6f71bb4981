package consulexec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// names has the words for each value of a type.
type names[T ~int] map[T]string

// of returns the words for a value, or the value as a conversion of the type.
func (n names[T]) of(value T, typ string) string {
	if text, ok := n[value]; ok {
		return text
	}
	return fmt.Sprintf("%s(%d)", typ, int(value))
}

// marshal returns the words for a value as one word.
func (n names[T]) marshal(value T, typ string) ([]byte, error) {
	if _, ok := n[value]; !ok {
		return nil, fmt.Errorf("consulexec: there is no %s", n.of(value, typ))
	}
	return []byte(oneWord(n[value])), nil
}

// unmarshal returns the value that marshal has made text of.
func (n names[T]) unmarshal(text []byte, typ string) (T, error) {
	for value, words := range n {
		if oneWord(words) == string(text) {
			return value, nil
		}
	}
	return 0, fmt.Errorf("consulexec: %q is no %s", text, typ)
}

func oneWord(words string) string { return strings.ReplaceAll(words, " ", "_") }

// MarshalText returns the state as one word, such as "no_response". Other
// values than the constants are an error.
func (s State) MarshalText() ([]byte, error) { return stateNames.marshal(s, "State") }

// UnmarshalText reads what MarshalText returns, and nothing else.
func (s *State) UnmarshalText(text []byte) (err error) {
	*s, err = stateNames.unmarshal(text, "State")
	return err
}

// MarshalText returns the type as one word, such as "no_response". Other values
// than the constants are an error.
func (t EventType) MarshalText() ([]byte, error) { return eventNames.marshal(t, "EventType") }

// UnmarshalText reads what MarshalText returns, and nothing else.
func (t *EventType) UnmarshalText(text []byte) (err error) {
	*t, err = eventNames.unmarshal(text, "EventType")
	return err
}

// outputJSON is output in JSON: as text, or in base64 if it is not UTF-8.
type outputJSON struct {
	Output       string `json:"output,omitempty"`
	OutputBase64 []byte `json:"output_base64,omitempty"`
}

func newOutputJSON(output []byte) outputJSON {
	if utf8.Valid(output) {
		return outputJSON{Output: string(output)}
	}
	return outputJSON{OutputBase64: output}
}

// MarshalJSON returns an object with the fields type, time, node, nodes,
// output, exit_code and error. What the event does not have is left out. Output
// that is not UTF-8 is output_base64 instead. Times are RFC 3339, in UTC, and the
// error is its text. Events can't be read back.
func (e Event) MarshalJSON() ([]byte, error) {
	object := struct {
		Type  EventType `json:"type,omitzero"`
		Time  time.Time `json:"time,omitzero"`
		Node  string    `json:"node,omitempty"`
		Nodes []string  `json:"nodes,omitempty"`
		outputJSON
		ExitCode *int   `json:"exit_code,omitempty"`
		Error    string `json:"error,omitempty"`
	}{
		Type: e.Type, Time: e.Time.UTC(), Node: e.Node, Nodes: e.Nodes, outputJSON: newOutputJSON(e.Output), Error: errorText(e.Err),
	}
	if e.Type == EventExit {
		object.ExitCode = &e.ExitCode
	}
	return encode(object)
}

// MarshalJSON returns an object with the fields node, state, exit_code,
// timed_out, output, output_bytes, truncated, recovered, acknowledged, exited and
// error. All but node, state and output_bytes are left out if there is nothing
// to say; exit_code is there if the node has exited. The formats are those of
// Event.MarshalJSON. It can't be read back.
func (n NodeResult) MarshalJSON() ([]byte, error) {
	object := struct {
		Node     string `json:"node"`
		State    State  `json:"state"`
		ExitCode *int   `json:"exit_code,omitempty"`
		TimedOut bool   `json:"timed_out,omitempty"`
		outputJSON
		OutputBytes  int64     `json:"output_bytes"`
		Truncated    bool      `json:"truncated,omitempty"`
		Recovered    int       `json:"recovered,omitempty"`
		Acknowledged time.Time `json:"acknowledged,omitzero"`
		Exited       time.Time `json:"exited,omitzero"`
		Error        string    `json:"error,omitempty"`
	}{
		Node: n.Node, State: n.State, TimedOut: n.TimedOut,
		outputJSON: newOutputJSON(n.Output), OutputBytes: n.OutputBytes, Truncated: n.Truncated,
		Recovered: n.Recovered, Acknowledged: n.Acked.UTC(), Exited: n.Exited.UTC(), Error: errorText(n.Err),
	}
	if n.State == StateExited {
		object.ExitCode = &n.ExitCode
	}
	return encode(object)
}

// MarshalJSON returns an object with the fields id, session, datacenter,
// submitted, started, ended, error, discovery_error and nodes. All but submitted
// and nodes are left out if there is nothing to say. The field error is the text
// of Err: without it the run was a success. The formats are those of
// Event.MarshalJSON. It can't be read back.
func (r Result) MarshalJSON() ([]byte, error) {
	return encode(struct {
		ID             string       `json:"id,omitempty"`
		Session        string       `json:"session,omitempty"`
		Datacenter     string       `json:"datacenter,omitempty"`
		Submitted      bool         `json:"submitted"`
		Started        time.Time    `json:"started,omitzero"`
		Ended          time.Time    `json:"ended,omitzero"`
		Error          string       `json:"error,omitempty"`
		DiscoveryError string       `json:"discovery_error,omitempty"`
		Nodes          []NodeResult `json:"nodes"`
	}{
		ID: r.ID, Session: r.Session, Datacenter: r.Datacenter, Submitted: r.Submitted,
		Started: r.Started.UTC(), Ended: r.Ended.UTC(),
		Error: errorText(r.Err()), DiscoveryError: errorText(r.DiscoveryErr), Nodes: append([]NodeResult{}, r.Nodes...),
	})
}

// encode returns a value as JSON. It leaves the escaping of HTML to the encoder
// that has asked for the value, and may not want it.
func encode(value any) ([]byte, error) {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(value)
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), err
}

// errorText returns the text of an error, or nothing for nil.
func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
