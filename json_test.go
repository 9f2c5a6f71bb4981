package consulexec

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestWords writes states and types as words, and reads them back.
func TestWords(t *testing.T) {
	for state, want := range map[State]string{
		StateNoResponse: "no_response", StateRunning: "running", StateExited: "exited", StateLost: "lost", StateSkipped: "skipped", StateKilled: "killed",
	} {
		var back State = -1
		if text, err := json.Marshal(state); err != nil || string(text) != `"`+want+`"` || json.Unmarshal(text, &back) != nil || back != state {
			t.Errorf("%v becomes %s and then %v, error %v", state, text, back, err)
		}
	}
	for event, want := range map[EventType]string{
		EventSubmit: "submit", EventAck: "ack", EventOutput: "output", EventHeartbeat: "heartbeat", EventExit: "exit", EventLost: "lost", EventNoResponse: "no_response",
	} {
		var back EventType
		if text, err := json.Marshal(event); err != nil || string(text) != `"`+want+`"` || json.Unmarshal(text, &back) != nil || back != event {
			t.Errorf("%v becomes %s and then %v, error %v", event, text, back, err)
		}
	}
	for _, value := range []encoding.TextMarshaler{StateKilled + 1, State(-1), EventType(0), eventDone} {
		if text, err := value.MarshalText(); err == nil {
			t.Errorf("%v becomes %s", value, text)
		}
	}
	for _, text := range []string{"", "no response", "Exited", "2", "State(2)"} {
		var state State
		var event EventType
		if state.UnmarshalText([]byte(text)) == nil || event.UnmarshalText([]byte(text)) == nil {
			t.Errorf("%q is read as %v or %v", text, state, event)
		}
	}
}

// TestJSON encodes results and events, with all fields and with none.
func TestJSON(t *testing.T) {
	at := time.Date(2030, 1, 2, 3, 4, 5, 6e8, time.FixedZone("", 3600))
	for _, test := range []struct {
		value any
		want  string
	}{
		{Event{}, `{}`},
		{Event{Type: EventSubmit, Time: at}, `{"type":"submit","time":"2030-01-02T02:04:05.6Z"}`},
		{Event{Type: EventOutput, Node: "a", Output: []byte("<ä>\n")}, `{"type":"output","node":"a","output":"<ä>\n"}`},
		{Event{Type: EventOutput, Node: "a", Output: []byte("\xff")}, `{"type":"output","node":"a","output_base64":"/w=="}`},
		{Event{Type: EventExit, Node: "a"}, `{"type":"exit","node":"a","exit_code":0}`},
		{&Event{Type: EventNoResponse, Node: "a", Err: errors.New("why")}, `{"type":"no_response","node":"a","error":"why"}`},
		{NodeResult{Node: "a", ExitCode: -1}, `{"node":"a","state":"no_response","output_bytes":0}`},
		{NodeResult{Node: "a", State: StateExited, Output: []byte("é"), OutputBytes: 2, Acked: at, Exited: at},
			`{"node":"a","state":"exited","exit_code":0,"output":"é","output_bytes":2,"acknowledged":"2030-01-02T02:04:05.6Z","exited":"2030-01-02T02:04:05.6Z"}`},
		{&NodeResult{Node: "a", State: StateExited, ExitCode: 124, TimedOut: true, Output: []byte("\xff"), OutputBytes: 1, Truncated: true, Recovered: 2, Err: errors.New("why")},
			`{"node":"a","state":"exited","exit_code":124,"timed_out":true,"output_base64":"/w==","output_bytes":1,"truncated":true,"recovered":2,"error":"why"}`},
		{Result{}, `{"submitted":false,"nodes":[]}`},
		{(*Result)(nil), `null`},
		{&Result{ID: "i", Session: "s", Datacenter: "d", Submitted: true, Started: at, Ended: at, Nodes: []NodeResult{{Node: "a", State: StateSkipped}}, DiscoveryErr: ErrDiscoveryOff, err: errors.New("why")},
			`{"id":"i","session":"s","datacenter":"d","submitted":true,"started":"2030-01-02T02:04:05.6Z","ended":"2030-01-02T02:04:05.6Z","error":"why","discovery_error":"discovery is off","nodes":[{"node":"a","state":"skipped","output_bytes":0}]}`},
	} {
		var got bytes.Buffer
		encoder := json.NewEncoder(&got)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(test.value); err != nil || got.String() != test.want+"\n" {
			t.Errorf("error %v\ngot  %swant %s", err, &got, test.want)
		}
	}
	if _, err := json.Marshal(NodeResult{State: StateKilled + 1}); err == nil {
		t.Error("a state that is none has JSON")
	}
	if text, err := json.Marshal(map[State]int{StateNoResponse: 1}); err != nil || string(text) != `{"no_response":1}` {
		t.Errorf("as the key of a map: %s, error %v", text, err)
	}
	if text := fmt.Sprint(StateNoResponse, EventNoResponse); strings.Contains(text, "_") {
		t.Errorf("String returns %s", text)
	}
}
