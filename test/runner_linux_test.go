package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
	"github.com/consulexec/consulexec/internal/devcluster"
	"github.com/consulexec/consulexec/internal/runtest"
)

// The tests in this file look at what the runner does on its nodes: at
// processes, files, keys and logs.

// plainNodes is how many nodes there are besides those with a name of their own.
const plainNodes = 3

// onPlain selects these nodes.
var onPlain = consulexec.WithNode("^(server|client)-")

// TestRunner runs one suite on exectest and on real agents, and tests on real
// agents that have a nologin shell, or a TMPDIR that is full or noexec.
func TestRunner(t *testing.T) {
	t.Parallel()
	t.Run("exectest", func(t *testing.T) {
		if testing.Short() {
			t.Skip("waits for hundreds of processes, which -short leaves out")
		}
		t.Parallel()
		srv := exectest.NewServer(exectest.Node("server-1"), exectest.Node("client-1"), exectest.Node("client-2"))
		t.Cleanup(srv.Close)
		runnerSuite(t, srv.Client())
	})
	t.Run("consul", func(t *testing.T) {
		needsConsul(t)
		c := startRunnerCluster(t)
		client := c.Client("client-1")
		t.Run("tests", func(t *testing.T) {
			runnerSuite(t, client)
			parallel(t, "copies of the event", func(t *testing.T) { runnerTwice(t, c) })
			parallel(t, "secrets", func(t *testing.T) { runnerSecrets(t, c) })
			parallel(t, "nologin", func(t *testing.T) { runnerNologin(t, client) })
			parallel(t, "full", func(t *testing.T) { runnerFull(t, c) })
			parallel(t, "noexec", func(t *testing.T) { runnerNoexec(t, c) })
		})
		var tmps []string
		for _, tmp := range c.tmp {
			tmps = append(tmps, tmp)
		}
		checkSwept(t, c.Cluster, 0, tmps...)
	})
}

// TestRunnerSharedTMPDIR runs short scripts on agents that share a TMPDIR. Their
// files of a run are the same, and any of them may be the first to end.
func TestRunnerSharedTMPDIR(t *testing.T) {
	needsConsul(t)
	tmp := t.TempDir()
	nodes := devcluster.Nodes(1, 7)
	for i := range nodes {
		nodes[i].Env = []string{"TMPDIR=" + tmp}
	}
	cluster := devcluster.Start(t, devcluster.Config{Nodes: nodes})
	for range 30 {
		_, result, err := runtest.Execute(t, cluster.Client("server-1"), "", consulexec.WithScript([]byte("echo hi")))
		if err != nil || result.Err() != nil || len(result.Nodes) != len(nodes) {
			t.Errorf("error %v, states %s", err, runtest.States(result))
		}
		checkOutput(t, result, "hi\n")
	}
}

func parallel(t *testing.T, name string, test func(t *testing.T)) {
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		test(t)
	})
}

// runnerSuite runs tests that need three plain nodes. It returns before they
// begin. The longest come first.
func runnerSuite(t *testing.T, client *api.Client) {
	parallel(t, "timeouts", func(t *testing.T) { runnerTimeouts(t, client) })
	parallel(t, "cancels", func(t *testing.T) { runnerCancels(t, client) })
	parallel(t, "early cancels", func(t *testing.T) { runnerEarlyCancels(t, client) })
	parallel(t, "limits of output", func(t *testing.T) { runnerMaxOutput(t, client) })
	parallel(t, "limited output is live", func(t *testing.T) { runnerLive(t, client) })
	parallel(t, "yes", func(t *testing.T) { runnerYes(t, client) })
	parallel(t, "environment", func(t *testing.T) { runnerEnv(t, client) })
	parallel(t, "directory", func(t *testing.T) { runnerDir(t, client) })
	parallel(t, "input", func(t *testing.T) { runnerStdin(t, client) })
	parallel(t, "arguments", func(t *testing.T) { runnerArgs(t, client) })
}

// A runnerCluster is a cluster whose agents have a TMPDIR of their own each. They
// log all that they can.
type runnerCluster struct {
	*devcluster.Cluster
	tmp  map[string]string // by node
	logs string            // a directory
	skip error             // why there are no file systems for "full" and "noexec"
}

