package main

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/consulexec/consulexec/exectest"
)

// TestMetrics looks at the metrics and the list during a run and after it.
func TestMetrics(t *testing.T) {
	goOn := make(chan struct{})
	s := start(t,
		exectest.Node("web-1", exectest.Run(exectest.Answer("fine\n", 0))),
		exectest.Node("web-2", exectest.Run(exectest.Answer("failed\n", 3))),
		exectest.Node("web-3", exectest.Run(func(ctx context.Context, j *exectest.Job) int {
			select {
			case <-goOn:
			case <-ctx.Done():
			}
			return 0
		})),
		exectest.Node("mute", exectest.ExecDisabled()))
	metrics := func(want ...string) {
		t.Helper()
		status, text := request(t, "GET", s.web.URL+"/metrics", "")
		for _, line := range want {
			if status != http.StatusOK || !strings.Contains("\n"+text, "\n"+line+"\n") {
				t.Errorf("status %d, no line %q in\n%s", status, line, text)
			}
		}
	}
	type listed struct {
		ID, Command, Node, State, Error string
		Nodes                           []string
		Started, Ended                  string
		Counts                          tally
		OutputBytes                     int64 `json:"output_bytes"`
	}
	list := func() []listed {
		t.Helper()
		var answer struct{ Runs []listed }
		status, text := request(t, "GET", s.web.URL+"/runs", "")
		if err := json.Unmarshal([]byte(text), &answer); status != http.StatusOK || answer.Runs == nil || err != nil {
			t.Fatalf("status %d, %v: %s", status, err, text)
		}
		return answer.Runs
	}

	if runs := list(); len(runs) != 0 {
		t.Errorf("before: %+v", runs)
	}
	metrics("consulexec_runs 0", "consulexec_runs_started_total 0")

	run := begin(t, s.web.URL, order{Command: "anything", Node: "^web|mute", Nodes: []string{"web-1", "web-2", "web-3", "mute"}})
	r := read(t, run, "")
	for n := 0; n < 2; {
		if e, _ := r.next(); e.Type == "exit" {
			n++
		}
	}
	metrics("consulexec_runs 1", "consulexec_runs_started_total 1", "consulexec_event_readers 1")
	runs := list()
	if len(runs) != 1 || runs[0].State != "running" || runs[0].Command != "anything" || runs[0].Node != "^web|mute" || len(runs[0].Nodes) != 4 ||
		runs[0].Started == "" || runs[0].Ended != "" || !strings.HasSuffix(run, runs[0].ID) {
		t.Errorf("during: %+v", runs)
	} else if c := runs[0].Counts; c.Expected != 4 || c.Running != 1 || c.Succeeded != 1 || c.Failed < 1 || c.Failed > 2 {
		t.Errorf("during: %+v", c)
	}

	r.until("no_response")
	if c := list()[0].Counts; c != (tally{4, 1, 1, 2}) {
		t.Errorf("without a response: %+v", c)
	}
	close(goOn)
	r.until("end")
	second := begin(t, s.web.URL, order{Command: "another", Nodes: []string{"web-1"}})
	read(t, second, "").until("end")
	s.running.Wait()
	runs = list()
	if len(runs) != 2 || runs[0].Command != "another" || runs[0].State != "succeeded" || runs[0].Error != "" || runs[1].State != "failed" ||
		!strings.Contains(runs[1].Error, "web-2: exit status 3") || runs[1].Ended == "" || runs[1].OutputBytes != 12 || runs[1].Counts != (tally{4, 0, 2, 2}) {
		t.Errorf("after: %+v", runs)
	}
	metrics("consulexec_runs 0", `consulexec_runs_ended_total{result="failed"} 1`, `consulexec_runs_ended_total{result="succeeded"} 1`,
		`consulexec_nodes_total{outcome="exited"} 3`, `consulexec_nodes_total{outcome="failed"} 1`, `consulexec_nodes_total{outcome="no_response"} 1`,
		"consulexec_output_bytes_total 17", "consulexec_output_dropped_bytes_total 0", "consulexec_run_duration_seconds_count 2",
		`consulexec_http_requests_total{code="201",method="post"} 2`)
}

func TestTargets(t *testing.T) {
	s := start(t, exectest.Node("web-1"), exectest.Node("web-2"), exectest.Node("db-1"))
	for body, want := range map[string]string{
		`{"command": "x"}`:                             `{"nodes":["db-1","web-1","web-2"]}`,
		`{"command": "x", "node": "^web"}`:             `{"nodes":["web-1","web-2"]}`,
		`{"command": "x", "node": "^none"}`:            `{"nodes":[],"error":"consulexec: no matching node is alive (node=\"^none\")"}`,
		`{"command": "x", "nodes": ["web-1", "gone"]}`: `{"nodes":["web-1"],"error":"consulexec: node gone`,
		`{"command": "x", "nodes": []}`:                `{"error":"read the request: nodes is empty`,
		`{"command": ""}`:                              `{"error":"consulexec: no command`,
	} {
		if status, text := request(t, "POST", s.web.URL+"/targets", body, asJSON...); !strings.HasPrefix(text, strings.TrimSuffix(want, "}")) {
			t.Errorf("%s: status %d: %s, want %s", body, status, text, want)
		}
	}
	for _, node := range []string{"web-1", "web-2", "db-1"} {
		if n := s.cluster.Executions(node); n > 0 {
			t.Errorf("%s ran %d commands", node, n)
		}
	}
}
