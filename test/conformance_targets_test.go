package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/internal/runtest"
)

// conformFilters checks which nodes the filters select.
func conformFilters(t *testing.T, c cluster) {
	for _, test := range []struct {
		node, service, tag string
		want               string
	}{
		{node: "^web-", want: "web-1 web-2"},
		{node: "1$", service: "web", want: "web-1"},
		{node: "b-", want: "db-1 web-1 web-2"}, // not anchored
		{service: "web-", want: "web-1 web-2"}, // the ID
		{service: "^(pg|web-b)$", want: "db-1 web-2"},
		{service: "web", tag: "v1", want: "web-1 web-2"},
		{service: "web", tag: "^gre", want: "web-2"},
		{service: ".", tag: "primary", want: "db-1"},
		{service: "", node: "^web-2$", want: "web-2"},
	} {
		t.Run(fmt.Sprintf("node=%s,service=%s,tag=%s", test.node, test.service, test.tag), func(t *testing.T) {
			options := []consulexec.Option{consulexec.WithNode(test.node), consulexec.WithService(test.service)}
			if test.tag != "" {
				options = append(options, consulexec.WithTag(test.tag))
			}
			_, result, err := c.execute(t, "true", options...)
			if err != nil || result.Err() != nil {
				t.Errorf("error %v, result %v", err, result.Err())
			}
			var names []string
			for _, n := range result.Nodes {
				names = append(names, n.Node)
			}
			if got := strings.Join(names, " "); got != test.want {
				t.Errorf("ran on %q, want %q", got, test.want)
			}
		})
	}
}

// conformLongFilter checks that New accepts a filter if gossip does. An event
// grows by up to four bytes as a cluster ages, so New allows for them.
func conformLongFilter(t *testing.T, c cluster) {
	long := func(length int) consulexec.Option {
		return consulexec.WithNode("^(web-2|" + strings.Repeat("x", length-len("^(web-2|)$")) + ")$")
	}
	limit := 400
	for ; limit > 0; limit-- {
		if _, err := consulexec.New("x", c.reach, long(limit)); err == nil {
			break
		}
	}
	if limit < 300 {
		t.Fatalf("New accepts filters of up to %d bytes, want at least 300", limit)
	}
	_, result, err := c.execute(t, "true", long(limit-2))
	if got, want := runtest.States(result), "web-2: exit 0"; err != nil || got != want {
		t.Errorf("filter of %d bytes: error %v, states %s", limit-2, err, got)
	}
	q := "?node=" + strings.Repeat("x", limit+1)
	body := fmt.Sprintf(`{"Prefix":"_rexec","Session":"%036d"}`, 0)
	if _, err := c.client.Raw().Write("/v1/event/fire/_rexec"+q, json.RawMessage(body), nil, nil); err == nil {
		t.Errorf("Consul accepts a filter of %d bytes, but New does not", limit+1)
	}
}

// conformNames runs on named nodes, alone and with filters, with and without
// the catalog.
func conformNames(t *testing.T, c cluster) {
	rec, result, err := c.execute(t, "true", consulexec.WithNodes("web-2", "web.1", "db-1", "web-2"), consulexec.WithAckTimeout(time.Minute))
	if got, want := runtest.States(result), "db-1: exit 0, web-2: exit 0, web.1: no response"; err != nil || got != want {
		t.Errorf("error %v, states %s, want %s", err, got, want)
	}
	if n, _ := result.Node("web.1"); n.Err == nil || !strings.Contains(n.Err.Error(), "the catalog has no such agent") {
		t.Errorf("web.1: %v", n.Err)
	}
	if took := result.Nodes[0].Acked.Sub(rec.Start); took > 30*time.Second {
		t.Errorf("took %v, as if the run waited for the ack timeout", took)
	}
	if rec.Calls[1] != "no-response web.1" {
		t.Errorf("callbacks %v, want no-response web.1 as the second", rec.Calls)
	}

	_, result, err = c.execute(t, "true", consulexec.WithNodes("web-1", "web-2", "db-1"), consulexec.WithNode("^web"), consulexec.WithService("."), consulexec.WithTag("green"))
	if got, want := runtest.States(result), "web-2: exit 0"; err != nil || got != want {
		t.Errorf("with filters: error %v, states %s, want %s", err, got, want)
	}
	_, result, err = c.execute(t, "true", consulexec.WithNodes("web", "web-"))
	if got, want := runtest.States(result), "web: no response, web-: no response"; !errors.Is(err, consulexec.ErrNoTargets) || got != want {
		t.Errorf("nobody: error %v, states %s", err, got)
	}
	_, result, err = c.execute(t, "true", consulexec.WithNodes("web-1", "nobody"), consulexec.WithoutDiscovery(), consulexec.WithAckTimeout(time.Second))
	if got, want := runtest.States(result), "nobody: no response, web-1: exit 0"; err != nil || got != want {
		t.Errorf("without the catalog: error %v, states %s, want %s", err, got, want)
	}
}