// startRunnerCluster starts three plain nodes, and nologin, full and noexec.
func startRunnerCluster(t *testing.T) *runnerCluster {
	c := &runnerCluster{tmp: make(map[string]string), logs: t.TempDir()}
	nodes := append(devcluster.Nodes(1, 2), devcluster.Node{Name: "nologin"}, devcluster.Node{Name: "full"}, devcluster.Node{Name: "noexec"})
	nodes[3].Env = []string{"SHELL=/usr/sbin/nologin"}
	mounts := map[string]func(dir string) error{
		"full":   func(dir string) error { return syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k,nr_inodes=100") },
		"noexec": func(dir string) error { return syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_NOEXEC, "size=1m") },
	}
	for i := range nodes {
		n := &nodes[i]
		dir := t.TempDir()
		c.tmp[n.Name] = dir
		n.Env = append(n.Env, "TMPDIR="+dir)
		n.Config = fmt.Sprintf("log_level = \"TRACE\"\nlog_file = %q\n", filepath.Join(c.logs, n.Name+".log"))
		if mount := mounts[n.Name]; mount != nil {
			if err := mount(dir); err != nil {
				c.skip = errors.Join(c.skip, fmt.Errorf("mount a tmpfs: %w", err))
				continue
			}
			t.Cleanup(func() {
				if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
					t.Error(err)
				}
			})
		}
	}
	c.Cluster = devcluster.Start(t, devcluster.Config{Nodes: nodes})
	return c
}

// onAll runs a command on the plain nodes, or on those of another option, and
// checks that each exits with that status.
func onAll(t *testing.T, client *api.Client, code int, command string, options ...consulexec.Option) *consulexec.Result {
	t.Helper()
	_, result, err := runtest.Execute(t, client, command, append([]consulexec.Option{onPlain}, options...)...)
	if err != nil || len(result.Nodes) == 0 {
		t.Fatalf("error %v, states %s", err, runtest.States(result))
	}
	for _, n := range result.Nodes {
		if n.State != consulexec.StateExited || n.ExitCode != code {
			t.Errorf("%s: exit status %d, want %d: %v, output %.200q", n.Node, n.ExitCode, code, n.Err, n.Output)
		}
	}
	return result
}

// checkOutput checks that the output of each node is that.
func checkOutput(t *testing.T, result *consulexec.Result, want string) {
	t.Helper()
	for _, n := range result.Nodes {
		if string(n.Output) != want {
			t.Errorf("%s: output %.200q, want %.200q", n.Node, n.Output, want)
		}
	}
}

// runnerTimeouts has timeouts come while something of the command still runs, or
// nothing.
func runnerTimeouts(t *testing.T, client *api.Client) {
	const late = 25 * time.Second
	for _, test := range []struct {
		name, command string
		output        string
		code, left    int // left is how many processes run on each node
		timedOut      bool
	}{
		{"child", "sleep N & echo started", "started\n", 0, 0, false},
		{"child and status", "sleep N & echo started; exit 3", "started\n", 3, 0, false},
		{"child in a session of its own", "setsid sleep N & echo started", "started\n", 0, 0, false},
		{"child that ignores TERM", "(trap '' TERM; exec sleep N) & echo started", "started\n", 0, 0, false},
		{"daemon", "setsid sleep N >/dev/null 2>&1 & echo started", "started\n", 0, 1, false},
		{"daemon of a command that is ended", "setsid sleep N >/dev/null 2>&1 & echo started; exec sleep 4321", "started\n", 124, 1, true},
		{"daemon by two forks", "(setsid sh -c 'sleep N & :' >/dev/null 2>&1 &); echo started; exec sleep 4321", "started\n", 124, 1, true},
		{"own 124", "exit 124", "", 124, 0, false},
		{"own 124 with a child", "sleep N & exit 124", "", 124, 0, false},
		{"own 143", "kill -TERM $$; sleep 4321", "", 143, 0, false},
	} {
		parallel(t, test.name, func(t *testing.T) {
			s := newSleeperOf(t, test.command, 1)
			start := time.Now()
			result := onAll(t, client, test.code, s.command, consulexec.WithTimeout(2*time.Second))
			if took := time.Since(start); took > late {
				t.Errorf("took %v, want at most %v", took, late)
			}
			checkOutput(t, result, test.output)
			for _, n := range result.Nodes {
				if n.TimedOut != test.timedOut {
					t.Errorf("%s timed out: %v, want %v", n.Node, n.TimedOut, test.timedOut)
				}
			}
			if got := s.running(); got != test.left*plainNodes {
				t.Errorf("%d processes run, want %d", got, test.left*plainNodes)
			}
		})
	}
	parallel(t, "just in time", func(t *testing.T) {
		for range 2 {
			_, result, err := runtest.Execute(t, client, "sleep 1", onPlain, consulexec.WithTimeout(time.Second))
			if err != nil || len(result.Nodes) != plainNodes {
				t.Fatalf("error %v, states %s", err, runtest.States(result))
			}
			for _, n := range result.Nodes {
				if n.State != consulexec.StateExited || n.ExitCode != map[bool]int{false: 0, true: 124}[n.TimedOut] {
					t.Errorf("%s: %v, timed out: %v", n.Node, n.Err, n.TimedOut)
				}
			}
		}
	})
}

