package consulexec_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
	"github.com/consulexec/consulexec/internal/consul"
	"github.com/consulexec/consulexec/internal/devcluster"
)

// TestConformance runs the same tests on exectest and on real agents. In both,
// dc1 has the nodes web-1 and web-2 with a service each, db-1 with another, and
// off-1, whose agent does not take part in remote exec; dc2 has far-1 and far-2.
// web-1 and far-1 are the servers.
func TestConformance(t *testing.T) {
	t.Run("exectest", func(t *testing.T) {
		t.Parallel()
		srv := exectest.NewServer(
			exectest.Node("web-1", exectest.WithNamedService("web-a", "web", "blue", "v1")),
			exectest.Node("web-2", exectest.WithNamedService("web-b", "web", "green", "v1")),
			exectest.Node("db-1", exectest.WithNamedService("pg", "postgres", "primary")),
			exectest.Node("off-1", exectest.ExecDisabled()),
			exectest.Datacenter("dc2", exectest.Node("far-1"), exectest.Node("far-2")),
		)
		t.Cleanup(srv.Close)
		conform(t, srv.Client())
	})
	if testing.Short() {
		return
	}
	t.Run("consul", func(t *testing.T) {
		t.Parallel()
		service := func(id, name string, tags ...string) []devcluster.Service {
			return []devcluster.Service{{ID: id, Name: name, Tags: tags}}
		}
		cluster := devcluster.Start(t, devcluster.Config{Nodes: []devcluster.Node{
			{Name: "web-1", Server: true, Services: service("web-a", "web", "blue", "v1")},
			{Name: "web-2", Services: service("web-b", "web", "green", "v1")},
			{Name: "db-1", Services: service("pg", "postgres", "primary")},
			{Name: "off-1", ExecDisabled: true},
			{Name: "far-1", Datacenter: "dc2", Server: true},
			{Name: "far-2", Datacenter: "dc2"},
		}})
		conform(t, ownClient(t, cluster.Address("web-1")))
	})
}

// ownClient returns a client like those of New's own making.
func ownClient(t *testing.T, address string) *api.Client {
	transport := new(http.Transport)
	t.Cleanup(transport.CloseIdleConnections)
	httpClient := &http.Client{Transport: transport}
	client, err := api.NewClient(&api.Config{Address: address, HttpClient: httpClient})
	if err != nil {
		t.Fatal(err)
	}
	consul.InterceptBodies(httpClient)
	return client
}

// answering are the nodes of dc1 that answer.
var answering = consulexec.WithNode("^(web|db)-")

func conform(t *testing.T, client *api.Client) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, *api.Client)
	}{
		{"Callbacks", conformCallbacks},
		{"Kinds", conformKinds},
		{"Output", conformOutput},
		{"LongOutput", conformLongOutput},
		{"MuchOutput", conformMuchOutput},
		{"ExitCodes", conformExitCodes},
		{"Heartbeats", conformHeartbeats},
		{"Filters", conformFilters},
		{"LongFilter", conformLongFilter},
		{"Names", conformNames},
		{"Concurrency", conformConcurrency},
		{"MaxFailures", conformMaxFailures},
		{"ExecDisabled", conformExecDisabled},
		{"Datacenters", conformDatacenters},
		{"MinNodes", conformMinNodes},
		{"NothingMatches", conformNothingMatches},
		{"WithoutDiscovery", conformWithoutDiscovery},
		{"Cancelled", conformCancelled},
		{"Panic", conformPanic},
		{"Prefix", conformPrefix},
		{"SessionLost", conformSessionLost},
		{"OnLine", conformOnLine},
		{"Events", conformEvents},
		{"Groups", conformGroups},
		{"RunDatacenters", conformRunDatacenters},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, client)
		})
	}
}

