//go:build unix && !solaris

package exectest

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"
)

func TestRunCommand(t *testing.T) {
	t.Setenv("SHELL", "")
	srv := NewServer(Node("web-1"))
	defer srv.Close()
	client := srv.Client()
	for _, test := range []struct {
		name       string
		job        spec
		want, exit string
		chunks     int
	}{
		{"success", spec{Command: "echo hello"}, "hello\n", "0", 1},
		{"failure", spec{Command: "exit 3"}, "", "3", 0},
		{"nothing at all", spec{}, "", "0", 0},
		{"no such command", spec{Command: "exec 2>/dev/null; /nonexistent"}, "", "127", 0},
		{"signal", spec{Command: "kill -9 $$"}, "", "-1", 0},
		{"both streams", spec{Command: "echo a; echo b >&2"}, "a\nb\n", "0", 1},
		{"no input", spec{Command: "cat; echo $?"}, "0\n", "0", 1},
		{"binary", spec{Command: `printf '\000\377x'`}, "\x00\xffx", "0", 1},
		{"chunks", spec{Command: "head -c 10000 /dev/zero | tr '\\0' x"}, strings.Repeat("x", 10000), "0", 3},
		{"a megabyte", spec{Command: "head -c 1048576 /dev/zero | tr '\\0' x"}, strings.Repeat("x", 1<<20), "0", 256},
		{"arguments", spec{Args: []string{"echo", "$HOME", "a  b"}}, "$HOME a  b\n", "0", 1},
		{"arguments come first", spec{Args: []string{"echo", "args"}, Script: []byte("echo script")}, "args\n", "0", 1},
		{"not executable", spec{Args: []string{"/nonexistent"}}, "", "255", 0},
		{"script", spec{Script: []byte("#!/bin/sh\necho script"), Command: "echo command"}, "script\n", "0", 1},
		{"script that names no shell", spec{Script: []byte("echo script")}, "script\n", "0", 1},
		{"a child keeps the output", spec{Command: "(sleep 0.1; echo late) & echo early; exit 4"}, "early\nlate\n", "4", 1},
		{"the output closes early", spec{Command: "exec >&- 2>&-; sleep 0.1; exit 5"}, "", "5", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.job.Wait = time.Hour
			session, dir := submit(t, client, test.job, api.UserEvent{})
			defer srv.DestroySession(session)
			keys := await(t, client, dir, has("web-1/exit"))
			if got := output(keys); got != test.want {
				t.Errorf("output is %.100q, want %.100q", got, test.want)
			}
			if got := keys["web-1/exit"]; got != test.exit {
				t.Errorf("exit is %q, want %q", got, test.exit)
			}
			if got := len(keys) - 3; got != test.chunks { // without job, ack and exit
				t.Errorf("%d chunks, want %d", got, test.chunks)
			}
		})
	}
}

// TestArgsWithScript runs programs that read the script's file, or remove it.
func TestArgsWithScript(t *testing.T) {
	srv := NewServer(Node("web-1"))
	defer srv.Close()
	for args, want := range map[string]string{
		`ls -l "$TMPDIR" | cut -c1-10 | tail -n1; cat "$TMPDIR"/rexec*[0-9]`: "-rwxr-x---\ndata",
		`cat "$TMPDIR"/rexec*; rm "$TMPDIR"/rexec*`:                          "data",
	} {
		job := spec{Args: []string{"/bin/sh", "-c", args}, Script: []byte("data"), Command: "echo command", Wait: time.Hour}
		_, dir := submit(t, srv.Client(), job, api.UserEvent{})
		keys := await(t, srv.Client(), dir, has("web-1/exit"))
		if output(keys) != want || keys["web-1/exit"] != "0" {
			t.Errorf("%s: output is %q, want %q; exit is %s", args, output(keys), want, keys["web-1/exit"])
		}
		if files, err := os.ReadDir(srv.node("web-1").tempDir); err != nil || len(files) > 0 {
			t.Errorf("%s: files after the command: %v, %v", args, files, err)
		}
	}
}