// runnerCancels cancels runs of which some process is hard to end.
func runnerCancels(t *testing.T, client *api.Client) {
	for _, test := range []struct {
		name, command string
		each          int // processes on each node
	}{
		{"children", "sleep N & sleep N >/dev/null 2>&1 & echo up; sleep N", 3},
		{"child of a command that has ended", "sleep N & echo up", 1},
		{"child in a session of its own", "setsid sleep N & echo up; sleep N", 2},
		{"stopped child", "sleep N & sleep 0.3; kill -STOP $!; echo up; sleep N", 2},
		{"stopped itself", "sleep N & echo up; kill -STOP $$", 1},
		{"ignores TERM", "trap '' TERM; sleep N & echo up; sleep N", 2},
		{"child in a session of its own that ignores TERM", "(trap '' TERM; exec setsid sleep N) & echo up; sleep N", 2},
	} {
		parallel(t, test.name, func(t *testing.T) {
			s := newSleeperOf(t, test.command, test.each)
			id, result, err := s.cancelled(client, plainNodes, "command", onPlain, consulexec.WithKillOnCancel())
			if got, want := runtest.States(result), "client-1: killed, client-2: killed, server-1: killed"; got != want {
				t.Errorf("states %s, want %s: %v", got, want, err)
			}
			if n := s.running(); n > 0 {
				t.Errorf("%d processes are left", n)
			}
			awaitNone(t, id)
		})
	}
	parallel(t, "children of commands that had ended before", func(t *testing.T) {
		first := filepath.Join(t.TempDir(), "first") // the node that makes it
		s := newSleeperOf(t, "if mkdir "+first+" 2>/dev/null; then sleep N >/dev/null 2>&1 & exit 4; fi; echo up; sleep N", 1)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		rec := runtest.NewRecorder(t, client)
		rec.Hook = func(string) {
			if rec.Count("exit ") == 1 && rec.Count("output ") == plainNodes-1 {
				cancel()
			}
		}
		result, err := rec.Run(ctx, s.command, onPlain, consulexec.WithKillOnCancel())
		states := strings.Split(runtest.States(result), ", ")
		exited := slices.IndexFunc(states, func(s string) bool { return strings.HasSuffix(s, ": exit 4") })
		killed := strings.Count(runtest.States(result), "killed")
		if !errors.Is(err, context.Canceled) || exited < 0 || killed != plainNodes-1 {
			t.Errorf("error %v, states %s", err, states)
		}
		if n := s.running(); n != 1 {
			t.Errorf("%d processes run, want the child of the node that had exited", n)
		}
	})
}

// awaitNone waits until no process of the run is left but those that remove
// files. It waits for a few seconds, as a shell may have to end.
func awaitNone(t *testing.T, id string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; pause(t.Context(), 50*time.Millisecond) {
		left := cmdlinesWith("consulexec-" + id + " ")
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("left: %.300q", left)
			return
		}
	}
}

// cmdlinesWith returns the command lines of all processes that have the text.
func cmdlinesWith(text string) (found []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		if args, _ := os.ReadFile(file); bytes.Contains(args, []byte(text)) {
			found = append(found, string(args))
		}
	}
	return found
}

// runnerEarlyCancels cancels runs while the nodes begin. Gossip takes the event
// to some of them only after 0.2 s.
func runnerEarlyCancels(t *testing.T, client *api.Client) {
	for _, ms := range []int{0, 5, 10, 20, 30, 40, 50, 100, 150, 200, 250, 300} {
		delay := time.Duration(ms) * time.Millisecond
		parallel(t, delay.String(), func(t *testing.T) {
			s := newSleeperOf(t, "sleep N & echo up; sleep N", 2)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			rec := runtest.NewRecorder(t, client)
			rec.Hook = func(call string) {
				if call == "submit" {
					time.AfterFunc(delay, cancel)
				}
			}
			e := rec.New(s.command, onPlain, consulexec.WithKillOnCancel())
			result, err := e.Run(ctx)
			rec.Check(e, result, err)
			states := runtest.States(result)
			t.Log(states)
			nodeError := new(consulexec.NodeError)
			if !errors.Is(err, context.Canceled) || errors.As(err, &nodeError) || strings.Contains(states, "running") || strings.Contains(states, "exit") {
				t.Errorf("error %v, states %s", err, states)
			}
			if n := s.running(); n > 0 {
				t.Errorf("%d processes run", n)
			}
			awaitNone(t, e.ID())
			pause(t.Context(), time.Second) // an event that is late would have come
			if n := s.running(); n > 0 {
				t.Errorf("%d processes run after a while", n)
			}
		})
	}
}