func conformCallbacks(t *testing.T, client *api.Client) {
	rec, result, err := execute(t, client, "uptime", answering)
	if err != nil || result.Err() != nil {
		t.Fatalf("error %v, result %v", err, result.Err())
	}
	if got, want := states(result), "db-1: exit 0, web-1: exit 0, web-2: exit 0"; got != want {
		t.Errorf("states %s, want %s", got, want)
	}
	slices.Sort(rec.calls)
	want := []string{
		"ack db-1", "ack web-1", "ack web-2", "done",
		"exit db-1 0", "exit web-1 0", "exit web-2 0",
		"output db-1", "output web-1", "output web-2", "submit",
	}
	if !slices.Equal(rec.calls, want) {
		t.Errorf("calls %v, want %v", rec.calls, want)
	}
	for node, output := range rec.output {
		if !strings.Contains(string(output), "load average") {
			t.Errorf("output of %s: %q", node, output)
		}
	}
	if result.DiscoveryErr != nil {
		t.Errorf("discovery: %v", result.DiscoveryErr)
	}
}

// one runs on one node and returns what it printed and how it ended.
func one(t *testing.T, client *api.Client, command string, options ...consulexec.Option) (output string, code int) {
	t.Helper()
	_, result, err := execute(t, client, command, append(options, consulexec.WithNode("^web-2$"))...)
	if err != nil {
		t.Fatal(err)
	}
	n, ok := result.Node("web-2")
	if !ok || n.State != consulexec.StateExited {
		t.Fatalf("states %s", states(result))
	}
	if (n.ExitCode == 0) != (result.Err() == nil) {
		t.Errorf("exit status %d, but error %v", n.ExitCode, result.Err())
	}
	return string(n.Output), n.ExitCode
}

func conformKinds(t *testing.T, client *api.Client) {
	for _, test := range []struct {
		name    string
		command string
		options []consulexec.Option
		want    string
	}{
		{"command", `echo a   "b   c" '$HOME' | cat; echo '<&>' >&2`, nil, "a b   c $HOME\n<&>\n"},
		{"args", "", []consulexec.Option{consulexec.WithArgs("printf", "%s|", "a  b", "$HOME", "", "*", "ü")}, "a  b|$HOME||*|ü|"},
		{"script", "", []consulexec.Option{consulexec.WithScript([]byte("#!/bin/sh\nfor i in 1 2 3; do\n\techo $i\ndone\n"))}, "1\n2\n3\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got, code := one(t, client, test.command, test.options...); got != test.want || code != 0 {
				t.Errorf("output %q, exit status %d, want %q", got, code, test.want)
			}
		})
	}
}

func conformOutput(t *testing.T, client *api.Client) {
	for _, test := range []struct{ name, command, want string }{
		{"none", "true", ""},
		{"no newline", "printf abc", "abc"},
		{"bytes", `printf 'a\000b\377\r\n'`, "a\x00b\xff\r\n"},
		{"split UTF-8", `printf 'caf\303'; sleep 1; printf '\251'`, "café"}, // flushed after 0.5 s
		{"two streams", "echo 1; echo 2 >&2; echo 3", "1\n2\n3\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got, code := one(t, client, test.command); got != test.want || code != 0 {
				t.Errorf("output %q, exit status %d, want %q", got, code, test.want)
			}
		})
	}
}

func conformLongOutput(t *testing.T, client *api.Client) {
	const lines = 170_000
	var want strings.Builder
	for i := range lines {
		fmt.Fprintln(&want, i+1)
	}
	if want.Len() < 1<<20 {
		t.Fatalf("only %d bytes", want.Len())
	}
	if got, code := one(t, client, fmt.Sprint("seq ", lines)); got != want.String() || code != 0 {
		t.Errorf("%d bytes of output, exit status %d, want %d bytes", len(got), code, want.Len())
	}
}