// conformNothingMatches selects no node, in several ways.
func conformNothingMatches(t *testing.T, c cluster) {
	for _, options := range [][]consulexec.Option{
		{consulexec.WithNode("^nobody$")},
		{consulexec.WithService("^nothing$")},
		{consulexec.WithService("^consul$")},   // in the catalog only
		{consulexec.WithService("^postgres$")}, // a name, not an ID
		{consulexec.WithService("pg"), consulexec.WithTag("^prim$")},
		{consulexec.WithDatacenter("dc2"), consulexec.WithNode("^web-1$")},
		{consulexec.WithNode("^nobody$"), consulexec.WithMinNodes(1)},
	} {
		rec, result, err := c.execute(t, "true", options...)
		if !errors.Is(err, consulexec.ErrNoTargets) || !errors.Is(result.Err(), consulexec.ErrNoTargets) {
			t.Errorf("error %v, result %v", err, result.Err())
		}
		if !slices.Equal(rec.Calls, []string{"error"}) {
			t.Errorf("callbacks %v, want error only", rec.Calls)
		}
	}
}

// conformExecDisabled runs on a node whose agent has remote exec disabled.
func conformExecDisabled(t *testing.T, c cluster) {
	rec, result, err := c.execute(t, "true", consulexec.WithNode("^(web-1|off-1)$"), consulexec.WithAckTimeout(2*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := runtest.States(result), "off-1: no response, web-1: exit 0"; got != want {
		t.Errorf("states %s, want %s", got, want)
	}
	if rec.Count("no-response off-1") != 1 {
		t.Errorf("callbacks %v, want one no-response off-1", rec.Calls)
	}
	var failed *consulexec.NodeError
	if !errors.As(result.Err(), &failed) || failed.Node != "off-1" || failed.State != consulexec.StateNoResponse {
		t.Errorf("result %v, want the error of off-1", result.Err())
	}
}

// conformMinNodes waits for as many nodes as there are, and for more.
func conformMinNodes(t *testing.T, c cluster) {
	_, result, err := c.execute(t, "true", answering, consulexec.WithMinNodes(3))
	if err != nil || result.Err() != nil {
		t.Errorf("error %v, result %v", err, result.Err())
	}
	_, result, err = c.execute(t, "true", answering, consulexec.WithMinNodes(5), consulexec.WithAckTimeout(time.Second))
	if err != nil || result.Err() == nil || !strings.Contains(result.Err().Error(), "2 are missing") {
		t.Errorf("error %v, result %v", err, result.Err())
	}
}

// conformWithoutDiscovery runs without the catalog. Silence, or enough nodes,
// end the run.
func conformWithoutDiscovery(t *testing.T, c cluster) {
	silent := []consulexec.Option{consulexec.WithoutDiscovery(), consulexec.WithWait(time.Second)}
	_, result, err := c.execute(t, "sleep 2", append(silent, answering)...)
	if err != nil || result.Err() != nil || !errors.Is(result.DiscoveryErr, consulexec.ErrDiscoveryOff) {
		t.Errorf("error %v, result %v, discovery %v", err, result.Err(), result.DiscoveryErr)
	}
	if got, want := runtest.States(result), "db-1: exit 0, web-1: exit 0, web-2: exit 0"; got != want {
		t.Errorf("states %s, want %s", got, want)
	}
	rec, result, err := c.execute(t, "true", append(silent, consulexec.WithNode("^nobody$"))...)
	if !errors.Is(err, consulexec.ErrNoTargets) || len(result.Nodes) != 0 {
		t.Errorf("nobody answers: error %v, nodes %v", err, result.Nodes)
	}
	if !slices.Equal(rec.Calls, []string{"submit", "error"}) {
		t.Errorf("callbacks %v, want submit and error", rec.Calls)
	}
	_, result, err = c.execute(t, "true", append(silent, answering, consulexec.WithMinNodes(3), consulexec.WithWait(time.Hour))...)
	if err != nil || result.Err() != nil || len(result.Nodes) != 3 {
		t.Errorf("error %v, result %v, nodes %v", err, result.Err(), result.Nodes)
	}
}

// conformDatacenters runs in each datacenter, and in one that does not exist.
func conformDatacenters(t *testing.T, c cluster) {
	for dc, want := range map[string]string{
		"dc1": "db-1: exit 0, web-1: exit 0, web-2: exit 0",
		"dc2": "far-1: exit 0, far-2: exit 0",
	} {
		_, result, err := c.execute(t, "echo here", consulexec.WithDatacenter(dc), consulexec.WithNode("[^f]-"))
		if err != nil || result.Err() != nil {
			t.Errorf("%s: error %v, result %v", dc, err, result.Err())
		}
		if got := runtest.States(result); got != want {
			t.Errorf("%s: states %s, want %s", dc, got, want)
		}
	}
	_, _, err := c.execute(t, "true", consulexec.WithDatacenter("atlantis"))
	if err == nil || !strings.Contains(err.Error(), `"atlantis"`) {
		t.Errorf("unknown datacenter: error %v", err)
	}
}

// conformRunDatacenters runs in both datacenters at once, and in one that does
// not exist.
func conformRunDatacenters(t *testing.T, c cluster) {
	recs := runtest.NewRecorders(t, c.client)
	recs.Reach = c.reach
	datacenters := []string{"dc2", "atlantis", "dc1"}
	results, err := consulexec.RunDatacenters(t.Context(), datacenters, "echo here; sleep 1", recs.Options(consulexec.WithNode("[^f]-")))
	if err == nil || !strings.HasPrefix(err.Error(), `datacenter "atlantis": `) {
		t.Errorf("error %v", err)
	}
	for i, want := range []string{
		"far-1: exit 0, far-2: exit 0",
		"",
		"db-1: exit 0, web-1: exit 0, web-2: exit 0",
	} {
		recs.Check(datacenters[i], results[i], map[bool]error{true: err}[i == 1])
		if got := runtest.States(results[i]); got != want {
			t.Errorf("%s: states %s, want %s", datacenters[i], got, want)
		}
		for _, n := range results[i].Nodes {
			if string(n.Output) != "here\n" {
				t.Errorf("%s: output %q", n.Node, n.Output)
			}
		}
	}
	if len(results) == 3 && results[0].Nodes[0].Acked.After(results[2].Nodes[0].Exited) {
		t.Error("dc2 began after dc1 had ended")
	}
}

// conformConcurrency checks how many nodes run the command at once, and in
// which order.
func conformConcurrency(t *testing.T, c cluster) {
	for n, options := range map[int][]consulexec.Option{
		1: {consulexec.WithConcurrency(1), answering},
		2: {consulexec.WithConcurrencyPercent(70), answering},
		3: {consulexec.WithConcurrency(3), consulexec.WithNodes("web-2", "web-1", "db-1")},
	} {
		command, most := busy(t, n)
		rec, result, err := c.execute(t, command, options...)
		if got, want := runtest.States(result), "db-1: exit 0, web-1: exit 0, web-2: exit 0"; err != nil || result.Err() != nil || got != want {
			t.Errorf("%d at once: error %v, states %s", n, err, got)
		}
		if got := most(); got != n {
			t.Errorf("%d nodes ran the command at once, want %d", got, n)
		}
		if n == 1 && !slices.IsSorted(rec.Acks()) {
			t.Errorf("order %v is not by name", rec.Acks())
		}
	}
	rec, _, err := c.execute(t, "true", consulexec.WithConcurrency(1), consulexec.WithNodes("web-2", "db-1", "web-1"))
	if got, want := rec.Acks(), []string{"web-2", "db-1", "web-1"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("error %v, order %v, want %v", err, got, want)
	}
}

// conformMaxFailures checks which nodes are skipped after failures.
func conformMaxFailures(t *testing.T, c cluster) {
	_, result, err := c.execute(t, "exit 3", consulexec.WithConcurrency(1), consulexec.WithMaxFailures(2), consulexec.WithNodes("web-2", "db-1", "web-1"))
	if got, want := runtest.States(result), "db-1: exit 3, web-1: skipped, web-2: exit 3"; err != nil || got != want {
		t.Errorf("error %v, states %s, want %s", err, got, want)
	}
	if err := result.Err(); err == nil || !strings.Contains(err.Error(), "2 failed, and 1 skipped: WithMaxFailures(2)") {
		t.Errorf("result %v", err)
	}
	rec, result, err := c.execute(t, "true", consulexec.WithMaxFailures(1), consulexec.WithNodes("web-2", "nobody"))
	if got, want := runtest.States(result), "nobody: no response, web-2: skipped"; err != nil || result.Err() == nil || got != want {
		t.Errorf("an absent node: error %v, states %s, want %s, callbacks %v", err, got, want, rec.Calls)
	}
}