// runnerMaxOutput has the nodes print less than the limit, exactly as much, and
// more.
func runnerMaxOutput(t *testing.T, client *api.Client) {
	var text strings.Builder
	for i := 1; text.Len() < 2<<20; i++ {
		fmt.Fprintln(&text, i)
	}
	for _, limit := range []int{1 << 20, 0, 1, 4095, 4096, 4097} {
		parallel(t, fmt.Sprint(limit), func(t *testing.T) {
			sizes := []int{limit, limit + 1, limit + 20000}
			// Each node takes a size of its own.
			dir := filepath.Join(t.TempDir(), "taken-")
			command := fmt.Sprintf(`for n in %s; do
				if mkdir %s$n 2>/dev/null; then seq 1 1000000 2>/dev/null | head -c $n; exit 5; fi
			done`, strings.Trim(fmt.Sprint(sizes), "[]"), dir)
			result := onAll(t, client, 5, command, consulexec.WithShell("/bin/sh"), consulexec.WithMaxOutput(int64(limit)))
			checkOutput(t, result, text.String()[:limit])
			truncated := 0
			for _, n := range result.Nodes {
				if n.OutputBytes != int64(limit) {
					t.Errorf("%s: %d bytes of output, want %d", n.Node, n.OutputBytes, limit)
				}
				if n.Truncated {
					truncated++
				}
			}
			if truncated != 2 {
				t.Errorf("%d outputs are truncated, want those of %d and %d bytes", truncated, sizes[1], sizes[2])
			}
		})
	}
}

// runnerLive gets the first line of limited output before the command ends.
func runnerLive(t *testing.T, client *api.Client) {
	const silence = 6 * time.Second
	at := make(map[string]time.Time) // of the first such call
	rec := runtest.NewRecorder(t, client)
	rec.Hook = func(call string) {
		if _, found := at[call]; !found {
			at[call] = time.Now()
		}
	}
	result, err := rec.Run(t.Context(), "echo first; sleep 6; echo last", onPlain, consulexec.WithMaxOutput(1<<20))
	if err != nil || result.Err() != nil {
		t.Errorf("error %v, result %v", err, result.Err())
	}
	checkOutput(t, result, "first\nlast\n")
	for _, n := range result.Nodes {
		if before := at["exit "+n.Node+" 0"].Sub(at["output "+n.Node]); before < silence/2 {
			t.Errorf("%s: the first line came only %v before the exit", n.Node, before)
		}
	}
}

// runnerYes looks at the keys of a command that prints far more than the limit.
func runnerYes(t *testing.T, client *api.Client) {
	const limit, prefix = 10000, "yes"
	rec := runtest.NewRecorder(t, client)
	bytes := -1
	rec.Hook = func(call string) {
		if !strings.HasPrefix(call, "exit ") {
			return
		}
		pairs, _, err := client.KV().List(prefix+"/", nil)
		if err != nil {
			t.Error(err)
		}
		bytes = 0
		for _, pair := range pairs {
			if strings.Contains(pair.Key, "/out/") {
				bytes += len(pair.Value)
			}
		}
	}
	result, err := rec.Run(t.Context(), "exec 2>/dev/null; yes & sleep 2; kill $!; exit 6", consulexec.WithNode("^client-2$"), consulexec.WithPrefix(prefix), consulexec.WithMaxOutput(limit))
	n, _ := result.Node("client-2")
	if err != nil || n.ExitCode != 6 || n.OutputBytes != limit || !n.Truncated || string(n.Output) != strings.Repeat("y\n", limit/2) {
		t.Errorf("error %v, node %v, %d bytes, truncated: %v", err, n.Err, n.OutputBytes, n.Truncated)
	}
	if bytes != limit+1 {
		t.Errorf("%d bytes came to the keys, want %d", bytes, limit+1)
	}
}

// texts are values that a careless shell program would change.
var texts = []string{
	"", " ", "a b", "  a\t b  ", "'", "''", `"`, "\\", `\'`, "$HOME", "$(exit 1)`exit 1`", "${x", "*", "~", "-n", "--", "%s", "!x", "#", "a=b",
	"\n", "a\n'b'\n\n\"c\"\n", "\r\n", "ü€\U0001F600", "\x01\x7f", ";&|<>(){}[]", strings.Repeat("long'", 20000),
}