func conformExitCodes(t *testing.T, client *api.Client) {
	for _, test := range []struct {
		command string
		args    []string
		want    int
	}{
		{command: "exit 0"},
		{command: "echo x; exit 3", want: 3},
		{command: "exit 255", want: 255},
		{command: "kill -9 $$", want: -1},
		{command: "no-such-command-here", want: 127},
		{args: []string{"no-such-command-here"}, want: 255},
		{args: []string{"false"}, want: 1},
	} {
		t.Run(fmt.Sprint(test.command, test.args), func(t *testing.T) {
			var options []consulexec.Option
			if test.args != nil {
				options = append(options, consulexec.WithArgs(test.args...))
			}
			if _, code := one(t, client, test.command, options...); code != test.want {
				t.Errorf("exit status %d, want %d", code, test.want)
			}
		})
	}
}

func conformHeartbeats(t *testing.T, client *api.Client) {
	rec, result, err := execute(t, client, "sleep 2; echo up", answering, consulexec.WithWait(300*time.Millisecond), consulexec.WithLostTimeout(time.Minute))
	if err != nil || result.Err() != nil {
		t.Fatalf("error %v, result %v", err, result.Err())
	}
	for _, node := range []string{"db-1", "web-1", "web-2"} {
		if n := rec.count("heartbeat " + node); n < 3 || n > 7 {
			t.Errorf("%d heartbeats from %s in 2 s, one each 0.3 s", n, node)
		}
		if string(rec.output[node]) != "up\n" {
			t.Errorf("output %q", rec.output[node])
		}
	}
}