// TestTempDir checks that each node has one temporary directory, that the
// script's file is there, and that Close removes it.
func TestTempDir(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	srv := NewServer(Node("web-1"), Node("web-2"), Datacenter("west", Node("web-1")))
	defer srv.Close()
	other := NewServer(Node("web-1"))
	defer other.Close()
	seen := map[string]bool{}
	run := func(srv *Server, n *node) {
		var place strings.Builder
		script := []byte("#!/bin/sh\nprintf '%s %s' \"$TMPDIR\" \"${0%/rexec*}\"")
		if code := RunCommand(t.Context(), &Job{Script: script, Output: &place, agent: &agent{srv: srv, node: n}}); code != 0 {
			t.Errorf("exit is %d", code)
		}
		seen[place.String()] = true
		if dir, script, _ := strings.Cut(place.String(), " "); dir != script {
			t.Errorf("TMPDIR is %s, and the script is in %s", dir, script)
		}
	}
	for range 2 {
		for _, dc := range srv.dcs {
			for _, n := range dc.nodes {
				run(srv, n)
			}
		}
		run(other, other.self)
	}
	if len(seen) != 4 {
		t.Errorf("4 nodes have the directories %v", seen)
	}
	srv.Close()
	if files, err := os.ReadDir(os.Getenv("TMPDIR")); err != nil || len(files) != 1 {
		t.Errorf("directories after the first of two Closes: %v, %v", files, err)
	}
	other.Close()
	if files, err := os.ReadDir(os.Getenv("TMPDIR")); err != nil || len(files) != 0 {
		t.Errorf("directories after both Closes: %v, %v", files, err)
	}
	if code := RunCommand(t.Context(), &Job{Command: "true", agent: &agent{srv: srv, node: srv.self}}); code != 255 {
		t.Errorf("exit after Close is %d, want 255", code)
	}
}

func TestShell(t *testing.T) {
	shell := filepath.Join(t.TempDir(), "shell")
	if err := os.WriteFile(shell, []byte("#!/bin/sh\necho \"my shell: $*\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SHELL", shell)
	srv := NewServer(Node("web-1"))
	defer srv.Close()
	_, dir := submit(t, srv.Client(), spec{Command: "uptime", Wait: time.Hour}, api.UserEvent{})
	if got := output(await(t, srv.Client(), dir, has("web-1/exit"))); got != "my shell: -c uptime\n" {
		t.Errorf("output is %q", got)
	}
}

// A real command takes no time on the bubble's clock.
func TestCommandInBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer(Node("web-1"))
		defer srv.Close()
		start := time.Now()
		_, dir := submit(t, srv.Client(), spec{Command: "echo hello", Wait: time.Second}, api.UserEvent{})
		keys := await(t, srv.Client(), dir, has("web-1/exit"))
		if output(keys) != "hello\n" || time.Since(start) > 0 {
			t.Errorf("output is %q, after %v", output(keys), time.Since(start))
		}
	})
}

// A witness is a FIFO that processes hold open. It reaches EOF when the last
// one ends.
type witness struct {
	path string
	file *os.File
}

func newWitness(t *testing.T) witness {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return witness{path, file}
}

// ended reports whether all processes end within the time.
func (w witness) ended(t *testing.T, within time.Duration) bool {
	t.Helper()
	w.file.SetReadDeadline(time.Now().Add(within))
	_, err := io.ReadAll(w.file)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	return err == nil
}

func TestCloseKillsProcesses(t *testing.T) {
	// Each job opens the FIFO and then fills a chunk, which shows that the FIFO
	// is open.
	for name, job := range map[string]spec{
		"command":               {Command: "exec 3>fifo; head -c 4096 /dev/zero; sleep 300; true"},
		"script":                {Script: []byte("exec 3>fifo; head -c 4096 /dev/zero; sleep 300; true")},
		"arguments":             {Args: []string{"sh", "-c", "exec 3>fifo; head -c 4096 /dev/zero; sleep 300; true"}},
		"children":              {Command: "exec 3>fifo; sleep 300 & sleep 300 & head -c 4096 /dev/zero; wait"},
		"children left running": {Command: "exec 3>fifo; sleep 300 >/dev/null 2>&1 & head -c 4096 /dev/zero"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWitness(t)
			t.Chdir(filepath.Dir(w.path))
			t.Setenv("TMPDIR", t.TempDir())
			srv := NewServer(Node("web-1"))
			defer srv.Close()
			job.Wait = time.Hour
			_, dir := submit(t, srv.Client(), job, api.UserEvent{})
			await(t, srv.Client(), dir, has("web-1/out/00000"))
			if name == "children left running" {
				await(t, srv.Client(), dir, has("web-1/exit"))
			}
			if w.ended(t, 10*time.Millisecond) {
				t.Fatal("the processes ended before Close")
			}
			srv.Close()
			if !w.ended(t, 10*time.Second) {
				t.Error("a process outlived Close")
			}
			noGoroutines(t)
			if files, _ := os.ReadDir(os.Getenv("TMPDIR")); len(files) > 0 {
				t.Errorf("files after Close: %v", files)
			}
		})
	}
}