// runnerEnv compares the environment with that of a run without the option.
func runnerEnv(t *testing.T, client *api.Client) {
	added := map[string]string{
		"PATH": "/no/such:$PATH", "SHELL": "/no/such/shell", "TMPDIR": "/no/such/tmp", "IFS": "x/", "HOME": "~", "ENV": "/no/such/env",
		"LC_ALL": "C", "cx_id": "1", "cx_env": "2", "_under": "3", "a": "4", "SECONDS": "5", "RANDOM": "6", "PS4": "7", "CDPATH": "/usr",
	}
	for i, text := range texts {
		added[fmt.Sprint("TEXT_", i)] = text
	}
	args := consulexec.WithArgs("/usr/bin/env", "-0")
	for _, under := range []struct {
		name    string
		options []consulexec.Option
	}{{"alone", nil}, {"with a timeout", []consulexec.Option{consulexec.WithTimeout(time.Hour)}}} {
		t.Run(under.name, func(t *testing.T) {
			before := onAll(t, client, 0, "", args)
			after := onAll(t, client, 0, "", append(under.options, args, consulexec.WithEnv(added))...)
			for _, n := range before.Nodes {
				want, got := variables(n.Output), map[string]string{}
				for name, value := range added {
					want[name] = value
				}
				if n, found := after.Node(n.Node); found {
					got = variables(n.Output)
				}
				for name, value := range want {
					if has, found := got[name]; !found || has != value {
						t.Errorf("%s: %s is %.200q, want %.200q", n.Node, name, has, value)
					}
					delete(got, name)
				}
				if len(got) > 0 {
					t.Errorf("%s: there are also %.200q", n.Node, got)
				}
			}
		})
	}
	t.Run("shell", func(t *testing.T) {
		result := onAll(t, client, 0, `printf '%s|' "$A" "$SHELL" "$TMPDIR" "$PATH"`, consulexec.WithEnv(map[string]string{"A": "it's", "SHELL": "/no/such", "TMPDIR": "/no/such", "PATH": "/no/such"}))
		checkOutput(t, result, "it's|/no/such|/no/such|/no/such|")
	})
}

// variables parses what env -0 prints. It leaves out those that shells keep for
// themselves.
func variables(output []byte) map[string]string {
	all := make(map[string]string)
	for v := range strings.SplitSeq(strings.TrimSuffix(string(output), "\x00"), "\x00") {
		name, value, _ := strings.Cut(v, "=")
		switch name {
		case "_", "SHLVL", "PWD":
		default:
			all[name] = value
		}
	}
	return all
}

// runnerDir runs in directories with odd names, and in one that is not there.
func runnerDir(t *testing.T, client *api.Client) {
	for _, name := range []string{"a b", "it's $HOME", "-n", "ü", "two\nlines", "*"} {
		dir := filepath.Join(t.TempDir(), name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		result := onAll(t, client, 0, "", consulexec.WithArgs("/bin/sh", "-c", `printf '%s|' "$(/bin/pwd)" "$PWD"`), consulexec.WithDir(dir))
		checkOutput(t, result, dir+"|"+dir+"|")
	}
	ran := filepath.Join(t.TempDir(), "ran")
	result := onAll(t, client, 125, ": >"+ran, consulexec.WithDir(filepath.Join(t.TempDir(), "not there")), consulexec.WithTimeout(time.Hour))
	for _, n := range result.Nodes {
		if !strings.Contains(string(n.Output), "not there") || n.TimedOut {
			t.Errorf("%s: output %q, timed out: %v", n.Node, n.Output, n.TimedOut)
		}
	}
	checkNotThere(t, ran)
}

// checkNotThere checks that a command that would make the file has not run.
func checkNotThere(t *testing.T, file string) {
	t.Helper()
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the command has run: error %v", err)
	}
}

