package main

import (
	"fmt"
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/consulexec/consulexec/internal/devcluster"
)

var (
	uuids    = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}`)
	seconds  = regexp.MustCompile(`[0-9.]+ seconds`)
	nodeLine = regexp.MustCompile(`^(?:==> |    )([a-z0-9-]+):`)
)

// byNode groups lines by node, those without a node under "". It puts the exit
// of a node last, as `consul exec` prints it before the last output. It drops
// the heartbeats, as their number depends on the clock.
func byNode(text string) map[string][]string {
	text = uuids.ReplaceAllString(seconds.ReplaceAllString(text, "SOME seconds"), "UUID")
	nodes, exits := make(map[string][]string), make(map[string]string)
	for line := range strings.Lines(text) {
		node := ""
		if match := nodeLine.FindStringSubmatch(line); match != nil {
			node = match[1]
		}
		switch {
		case strings.Contains(line, ": heartbeat received\n"):
		case strings.Contains(line, ": finished with exit code "):
			exits[node] = line
		default:
			nodes[node] = append(nodes[node], line)
		}
	}
	for node, exit := range exits {
		nodes[node] = append(nodes[node], exit)
	}
	return nodes
}

// TestBesideConsul runs the same command lines with consul-exec and with the
// `consul exec` of a real Consul, on the same cluster, and compares the
// results.
func TestBesideConsul(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: starts a real Consul")
	}
	t.Parallel()
	binary, err := devcluster.Binary(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	nodes := append(devcluster.Nodes(1, 2), devcluster.Node{Name: "off-1", ExecDisabled: true})
	nodes[1].Services = []devcluster.Service{{ID: "web-1", Name: "web", Tags: []string{"blue"}}}
	nodes[2].Services = []devcluster.Service{{ID: "web-2", Name: "web", Tags: []string{"green"}}}
	cluster := devcluster.Start(t, devcluster.Config{Nodes: nodes})
	address := cluster.Address("client-1")

	const all = "-node=client|server"
	var tests sync.WaitGroup
	for _, test := range []struct {
		args   []string
		stdin  string
		status int // if not 0: our exit status, which differs from that of consul exec
	}{
		{args: []string{all, "echo hi"}},
		{args: []string{all, "-verbose", "-wait=1s", "echo hi; sleep 3; echo ho"}},
		{args: []string{"-verbose", "echo to all"}, status: 3},
		{args: []string{all, "printf 'no end'; exit 3"}},
		{args: []string{all, `printf 'a\n\n  b\r\n\n \t\n'`}},
		{args: []string{all, `printf '  '; sleep 1; printf 'x  '; sleep 1; printf '\n'`}},
		{args: []string{all, `printf '\303\244 \377\n'`}},
		{args: []string{all, "yes | head -c 9000"}},
		{args: []string{all, "true"}},
		{args: []string{all, "kill -9 $$"}},
		{args: []string{all, "echo", "a", "b  c"}},
		{args: []string{all, "-shell=false", "echo", "a", "b  c", ";"}},
		{args: []string{all, "-shell=false", "no-such-program"}},
		{args: []string{all, "-"}, stdin: "echo one\necho two\nexit 5\n"},
		{args: []string{all, "-wait-repl=300ms", "-prefix=elsewhere", "-stale", "-datacenter=dc1", "echo hi"}},
		{args: []string{"-service=web", "echo hi"}},
		{args: []string{"-service=web", "-tag=blue", "-wait=2s", "echo hi"}},
		{args: []string{"--node", "client-2", "--", "echo", "-n"}},
		{args: []string{"-node=nobody", "true"}, status: 1},
		{args: []string{""}},
		{args: []string{"-node=(", "true"}},
		{args: []string{"-tag=x", "true"}},
		{args: []string{"-wait=soon", "true"}},
		{args: []string{"-nonsense", "true"}},
		{args: []string{"-shell=false", "-"}, stdin: "true"},
		{args: []string{"-token-file=/nowhere/at/all", "true"}},
		{args: []string{"-ca-file=/nowhere/at/all", "true"}},
		{args: []string{"-datacenter=nowhere", "true"}},
	} {
		tests.Go(func() {
			var differ []string
			for range 3 { // on a busy machine, commands pause for longer, and consul exec does not wait for them
				if differ = beside(t, binary, address, test.stdin, test.status, test.args); differ == nil {
					return
				}
			}
			t.Errorf("%q: %s", test.args, strings.Join(differ, "\n"))
		})
	}
	tests.Wait()

	client := cluster.Client("client-1")
	keys, _, err := client.KV().Keys("", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	sessions, _, err := client.Session().List(nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(keys)+len(sessions) > 0 {
		t.Errorf("left behind: %q %v", keys, sessions)
	}
}

// beside runs both programs and returns the differences. A status other than 0
// is the one that ours must have; then ours must also print an error, even if
// theirs prints none.
func beside(t *testing.T, binary, address, stdin string, status int, args []string) (differ []string) {
	ours := command(t, address, args...)
	theirs := exec.CommandContext(t.Context(), binary, append([]string{"exec"}, args...)...)
	theirs.Env = ours.Env
	ours.Stdin, theirs.Stdin = strings.NewReader(stdin), strings.NewReader(stdin)
	want, theirErrors, wantStatus := finish(t, theirs)
	got, ourErrors, gotStatus := finish(t, ours)
	if status > 0 {
		wantStatus = status
	}
	if gotStatus != wantStatus || (ourErrors != "") != (theirErrors != "" || status > 0) {
		differ = append(differ, fmt.Sprintf("status %d, want %d; stderr of consul-exec\n%sand of consul exec\n%s", gotStatus, wantStatus, ourErrors, theirErrors))
	}
	if !maps.EqualFunc(byNode(got), byNode(want), slices.Equal) {
		differ = append(differ, fmt.Sprintf("consul-exec prints\n%sand consul exec\n%s", got, want))
	}
	return differ
}