func conformFilters(t *testing.T, client *api.Client) {
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
			_, result, err := execute(t, client, "true", options...)
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

// conformLongFilter checks that New takes what gossip does. In clusters where much
// has happened an event is up to four bytes longer; some leeway is for that.
func conformLongFilter(t *testing.T, client *api.Client) {
	long := func(length int) consulexec.Option {
		return consulexec.WithNode("^(web-2|" + strings.Repeat("x", length-len("^(web-2|)$")) + ")$")
	}
	limit := 400
	for ; limit > 0; limit-- {
		if _, err := consulexec.New("x", consulexec.WithClient(client), long(limit)); err == nil {
			break
		}
	}
	if limit < 300 {
		t.Fatalf("New takes filters of %d bytes", limit)
	}
	_, result, err := execute(t, client, "true", long(limit-2))
	if got, want := states(result), "web-2: exit 0"; err != nil || got != want {
		t.Errorf("%d bytes: error %v, states %s", limit-2, err, got)
	}
	q := "?node=" + strings.Repeat("x", limit+1)
	body := fmt.Sprintf(`{"Prefix":"_rexec","Session":"%036d"}`, 0)
	if _, err := client.Raw().Write("/v1/event/fire/_rexec"+q, json.RawMessage(body), nil, nil); err == nil {
		t.Errorf("Consul takes %d bytes, and New does not", limit+1)
	}
}

func conformNames(t *testing.T, client *api.Client) {
	rec, result, err := execute(t, client, "true", consulexec.WithNodes("web-2", "web.1", "db-1", "web-2"), consulexec.WithAckTimeout(time.Minute))
	if got, want := states(result), "db-1: exit 0, web-2: exit 0, web.1: no response"; err != nil || got != want {
		t.Errorf("error %v, states %s, want %s", err, got, want)
	}
	if n, _ := result.Node("web.1"); n.Err == nil || !strings.Contains(n.Err.Error(), "the catalog has no such agent") {
		t.Errorf("web.1: %v", n.Err)
	}
	if took := result.Nodes[0].Acked.Sub(rec.start); took > 30*time.Second {
		t.Errorf("took %v: the ack timeout was waited for", took)
	}
	if rec.calls[1] != "no-response web.1" {
		t.Errorf("calls %v", rec.calls)
	}

	_, result, err = execute(t, client, "true", consulexec.WithNodes("web-1", "web-2", "db-1"), consulexec.WithNode("^web"), consulexec.WithService("."), consulexec.WithTag("green"))
	if got, want := states(result), "web-2: exit 0"; err != nil || got != want {
		t.Errorf("with filters: error %v, states %s, want %s", err, got, want)
	}
	_, result, err = execute(t, client, "true", consulexec.WithNodes("web", "web-"))
	if got, want := states(result), "web: no response, web-: no response"; !errors.Is(err, consulexec.ErrNoTargets) || got != want {
		t.Errorf("nobody: error %v, states %s", err, got)
	}
	_, result, err = execute(t, client, "true", consulexec.WithNodes("web-1", "nobody"), consulexec.WithoutDiscovery(), consulexec.WithAckTimeout(time.Second))
	if got, want := states(result), "nobody: no response, web-1: exit 0"; err != nil || got != want {
		t.Errorf("without the catalog: error %v, states %s, want %s", err, got, want)
	}
}

// busy is a command that says in a file when it begins and ends on each node.
func busy(t *testing.T) (command string, most func() int) {
	file := filepath.Join(t.TempDir(), "marks")
	return fmt.Sprintf("echo begin >>%[1]s; sleep 0.4; echo end >>%[1]s", file), func() int {
		marks, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		running, most := 0, 0
		for mark := range strings.FieldsSeq(string(marks)) {
			if mark == "begin" {
				running++
			} else {
				running--
			}
			most = max(most, running)
		}
		return most
	}
}

func conformConcurrency(t *testing.T, client *api.Client) {
	for n, options := range map[int][]consulexec.Option{
		1: {consulexec.WithConcurrency(1), answering},
		2: {consulexec.WithConcurrencyPercent(70), answering},
		3: {consulexec.WithConcurrency(3), consulexec.WithNodes("web-2", "web-1", "db-1")},
	} {
		command, most := busy(t)
		rec, result, err := execute(t, client, command, options...)
		if got, want := states(result), "db-1: exit 0, web-1: exit 0, web-2: exit 0"; err != nil || result.Err() != nil || got != want {
			t.Errorf("%d at once: error %v, states %s", n, err, got)
		}
		if got := most(); got != n {
			t.Errorf("%d nodes ran it at once, want %d", got, n)
		}
		if n == 1 && !slices.IsSorted(rec.acks()) {
			t.Errorf("order %v is not by name", rec.acks())
		}
	}
	rec, _, err := execute(t, client, "true", consulexec.WithConcurrency(1), consulexec.WithNodes("web-2", "db-1", "web-1"))
	if got, want := rec.acks(), []string{"web-2", "db-1", "web-1"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("error %v, order %v, want %v", err, got, want)
	}
}

func conformMaxFailures(t *testing.T, client *api.Client) {
	_, result, err := execute(t, client, "exit 3", consulexec.WithConcurrency(1), consulexec.WithMaxFailures(2), consulexec.WithNodes("web-2", "db-1", "web-1"))
	if got, want := states(result), "db-1: exit 3, web-1: skipped, web-2: exit 3"; err != nil || got != want {
		t.Errorf("error %v, states %s, want %s", err, got, want)
	}
	if err := result.Err(); err == nil || !strings.Contains(err.Error(), "2 failed, and 1 skipped: WithMaxFailures(2)") {
		t.Errorf("result %v", err)
	}
	rec, result, err := execute(t, client, "true", consulexec.WithMaxFailures(1), consulexec.WithNodes("web-2", "nobody"))
	if got, want := states(result), "nobody: no response, web-2: skipped"; err != nil || result.Err() == nil || got != want {
		t.Errorf("an absent node: error %v, states %s, want %s; calls %v", err, got, want, rec.calls)
	}
}

func conformExecDisabled(t *testing.T, client *api.Client) {
	rec, result, err := execute(t, client, "true", consulexec.WithNode("^(web-1|off-1)$"), consulexec.WithAckTimeout(2*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := states(result), "off-1: no response, web-1: exit 0"; got != want {
		t.Errorf("states %s, want %s", got, want)
	}
	if rec.count("no-response off-1") != 1 {
		t.Errorf("calls %v", rec.calls)
	}
	var failed *consulexec.NodeError
	if !errors.As(result.Err(), &failed) || failed.Node != "off-1" || failed.State != consulexec.StateNoResponse {
		t.Errorf("result's error %v", result.Err())
	}
}

func conformDatacenters(t *testing.T, client *api.Client) {
	for dc, want := range map[string]string{
		"dc1": "db-1: exit 0, web-1: exit 0, web-2: exit 0",
		"dc2": "far-1: exit 0, far-2: exit 0",
	} {
		_, result, err := execute(t, client, "echo here", consulexec.WithDatacenter(dc), consulexec.WithNode("[^f]-"))
		if err != nil || result.Err() != nil {
			t.Errorf("%s: error %v, result %v", dc, err, result.Err())
		}
		if got := states(result); got != want {
			t.Errorf("%s: states %s, want %s", dc, got, want)
		}
	}
	_, _, err := execute(t, client, "true", consulexec.WithDatacenter("atlantis"))
	if err == nil || !strings.Contains(err.Error(), `"atlantis"`) {
		t.Errorf("unknown datacenter: error %v", err)
	}
}

func conformMinNodes(t *testing.T, client *api.Client) {
	_, result, err := execute(t, client, "true", answering, consulexec.WithMinNodes(3))
	if err != nil || result.Err() != nil {
		t.Errorf("error %v, result %v", err, result.Err())
	}
	_, result, err = execute(t, client, "true", answering, consulexec.WithMinNodes(5), consulexec.WithAckTimeout(time.Second))
	if err != nil || result.Err() == nil || !strings.Contains(result.Err().Error(), "2 are missing") {
		t.Errorf("error %v, result %v", err, result.Err())
	}
}

func conformNothingMatches(t *testing.T, client *api.Client) {
	for _, options := range [][]consulexec.Option{
		{consulexec.WithNode("^nobody$")},
		{consulexec.WithService("^nothing$")},
		{consulexec.WithService("^consul$")},   // in the catalog only
		{consulexec.WithService("^postgres$")}, // a name, not an ID
		{consulexec.WithService("pg"), consulexec.WithTag("^prim$")},
		{consulexec.WithDatacenter("dc2"), consulexec.WithNode("^web-1$")},
		{consulexec.WithNode("^nobody$"), consulexec.WithMinNodes(1)},
	} {
		rec, result, err := execute(t, client, "true", options...)
		if !errors.Is(err, consulexec.ErrNoTargets) || !errors.Is(result.Err(), consulexec.ErrNoTargets) {
			t.Errorf("error %v, result %v", err, result.Err())
		}
		if !slices.Equal(rec.calls, []string{"error"}) {
			t.Errorf("calls %v", rec.calls)
		}
	}
}

func conformWithoutDiscovery(t *testing.T, client *api.Client) {
	silent := []consulexec.Option{consulexec.WithoutDiscovery(), consulexec.WithWait(time.Second)}
	_, result, err := execute(t, client, "sleep 2", append(silent, answering)...)
	if err != nil || result.Err() != nil || !errors.Is(result.DiscoveryErr, consulexec.ErrDiscoveryOff) {
		t.Errorf("error %v, result %v, discovery %v", err, result.Err(), result.DiscoveryErr)
	}
	if got, want := states(result), "db-1: exit 0, web-1: exit 0, web-2: exit 0"; got != want {
		t.Errorf("states %s, want %s", got, want)
	}
	rec, result, err := execute(t, client, "true", append(silent, consulexec.WithNode("^nobody$"))...)
	if !errors.Is(err, consulexec.ErrNoTargets) || len(result.Nodes) != 0 {
		t.Errorf("nobody answers: error %v, nodes %v", err, result.Nodes)
	}
	if !slices.Equal(rec.calls, []string{"submit", "error"}) {
		t.Errorf("calls %v", rec.calls)
	}
	_, result, err = execute(t, client, "true", append(silent, answering, consulexec.WithMinNodes(3), consulexec.WithWait(time.Hour))...)
	if err != nil || result.Err() != nil || len(result.Nodes) != 3 {
		t.Errorf("error %v, result %v, nodes %v", err, result.Err(), result.Nodes)
	}
}

func conformCancelled(t *testing.T, client *api.Client) {
	t.Run("before", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		rec, result, err := executeContext(ctx, t, client, new(recorder), "true", answering)
		if !errors.Is(err, context.Canceled) || result.Session != "" || !slices.Equal(rec.calls, []string{"error"}) {
			t.Errorf("error %v, session %q, calls %v", err, result.Session, rec.calls)
		}
	})
	t.Run("during", func(t *testing.T) {
		why := errors.New("lunch")
		ctx, cancel := context.WithCancelCause(t.Context())
		rec := &recorder{hook: func(call string) {
			if call == "output web-1" {
				cancel(why)
			}
		}}
		_, result, err := executeContext(ctx, t, client, rec, "echo on; sleep 3", consulexec.WithNode("^web-1$"))
		if !errors.Is(err, context.Canceled) || !errors.Is(err, why) {
			t.Errorf("error %v", err)
		}
		if got := states(result); got != "web-1: running" || result.Err() == nil {
			t.Errorf("states %s, result %v", got, result.Err())
		}
	})
	t.Run("deadline", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, result, err := executeContext(ctx, t, client, new(recorder), "sleep 3", consulexec.WithNode("^web-1$"))
		if !errors.Is(err, context.DeadlineExceeded) || states(result) != "web-1: running" {
			t.Errorf("error %v, states %s", err, states(result))
		}
	})
	t.Run("after", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		rec := &recorder{hook: func(call string) {
			if call == "done" {
				cancel()
			}
		}}
		if _, result, err := executeContext(ctx, t, client, rec, "true", answering); err != nil || result.Err() != nil {
			t.Errorf("error %v, result %v", err, result.Err())
		}
	})
}