// runnerStdin has the nodes compute a checksum of their input.
func runnerStdin(t *testing.T, client *api.Client) {
	random := rand.NewChaCha8([32]byte{})
	for _, size := range []int{0, 1, 4096, 300 << 10} {
		input := make([]byte, size)
		if _, err := io.ReadFull(random, input); err != nil {
			t.Fatal(err)
		}
		cksum := exec.Command("cksum")
		cksum.Stdin = bytes.NewReader(input)
		want, err := cksum.Output()
		if err != nil {
			t.Fatal(err)
		}
		result := onAll(t, client, 3, "cksum; exit 3", consulexec.WithStdin(input), consulexec.WithTimeout(time.Hour))
		checkOutput(t, result, string(want))
	}
	t.Run("back", func(t *testing.T) {
		input := make([]byte, 100<<10)
		if _, err := io.ReadFull(random, input); err != nil {
			t.Fatal(err)
		}
		result := onAll(t, client, 0, "", consulexec.WithScript([]byte("#!/bin/cat -\n")), consulexec.WithStdin(input))
		checkOutput(t, result, string(input)+"#!/bin/cat -\n")
	})
	t.Run("not read", func(t *testing.T) {
		result := onAll(t, client, 4, "exit 4", consulexec.WithStdin(make([]byte, 300<<10)))
		checkOutput(t, result, "")
	})
}

// runnerArgs gives scripts arguments.
func runnerArgs(t *testing.T, client *api.Client) {
	const body = `printf '%s|' "$#" "$@"; exit 9`
	want := fmt.Sprintf("%d|%s|", len(texts), strings.Join(texts, "|"))
	args := consulexec.WithArgs(texts...)
	for _, test := range []struct {
		name    string
		options []consulexec.Option
	}{
		{"without a line", []consulexec.Option{consulexec.WithScript([]byte(body)), args}},
		{"with a line", []consulexec.Option{args, consulexec.WithScript([]byte("#!/bin/sh\n" + body))}},
		{"with a shell", []consulexec.Option{consulexec.WithScript([]byte("#!/no/such\n" + body)), args, consulexec.WithShell("sh")}},
	} {
		t.Run(test.name, func(t *testing.T) {
			checkOutput(t, onAll(t, client, 9, "", test.options...), want)
		})
	}
	t.Run("none", func(t *testing.T) {
		checkOutput(t, onAll(t, client, 9, "", consulexec.WithScript([]byte(body)), consulexec.WithArgs()), "0|")
	})
}

// repeating is a transport that fires each event again, at once and later.
type repeating struct {
	http.RoundTripper
	after []time.Duration
	wg    sync.WaitGroup
}

