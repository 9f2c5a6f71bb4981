package consulexec_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
	"github.com/consulexec/consulexec/internal/runtest"
)

// TestShell checks what an agent runs, which needs no other shell.
func TestShell(t *testing.T) {
	var got exectest.Job
	takes := func(_ context.Context, j *exectest.Job) int {
		got = *j
		return 0
	}
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", takes)}, func(t *testing.T, srv *exectest.Server) {
		if _, _, err := runtest.Execute(t, srv.Client(), "echo  $x", consulexec.WithShell("powershell")); err != nil {
			t.Fatal(err)
		}
		if want := []string{"powershell", "-c", "echo  $x"}; !slices.Equal(got.Args, want) || got.Command != "" || got.Script != nil {
			t.Errorf("the agent runs %q, %q, %q; want the arguments %q", got.Command, got.Script, got.Args, want)
		}
	})
}

// TestMaxOutput runs a command that prints more than the limit and then goes on
// for a while. Callbacks, lines and the result get what is within the limit.
func TestMaxOutput(t *testing.T) {
	prints := func(ctx context.Context, j *exectest.Job) int {
		for _, text := range []string{"ab\n", "cd\n", "ef\n"} {
			io.WriteString(j.Output, text)
			runtest.Sleeps(time.Second)(ctx, j) // in a chunk of its own
		}
		runtest.Sleeps(3*time.Second)(ctx, j)
		return 3
	}
	nodes := []exectest.Option{runtest.Node("a", prints), runtest.Node("b", exectest.Answer("ab\nc", 0))}
	runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		var lines []string
		rec, result, err := runtest.Execute(t, srv.Client(), "x", consulexec.WithMaxOutput(4),
			consulexec.OnLine(func(node, line string) { lines = append(lines, node+":"+line) }))
		if err != nil {
			t.Fatal(err)
		}
		a, _ := result.Node("a")
		if string(a.Output) != "ab\nc" || a.OutputBytes != 4 || !a.Truncated || a.ExitCode != 3 {
			t.Errorf("node a: %+v", a)
		}
		if b, _ := result.Node("b"); string(b.Output) != "ab\nc" || b.Truncated || b.Err != nil {
			t.Errorf("node b: %+v", b)
		}
		if got := rec.Count("output a"); got != 2 {
			t.Errorf("%d calls of OnOutput for a, want 2: %v", got, rec.Calls)
		}
		if got := rec.Count("heartbeat a"); got != 2 {
			t.Errorf("%d heartbeats of a, want two, as its node throws output away: %v", got, rec.Calls)
		}
		slices.Sort(lines)
		if want := []string{"a:ab", "a:c", "b:ab", "b:c"}; !slices.Equal(lines, want) {
			t.Errorf("lines %q, want %q", lines, want)
		}
	})
}

// TestShellHint checks which failures are said to be due to the agent's $SHELL.
func TestShellHint(t *testing.T) {
	const (
		words   = "This account is currently not available."
		silent  = "node a: exit status 1: without output: the agent's $SHELL may be nologin or false; see WithShell"
		nologin = "node a: exit status 1: the agent's $SHELL may be nologin; see WithShell"
		one     = "node a: exit status 1"
	)
	script := func(text string) consulexec.Option { return consulexec.WithScript([]byte(text)) }
	bash := consulexec.WithShell("/bin/bash")
	for _, test := range []struct {
		name    string
		output  string
		code    int
		command string
		options []consulexec.Option
		want    string
	}{
		{"silent", "", 1, "x", nil, silent},
		{"another status", "", 2, "x", nil, "node a: exit status 2"},
		{"success", "", 0, "x", nil, ""},
		{"some output", "\n", 1, "x", nil, one},
		{"nologin", words + "\n", 1, "x", nil, nologin},
		{"nologin, space around it", " \r\n\t" + words + "\r\n \n", 1, "x", nil, nologin},
		{"nologin, nothing around it", words, 1, "x", nil, nologin},
		{"nologin that succeeds", words, 0, "x", nil, ""},
		{"more than nologin", words + "\nx", 1, "x", nil, one},
		{"less than nologin", words[:len(words)-1] + "\n", 1, "x", nil, one},
		{"almost nologin", strings.ToLower(words), 1, "x", nil, one},
		{"space inside nologin", words[:9] + "\n" + words[9:], 1, "x", nil, one},
		{"nologin twice", words + "\n" + words, 1, "x", nil, one},
		{"after something", "x" + words, 1, "x", nil, one},
		{"script", "", 1, "", []consulexec.Option{script("exit 1")}, silent},
		{"nologin, script", words, 1, "", []consulexec.Option{script("exit 1")}, nologin},
		{"script with arguments", "", 1, "", []consulexec.Option{script("exit 1"), consulexec.WithArgs("a")}, silent},
		{"script with an interpreter", "", 1, "", []consulexec.Option{script("#!/bin/sh\nexit 1")}, one},
		{"program", "", 1, "", []consulexec.Option{consulexec.WithArgs("false")}, one},
		{"shell", "", 1, "x", []consulexec.Option{bash}, one},
		{"nologin, shell", words, 1, "x", []consulexec.Option{bash}, one},
		{"script and shell", "", 1, "", []consulexec.Option{bash, script("exit 1")}, one},
		{"all output is thrown away", "x", 1, "x", []consulexec.Option{consulexec.WithMaxOutput(0)}, one},
		{"output is thrown away after nologin", words + "x", 1, "x", []consulexec.Option{consulexec.WithMaxOutput(int64(len(words)))}, one},
	} {
		t.Run(test.name, func(t *testing.T) {
			runtest.Bubble(t, []exectest.Option{runtest.Node("a", exectest.Answer(test.output, test.code))}, func(t *testing.T, srv *exectest.Server) {
				e, err := consulexec.New(test.command, append(test.options, consulexec.WithClient(srv.Client()))...)
				if err != nil {
					t.Fatal(err)
				}
				result, err := e.Run(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				got := ""
				if err := result.Nodes[0].Err; err != nil {
					got = err.Error()
				}
				if got != test.want {
					t.Errorf("error %q, want %q", got, test.want)
				}
			})
		})
	}
}

// TestShellHintInPieces checks that the words count however the agent cuts
// them.
func TestShellHintInPieces(t *testing.T) {
	pieces := func(ctx context.Context, j *exectest.Job) int {
		for _, piece := range []string{"\n", "This account is", " currently ", "not available.", "\n", " "} {
			io.WriteString(j.Output, piece)
			runtest.Sleeps(time.Second)(ctx, j)
		}
		return 1
	}
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", pieces)}, func(t *testing.T, srv *exectest.Server) {
		rec, result, err := runtest.Execute(t, srv.Client(), "x")
		if err != nil || rec.Count("output a") != 6 {
			t.Fatalf("error %v, calls %v", err, rec.Calls)
		}
		var failed *consulexec.NodeError
		if err := result.Err(); !errors.As(err, &failed) || failed.Err == nil || !strings.Contains(err.Error(), "WithShell") {
			t.Errorf("error %v does not hint at WithShell", err)
		}
	})
}
