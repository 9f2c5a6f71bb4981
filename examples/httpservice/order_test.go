package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/consulexec/consulexec/exectest"
)

func TestBadInput(t *testing.T) {
	s := start(t, exectest.Node("a"))
	for _, test := range []struct {
		name, body string
		header     []string
		status     int
		want       string
	}{
		{"no command", `{"command": ""}`, asJSON, 400, "no command"},
		{"filter", `{"command": "x", "node": "web-("}`, asJSON, 400, `{"error":"consulexec: node=\"web-(\": error parsing regexp`},
		{"names", `{"command": "x", "nodes": ["a", ""]}`, asJSON, 400, "nodes: name 2 of 2 is empty"},
		{"no names", `{"command": "x", "nodes": []}`, asJSON, 400, "nodes is empty or null"},
		{"null names", `{"command": "x", "nodes": null}`, asJSON, 400, "nodes is empty or null"},
		{"other case", `{"command": "x", "Nodes": []}`, asJSON, 400, "nodes is empty or null"},
		{"second names", `{"command": "x", "nodes": ["a"], "nodes": null}`, asJSON, 400, "nodes is empty or null"},
		{"command twice", `{"command": "x", "command": "y"}`, asJSON, 400, `field \"command\" is there twice`},
		{"filter twice", `{"node": "a", "command": "x", "node": "b"}`, asJSON, 400, `field \"node\" is there twice`},
		{"names twice", `{"command": "x", "nodes": ["a"], "nodes": ["b"]}`, asJSON, 400, `field \"nodes\" is there twice`},
		{"command in capitals", `{"COMMAND": "x"}`, asJSON, 400, `no field \"COMMAND\"`},
		{"filter in another case", `{"command": "x", "Node": "a"}`, asJSON, 400, `no field \"Node\"`},
		{"names with a long s", `{"command": "x", "nodeſ": ["a"]}`, asJSON, 400, "no field"},
		{"comma", `{"command": "x", "nodes": ["b", "a,b"]}`, asJSON, 400, `name 2 of 2, \"a,b\", has a comma`},
		{"space", `{"command": "x", "nodes": ["a b"]}`, asJSON, 400, `name 1 of 1, \"a b\", has a comma or a space`},
		{"newline", `{"command": "x", "nodes": ["a\n"]}`, asJSON, 400, `has a comma or a space`},
		{"one name", `{"command": "x", "nodes": "a"}`, asJSON, 400, "nodes: json: cannot unmarshal string"},
		{"no filter", `{"command": "x", "node": ""}`, asJSON, 400, "node is empty or null"},
		{"null filter", `{"command": "x", "node": null}`, asJSON, 400, "node is empty or null"},
		{"null", `null`, asJSON, 400, "no command"},
		{"both", `{"command": "", "node": "web-("}`, asJSON, 400, `missing closing ): ` + "`web-(`" + `\nconsulexec: no command`},
		{"field", `{"command": "x", "nodez": []}`, asJSON, 400, "nodez"},
		{"type", `{"command": 1}`, asJSON, 400, "command"},
		{"not JSON", `command=x`, asJSON, 400, "read the request"},
		{"empty", ``, asJSON, 400, "EOF"},
		{"two values", `{"command": "x"} {}`, asJSON, 400, "more than one JSON value"},
		{"large", `{"command": "` + strings.Repeat("x", maxBody) + `"}`, asJSON, 413, "too large"},
		{"form", `command=x`, []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, "application/json"},
		{"text", `{"command": "x"}`, []string{"Content-Type", "text/plain"}, 415, "application/json"},
		{"no type", `{"command": "x"}`, nil, 415, "application/json"},
	} {
		status, text := request(t, "POST", s.web.URL+"/runs", test.body, test.header...)
		var answer struct{ Error string }
		if err := json.Unmarshal([]byte(text), &answer); err != nil || answer.Error == "" || status != test.status || !strings.Contains(text, test.want) {
			t.Errorf("%s: status %d: %s", test.name, status, text)
		}
	}
	for _, test := range []struct{ method, path string }{{"GET", "/runs/nobody/events"}, {"DELETE", "/runs/nobody"}, {"GET", "/nothing"}} {
		if status, _ := request(t, test.method, s.web.URL+test.path, ""); status != http.StatusNotFound {
			t.Errorf("%s %s: status %d", test.method, test.path, status)
		}
	}
	s.checkNothingRan(t)
}

func (s *service) checkNothingRan(t *testing.T) {
	t.Helper()
	for _, r := range s.cluster.Requests() {
		t.Errorf("%s %s", r.Method, r.Path)
	}
}

// TestFields has runs that match no node. Their errors must name the fields of
// the order, not the options of the library.
func TestFields(t *testing.T) {
	s := start(t, exectest.Node("a"))
	for _, test := range []struct {
		order
		want string
	}{
		{order{Command: "x", Node: "^none"}, `(node="^none")`},
		{order{Command: "x", Node: `WithNodes\("x"\)$`}, `(node="WithNodes\\(\"x\"\\)$")`},
		{order{Command: "x", Node: "^none", Nodes: nodeNames{"a", "b"}}, `(nodes=2 names, node="^none")`},
	} {
		run := begin(t, s.web.URL, test.order)
		if e := read(t, run, "").until("end"); !strings.HasSuffix(e.Error, test.want) {
			t.Errorf("the end: %s, want %s", e.Error, test.want)
		}
		_, text := request(t, "GET", s.web.URL+"/runs", "")
		var answer struct{ Runs []summary }
		if err := json.Unmarshal([]byte(text), &answer); err != nil || !strings.HasSuffix(answer.Runs[0].Error, test.want) {
			t.Errorf("the list: %s, want %s", text, test.want)
		}
	}
}