func (r *repeating) RoundTrip(req *http.Request) (*http.Response, error) {
	if !strings.HasPrefix(req.URL.Path, "/v1/event/fire/") {
		return r.RoundTripper.RoundTrip(req)
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	req.Body = io.NopCloser(bytes.NewReader(body))
	for _, after := range r.after {
		again := req.Clone(context.Background())
		again.Body = io.NopCloser(bytes.NewReader(body))
		r.wg.Go(func() {
			time.Sleep(after)
			if answer, err := r.RoundTripper.RoundTrip(again); err == nil {
				answer.Body.Close()
			}
		})
	}
	return r.RoundTripper.RoundTrip(req)
}

// runnerTwice has agents get each event more than once.
func runnerTwice(t *testing.T, c *runnerCluster) {
	const ms = time.Millisecond
	input := strings.Repeat("input\n", 10000)
	for _, test := range []struct {
		name    string
		after   []time.Duration
		command string // after it has made its mark
		options []consulexec.Option
		output  string
	}{
		{"at once", []time.Duration{0}, "sleep 3.45; echo DATA", nil, "DATA\n"},
		{"soon", []time.Duration{20 * ms, 300 * ms}, "echo A; sleep 3.45; echo DATA", nil, "A\nDATA\n"},
		{"while it runs", []time.Duration{1000 * ms, 2000 * ms, 3300 * ms}, "for i in 1 2 3 4 5 6 7; do echo $i; sleep 0.5; done", nil, "1\n2\n3\n4\n5\n6\n7\n"},
		{"around its end", []time.Duration{900 * ms, 1000 * ms, 1100 * ms, 1200 * ms, 1300 * ms, 1400 * ms}, "sleep 1; echo DATA", nil, "DATA\n"},
		{"input", []time.Duration{0, 100 * ms, 1000 * ms}, "cat; sleep 2", []consulexec.Option{consulexec.WithStdin([]byte(input))}, input},
		{"short", []time.Duration{0, 10 * ms, 20 * ms, 30 * ms, 40 * ms, 60 * ms, 80 * ms, 100 * ms, 150 * ms}, "echo DATA", nil, "DATA\n"},
	} {
		parallel(t, test.name, func(t *testing.T) {
			transport := &repeating{RoundTripper: http.DefaultTransport, after: test.after}
			client, err := api.NewClient(&api.Config{Address: c.Address("client-1"), HttpClient: &http.Client{Transport: transport}})
			if err != nil {
				t.Fatal(err)
			}
			marks := filepath.Join(t.TempDir(), "marks")
			options := append(test.options, consulexec.WithTimeout(time.Hour), consulexec.WithLostTimeout(30*time.Second))
			result := onAll(t, client, 3, "echo x >>"+marks+"; "+test.command+"; exit 3", options...)
			checkOutput(t, result, test.output)
			transport.wg.Wait()
			for _, n := range result.Nodes {
				if n.Err == nil || strings.Contains(n.Err.Error(), "twice") {
					t.Errorf("%s: error %v", n.Node, n.Err)
				}
			}
			pause(t.Context(), time.Second) // for copies that would run now
			if ran, err := os.ReadFile(marks); err != nil || len(ran) != 2*plainNodes {
				t.Errorf("%d nodes ran the command %d times, error %v", plainNodes, len(ran)/2, err)
			}
		})
	}
}

// runnerSecrets looks for values in processes and logs.
func runnerSecrets(t *testing.T, c *runnerCluster) {
	const variable, input = "secret-of-a-variable", "secret-of-the-input"
	rec := runtest.NewRecorder(t, c.Client("client-1"))
	release := filepath.Join(t.TempDir(), "release")
	looked := false
	rec.Hook = func(string) {
		if rec.Count("output ") < plainNodes || looked {
			return
		}
		looked = true
		for _, secret := range []string{variable, input} {
			for _, line := range cmdlinesWith(secret) {
				t.Errorf("%s is in arguments: %.300q", secret, line)
			}
		}
		if err := os.WriteFile(release, nil, 0o600); err != nil {
			t.Error(err)
		}
	}
	command := "echo up; while [ ! -e " + release + " ]; do sleep 0.1; done; read -r line; [ \"$line\" = " + quoted(input) + " ] && [ \"$SECRET\" = " + quoted(variable) + " ]"
	e := rec.New(command, onPlain, consulexec.WithEnv(map[string]string{"SECRET": variable}), consulexec.WithStdin([]byte(input+"\n")), consulexec.WithTimeout(time.Hour))
	result, err := e.Run(t.Context())
	rec.Check(e, result, err)
	if err != nil || result.Err() != nil || !looked {
		t.Errorf("error %v, result %v, looked: %v", err, result.Err(), looked)
	}
	logs, err := filepath.Glob(filepath.Join(c.logs, "*"))
	if err != nil {
		t.Fatal(err)
	}
	var all []byte
	for _, file := range logs {
		log, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, log...)
	}
	if !bytes.Contains(all, []byte(result.Session)) {
		t.Error("the logs say nothing of the run")
	}
	for _, secret := range []string{variable, input} {
		if i := bytes.Index(all, []byte(secret)); i >= 0 {
			t.Errorf("%s is in a log: %q", secret, all[max(0, i-200):i+100])
		}
	}
}

// quoted returns a word for a shell that is not in the command as it is.
func quoted(word string) string { return word[:3] + `""` + word[3:] }

// runnerNologin runs on a node whose agent has a $SHELL that runs nothing.
func runnerNologin(t *testing.T, client *api.Client) {
	if _, err := os.Stat("/usr/sbin/nologin"); err != nil {
		t.Skip(err)
	}
	script := consulexec.WithScript([]byte("echo hi"))
	timeout := consulexec.WithTimeout(time.Hour)
	for _, test := range []struct {
		name    string
		command string
		options []consulexec.Option
		runs    bool
	}{
		{"command", "echo hi", nil, false},
		{"command with a timeout", "echo hi", []consulexec.Option{timeout}, false},
		{"command with a shell", "echo hi", []consulexec.Option{consulexec.WithShell("/bin/sh")}, true},
		{"command with a shell and a timeout", "echo hi", []consulexec.Option{timeout, consulexec.WithShell("/bin/sh")}, true},
		{"script", "", []consulexec.Option{script}, false},
		{"script with a shell", "", []consulexec.Option{script, consulexec.WithShell("/bin/sh")}, true},
		{"script with a line", "", []consulexec.Option{consulexec.WithScript([]byte("#!/bin/sh\necho hi\n"))}, true},
		{"script with a line and a timeout", "", []consulexec.Option{timeout, consulexec.WithScript([]byte("#!/bin/sh\necho hi\n"))}, true},
		{"program", "", []consulexec.Option{timeout, consulexec.WithArgs("echo", "hi")}, true},
	} {
		parallel(t, test.name, func(t *testing.T) {
			options := append(test.options, consulexec.WithNode("^nologin$"))
			if test.runs {
				checkOutput(t, onAll(t, client, 0, test.command, options...), "hi\n")
				return
			}
			result := onAll(t, client, 1, test.command, options...)
			if err := result.Err(); err == nil || !strings.Contains(err.Error(), "nologin; see WithShell") {
				t.Errorf("error %v has no hint", err)
			}
		})
	}
}