func conformPanic(t *testing.T, client *api.Client) {
	e, err := consulexec.New("echo x", consulexec.WithClient(client), answering,
		consulexec.OnOutput(func(string, []byte) { panic("on purpose") }))
	if err != nil {
		t.Fatal(err)
	}
	func() {
		defer func() {
			if p := recover(); p != "on purpose" {
				t.Errorf("recovered %v", p)
			}
		}()
		_, _ = e.Run(t.Context())
	}()
	result, err := e.Wait()
	if err == nil || result == nil || result.Err() == nil {
		t.Fatalf("result %v, error %v", result, err)
	}
	checkNothingLeft(t, client, e, result)
}

func conformPrefix(t *testing.T, client *api.Client) {
	const prefix = "ops/ex ec?ü#"
	var under []string
	rec := &recorder{}
	rec.hook = func(call string) {
		if call == "ack web-1" {
			under, _, _ = client.KV().Keys(prefix+"/", "", nil)
		}
	}
	_, result, err := executeContext(t.Context(), t, client, rec, "true", consulexec.WithNode("^web-1$"), consulexec.WithPrefix(prefix))
	if err != nil || result.Err() != nil {
		t.Fatalf("error %v, result %v", err, result.Err())
	}
	if want := prefix + "/" + result.Session + "/job"; !slices.Contains(under, want) {
		t.Errorf("keys %q, want %q", under, want)
	}
}

func conformSessionLost(t *testing.T, client *api.Client) {
	rec := &recorder{}
	destroyed := time.Time{}
	rec.hook = func(call string) {
		if call != "output web-1" {
			return
		}
		keys, _, err := client.KV().Keys("lost/", "", nil)
		if err != nil || len(keys) == 0 {
			t.Errorf("keys %v, error %v", keys, err)
			return
		}
		if _, err := client.Session().Destroy(strings.Split(keys[0], "/")[1], nil); err != nil {
			t.Error(err)
		}
		destroyed = time.Now()
	}
	_, result, err := executeContext(t.Context(), t, client, rec, "echo x; sleep 3", consulexec.WithNode("^web-1$"), consulexec.WithPrefix("lost"))
	if !errors.Is(err, consulexec.ErrSessionLost) || states(result) != "web-1: running" {
		t.Errorf("error %v, states %s", err, states(result))
	}
	if took := time.Since(destroyed); took > 3*time.Second {
		t.Errorf("noticed after %v", took)
	}
}
