package main

import (
	"errors"
	"slices"
	"testing"
	"time"
)

// TestMeasureAtOnce measures a few runs at once of every client on real nodes.
func TestMeasureAtOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("starts real Consul agents")
	}
	t.Parallel()
	w := work{Name: "4runs", Nodes: 3, Real: true, AtOnce: 4}
	o := options{runs: 1}
	r, err := measureWork(t.Context(), w, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, client := range []string{ownClient, withClient, consulExec} {
		if len(r[client]) != 1 {
			t.Fatalf("%s: %d measurements, want 1", client, len(r[client]))
		}
		m := r[client][0]
		for _, p := range m.problems {
			t.Errorf("%s: %s", client, p)
		}
		if m.whole != w.AtOnce || m.atOnce != w.AtOnce {
			t.Errorf("%s: %d of %d runs are whole", client, m.whole, m.atOnce)
		}
		if m.allEnded < 3*time.Second || m.behind <= 0 || m.longestBehind < m.behind || m.longestBehind > m.allEnded-3*time.Second {
			t.Errorf("%s: all ended after %v, behind %v, %v at most", client, m.allEnded, m.behind, m.longestBehind)
		}
		// Each run creates and destroys a session and waits for its keys.
		if m.connections < w.AtOnce || m.requests[sessions] < 2*int64(w.AtOnce) || m.clientCPU <= 0 || m.wire <= 0 {
			t.Errorf("%s: %d connections, requests %v, %v of CPU a run, %d bytes", client, m.connections, m.requests, m.clientCPU, m.wire)
		}
	}
	if rows := makeRows(w, r); len(rows) != 3 || rows[0].figures[0] != "4 of 4" {
		t.Errorf("rows %+v, want one for each client", rows)
	}
}

// TestSummarizeAtOnce counts runs that are not whole, and processes that ended
// without a report.
func TestSummarizeAtOnce(t *testing.T) {
	begun := time.Now()
	after := func(d time.Duration) time.Time { return begun.Add(d * time.Second) }
	r, err := newRelay("127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	b := &bench{work: work{AtOnce: 5}, relay: r}
	m := b.summarizeAtOnce([]*process{
		{cpu: 10 * time.Second, started: begun, exited: after(30), reports: []report{
			{Started: after(1), LastCommand: after(2), Returned: after(3)},
			{Started: after(1), LastCommand: after(2), Returned: after(6)},
			{Started: after(1), LastCommand: after(2), Returned: after(4)},
			{Started: after(1), LastCommand: after(2), Returned: after(20), Problems: []string{"odd"}, Err: "wrong\ntwice"},
		}},
		{cpu: 5 * time.Second, started: after(1), exited: after(5), failure: errors.New("killed")},
	})
	if m.whole != 3 || m.allEnded != 19*time.Second || m.behind != 2*time.Second || m.longestBehind != 4*time.Second || m.clientCPU != 3*time.Second {
		t.Errorf("measured %+v", m)
	}
	if want := []string{"1 runs: killed", "1 runs: odd; wrong; twice"}; !slices.Equal(m.problems, want) {
		t.Errorf("problems %q, want %q", m.problems, want)
	}
}

func TestCommonest(t *testing.T) {
	got := commonest([]string{"d", "b", "c", "a", "b", "c", "c"})
	if want := []string{"3 runs: c", "2 runs: b", "1 runs: a"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