// fill fills a directory's file system with a file, but for that many bytes.
func fill(t *testing.T, dir string, but int64) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, err := io.Copy(f, zeros{})
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the file system is not full: %v", err)
	}
	if err := f.Truncate(size - but); err != nil {
		t.Fatal(err)
	}
}

// zeros has no end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// runnerFull runs on a node whose TMPDIR is full, or nearly so.
func runnerFull(t *testing.T, c *runnerCluster) {
	if c.skip != nil {
		t.Skip(c.skip)
	}
	client, tmp, here := c.Client("client-1"), c.tmp["full"], consulexec.WithNode("^full$")
	ran := filepath.Join(t.TempDir(), "ran")
	large := []byte("#!/bin/sh\n: >" + ran + "\n" + strings.Repeat("#\n", 20<<10)) // 40 KB
	for _, test := range []struct {
		name string
		free int64
		fits bool // whether there is room for the environment, which is not copied
	}{
		{"full", 0, false},
		{"room for some of it", 20 << 10, false},
		{"room for one copy", 64 << 10, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			fill(t, tmp, test.free)
			environment := consulexec.WithEnv(map[string]string{"A": string(large)})
			if test.fits {
				checkOutput(t, onAll(t, client, 4, "echo hi; exit 4", here, environment), "hi\n")
			} else {
				checkNoRoom(t, client, ran, here, ": >"+ran, environment)
			}
			checkNoRoom(t, client, ran, here, "", consulexec.WithScript(large))
			checkNoRoom(t, client, ran, here, ": >"+ran, consulexec.WithStdin(large))
			checkOutput(t, onAll(t, client, 4, "echo hi; exit 4", here, consulexec.WithTimeout(time.Hour)), "hi\n") // which needs no room
		})
	}
	if err := os.Remove(filepath.Join(tmp, "filler")); err != nil {
		t.Fatal(err)
	}
	t.Run("no more files", func(t *testing.T) {
		var files []string
		defer func() {
			for _, file := range files {
				os.Remove(file)
			}
		}()
		for i := 0; ; i++ {
			file := filepath.Join(tmp, fmt.Sprint("filler-", i))
			if err := os.WriteFile(file, nil, 0o600); errors.Is(err, syscall.ENOSPC) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			files = append(files, file)
		}
		result := onAll(t, client, 126, ": >"+ran, here, consulexec.WithTimeout(time.Hour))
		for _, n := range result.Nodes {
			if !strings.Contains(string(n.Output), "not run") || !strings.Contains(string(n.Output), "space") {
				t.Errorf("output %q", n.Output)
			}
		}
		checkNotThere(t, ran)
		_, result, err := runtest.Execute(t, client, "", here, consulexec.WithScript(large))
		t.Logf("script: error %v, result %v", err, result.Err())
		if err != nil || result.Err() == nil {
			t.Errorf("script: error %v, result %v", err, result.Err())
		}
		checkNotThere(t, ran)
	})
	onAll(t, client, 0, "", here, consulexec.WithScript(large))
}

// checkNoRoom checks that a command does not run for lack of room on the disk. It
// would make a file.
func checkNoRoom(t *testing.T, client *api.Client, ran string, here consulexec.Option, command string, option consulexec.Option) {
	t.Helper()
	result := onAll(t, client, 126, command, here, option, consulexec.WithTimeout(time.Hour))
	for _, n := range result.Nodes {
		if !strings.Contains(string(n.Output), "not run") || !strings.Contains(string(n.Output), "disk full") || n.TimedOut {
			t.Errorf("output %q, timed out: %v", n.Output, n.TimedOut)
		}
	}
	checkNotThere(t, ran)
}

// runnerNoexec runs scripts on a node whose TMPDIR is mounted noexec.
func runnerNoexec(t *testing.T, c *runnerCluster) {
	if c.skip != nil {
		t.Skip(c.skip)
	}
	for _, text := range []string{"echo hi; exit 7", "#!/bin/sh\necho hi; exit 7", "#!/bin/sh -e\necho hi; (exit 7); echo not here"} {
		result := onAll(t, c.Client("client-1"), 7, "", consulexec.WithNode("^noexec$"), consulexec.WithScript([]byte(text)))
		checkOutput(t, result, "hi\n")
	}
}
