package test

import (
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/consulexec/consulexec"
)

// conformKinds runs a command, a program with arguments and a script. What
// needs quoting arrives as it is.
func conformKinds(t *testing.T, c cluster) {
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
			if got, code := one(t, c, test.command, test.options...); got != test.want || code != 0 {
				t.Errorf("output %q, exit status %d, want %q", got, code, test.want)
			}
		})
	}
}

// conformOutput checks that output arrives byte by byte.
func conformOutput(t *testing.T, c cluster) {
	for _, test := range []struct{ name, command, want string }{
		{"none", "true", ""},
		{"no newline", "printf abc", "abc"},
		{"bytes", `printf 'a\000b\377\r\n'`, "a\x00b\xff\r\n"},
		{"split UTF-8", `printf 'caf\303'; sleep 1; printf '\251'`, "café"}, // two chunks: an agent flushes after 0.5 s
		{"two streams", "echo 1; echo 2 >&2; echo 3", "1\n2\n3\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got, code := one(t, c, test.command); got != test.want || code != 0 {
				t.Errorf("output %q, exit status %d, want %q", got, code, test.want)
			}
		})
	}
}

// conformLongOutput prints more than 1 MiB.
func conformLongOutput(t *testing.T, c cluster) {
	const lines = 170_000
	var want strings.Builder
	for i := range lines {
		fmt.Fprintln(&want, i+1)
	}
	if want.Len() < 1<<20 {
		t.Fatalf("the output has %d bytes, want at least 1 MiB", want.Len())
	}
	if got, code := one(t, c, fmt.Sprint("seq ", lines)); got != want.String() || code != 0 {
		t.Errorf("%d bytes of output, exit status %d, want %d bytes", len(got), code, want.Len())
	}
}

// conformMuchOutput has nodes print much in several parts. What was read is
// deleted while they go on.
func conformMuchOutput(t *testing.T, c cluster) {
	const parts, lines = 6, 80
	command := fmt.Sprintf("i=0; for part in 1 2 3 4 5 6; do for line in $(seq %d); do printf '%%4095d\\n' $i; i=$((i+1)); done; sleep 0.4; done", lines)
	chunks := make(map[string]int)
	var keys []string
	rec := c.recorder(t)
	rec.Hook = func(call string) {
		name, isOutput := strings.CutPrefix(call, "output ")
		if !isOutput {
			return
		}
		if chunks[name]++; chunks[name] == (parts-1)*lines && keys == nil {
			var err error
			if keys, _, err = c.client.KV().Keys("_rexec/", "", nil); err != nil {
				t.Error(err)
			}
		}
	}
	result, err := rec.Run(t.Context(), command, answering, consulexec.WithCapture(parts*lines*4096))
	if err != nil || result.Err() != nil {
		t.Fatalf("error %v, result %v", err, result.Err())
	}
	for _, name := range []string{"db-1", "web-1", "web-2"} {
		checkNumbered(t, result, name, parts*lines)
	}
	keys = slices.DeleteFunc(keys, func(key string) bool { return !strings.HasPrefix(key, "_rexec/"+result.Session) })
	first := func(key string) bool { return strings.HasSuffix(key, "/out/00000") }
	if len(keys) == 0 || slices.ContainsFunc(keys, first) {
		t.Errorf("before the last part there are %d keys, want some, but no first chunk: %q", len(keys), keys)
	}
}

// conformOnLine prints lines of many kinds, among them some that a chunk does
// not hold.
func conformOnLine(t *testing.T, c cluster) {
	lines, atExit := make(map[string][]string), make(map[string]int)
	rec := c.recorder(t)
	rec.Hook = func(call string) {
		if node, exits := strings.CutPrefix(call, "exit "); exits {
			node, _, _ = strings.Cut(node, " ")
			atExit[node] = len(lines[node])
		}
	}
	command := `printf 'one\r\n\nthr'; sleep 0.8; printf 'ee\r'; sleep 0.8; printf '\n\377\n'; seq 3000; head -c 70000 /dev/zero | tr '\000' x; printf '\nend'`
	result, err := rec.Run(t.Context(), command, answering,
		consulexec.OnLine(func(node, line string) { lines[node] = append(lines[node], line) }))
	if err != nil || result.Err() != nil {
		t.Fatalf("error %v, result %v", err, result.Err())
	}
	want := []string{"one", "", "three", "\xff"}
	for i := range 3000 {
		want = append(want, fmt.Sprint(i+1))
	}
	long := strings.Repeat("x", 70000)
	want = append(want, long[:consulexec.MaxLine], long[consulexec.MaxLine:], "end")
	for _, node := range []string{"db-1", "web-1", "web-2"} {
		if got := lines[node]; !slices.Equal(got, want) {
			t.Errorf("%s: %d lines, want %d: %.300q", node, len(got), len(want), got)
		}
		if atExit[node] != len(want) {
			t.Errorf("%s: %d lines before its exit, want %d", node, atExit[node], len(want))
		}
	}
}

// conformGroups runs a command that behaves differently on the node that is
// first.
func conformGroups(t *testing.T, c cluster) {
	command := fmt.Sprintf("if mkdir %s 2>/dev/null; then echo first; else echo late; exit 3; fi", filepath.Join(t.TempDir(), "first"))
	_, result, err := c.execute(t, command, answering)
	if err != nil {
		t.Fatal(err)
	}
	groups := result.Groups()
	if len(groups) != 2 || len(groups[0].Nodes) != 2 || len(groups[1].Nodes) != 1 {
		t.Fatalf("groups %+v, want one of two nodes and one of one", groups)
	}
	nodes := slices.Sorted(slices.Values(slices.Concat(groups[0].Nodes, groups[1].Nodes)))
	if !slices.Equal(nodes, []string{"db-1", "web-1", "web-2"}) {
		t.Errorf("nodes %v", nodes)
	}
	for i, want := range []consulexec.Group{
		{State: consulexec.StateExited, ExitCode: 3, Output: []byte("late\n"), OutputBytes: 5},
		{State: consulexec.StateExited, ExitCode: 0, Output: []byte("first\n"), OutputBytes: 6},
	} {
		want.Nodes = groups[i].Nodes
		if !reflect.DeepEqual(groups[i], want) {
			t.Errorf("group %+v, want %+v", groups[i], want)
		}
	}
}

// conformExitCodes checks the exit status of commands and of programs, among
// them some that end by a signal or cannot be started.
func conformExitCodes(t *testing.T, c cluster) {
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
			if _, code := one(t, c, test.command, options...); code != test.want {
				t.Errorf("exit status %d, want %d", code, test.want)
			}
		})
	}
}

// conformHeartbeats runs a command that is silent for 2 s, with heartbeats each
// 0.3 s.
func conformHeartbeats(t *testing.T, c cluster) {
	start := time.Now()
	rec, result, err := c.execute(t, "sleep 2; echo up", answering, consulexec.WithWait(300*time.Millisecond), consulexec.WithLostTimeout(time.Minute))
	if err != nil || result.Err() != nil {
		t.Fatalf("error %v, result %v", err, result.Err())
	}
	most := int(time.Since(start) / (300 * time.Millisecond))
	for _, node := range []string{"db-1", "web-1", "web-2"} {
		if n := rec.Count("heartbeat " + node); n < 3 || n > most {
			t.Errorf("%d heartbeats from %s, want 3 to %d", n, node, most)
		}
		if string(rec.Output[node]) != "up\n" {
			t.Errorf("%s: output %q", node, rec.Output[node])
		}
	}
}