// An agent whose session has ended writes nothing more, but leaves its command
// alone.
func TestCommandOutlivesSession(t *testing.T) {
	w := newWitness(t)
	srv := NewServer(Node("web-1"))
	defer srv.Close()
	job := spec{Command: "exec 3>" + w.path + "; while :; do head -c 4096 /dev/zero; sleep 0.01; done", Wait: 10 * time.Millisecond}
	session, dir := submit(t, srv.Client(), job, api.UserEvent{})
	await(t, srv.Client(), dir, has("web-1/out/00001"))
	srv.DestroySession(session)
	if w.ended(t, 300*time.Millisecond) {
		t.Error("the command ended with the session")
	}
	if keys := srv.Keys(""); len(keys) > 0 {
		t.Errorf("keys after the session: %q", keys)
	}
}

func TestCommandEndsWithContext(t *testing.T) {
	srv := NewServer(Node("web-1", Run(func(ctx context.Context, j *Job) int {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
		defer cancel()
		return RunCommand(ctx, j)
	})))
	defer srv.Close()
	_, dir := submit(t, srv.Client(), spec{Command: "sleep 300 & sleep 300", Wait: time.Hour}, api.UserEvent{})
	keys := await(t, srv.Client(), dir, has("web-1/exit"))
	if got := keys["web-1/exit"]; got != strconv.Itoa(-1) {
		t.Errorf("exit is %s, want -1", got)
	}
}

// A script must not fail because another process inherited its open file (text
// file busy).
func TestManyScripts(t *testing.T) {
	const count = 50
	var opts []Option
	for i := range count {
		opts = append(opts, Node("web-"+strconv.Itoa(i)))
	}
	srv := NewServer(opts...)
	defer srv.Close()
	_, dir := submit(t, srv.Client(), spec{Script: []byte("#!/bin/sh\nexit 7"), Wait: time.Hour}, api.UserEvent{})
	await(t, srv.Client(), dir, func(keys map[string]string) bool {
		exited := 0
		for key, value := range keys {
			if strings.HasSuffix(key, "/exit") {
				exited++
				if value != "7" {
					t.Errorf("%s is %s", key, value)
				}
			}
		}
		return exited == count
	})
}

func TestAddDescendants(t *testing.T) {
	var table []process
	for _, p := range [][3]int{
		{1, 0, 1}, {10, 1, 10}, {11, 1, 10}, // 11 has lost its parent, but is in group 10
		{24, 23, 24}, {23, 11, 23}, {20, 10, 20}, {21, 20, 20}, {12, 21, 10},
		{30, 1, 30}, {31, 30, 30}, {40, 1, 40}, {41, 40, 40},
	} {
		table = append(table, process{pid: p[0], parent: p[1], group: p[2], running: p[0] == 24 || p[0] == 41})
	}
	for _, test := range []struct {
		pids, groups, want []int
		running            bool
	}{
		{nil, nil, nil, false},
		{nil, []int{9}, nil, false},
		{nil, []int{10}, []int{23, 20, 21, 24}, true},
		{[]int{20, 30}, []int{10}, []int{20, 30, 23, 21, 31, 24}, true},
		{nil, []int{30}, nil, false},
		{nil, []int{40}, nil, true},
		{[]int{30}, nil, []int{30, 31}, false},
	} {
		got, running := addDescendants(slices.Clone(test.pids), test.groups, table)
		if !slices.Equal(got, test.want) || running != test.running {
			t.Errorf("of %v and groups %v: %v, %v; want %v, %v", test.pids, test.groups, got, running, test.want, test.running)
		}
	}
}
