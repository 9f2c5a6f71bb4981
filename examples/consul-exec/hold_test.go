package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/consulexec/consulexec/exectest"
)

// TestHold cuts output anywhere and wants whole characters or lines, and
// in the end all of the output.
func TestHold(t *testing.T) {
	for _, output := range []string{"ä€😀\n\nx\n", "no end ä", "\xff\xe2\x82", strings.Repeat("ä", maxLine) + "\nx\n"} {
		for _, lines := range []bool{false, true} {
			h, all := newHold(lines), ""
			for piece := range slices.Chunk([]byte(output), 1+len(output)/100) {
				whole := string(h.add("a", piece))
				if whole == "" {
					continue
				}
				if all += whole; lines && !strings.HasSuffix(whole, "\n") && len(whole) < maxLine-4 || partial([]byte(whole)) > 0 {
					t.Fatalf("%.20q: the piece %.20q is not whole", output, whole)
				}
			}
			if all += string(h.release("a")); all != output {
				t.Errorf("%.20q: all pieces together are %.20q", output, all)
			}
			if len(h.held) > 0 {
				t.Errorf("%.20q: still held: %q", output, h.held)
			}
		}
	}
}

// TestLines has a node that prints a line and a character in two pieces each.
func TestLines(t *testing.T) {
	t.Parallel()
	pieces := func(_ context.Context, j *exectest.Job) int {
		for _, piece := range []string{"one\n\nt\xe2", "\x82\xacwo", " \nno end"} {
			io.WriteString(j.Output, piece)
			time.Sleep(700 * time.Millisecond) // an agent sends what it has after half a second
		}
		return 0
	}
	srv := newServer(t, exectest.Node("a", exectest.Run(pieces)))
	for flags, want := range map[string]string{
		"-lines":              "    a: one\n    a: \n    a: t€wo \n    a: no end\n==> a: finished with exit code 0\n",
		"-node=.":             "    a: one\n    a: \n    a: t\n    a: €wo\n    a:  \n    a: no end\n==> a: finished with exit code 0\n",
		"-lines -format=json": `"one\n\n" "t€wo \n" "no end"`,
		"-format=json":        `"one\n\nt" "€wo" " \nno end"`,
	} {
		stdout, stderr, status := consulExec(t, srv.URL, append(strings.Fields(flags), "true")...)
		got := strings.TrimSuffix(stdout, "1 / 1 node(s) completed / acknowledged\n")
		if strings.Contains(flags, "json") {
			events, _ := decode(t, stdout)
			var outputs []string
			for _, e := range events {
				if e.Type == "output" {
					outputs = append(outputs, fmt.Sprintf("%q", e.Output))
				}
			}
			got = strings.Join(outputs, " ")
		}
		if status != 0 || got != want {
			t.Errorf("%s: status %d, %q, want %q, stderr %q", flags, status, got, want, stderr)
		}
	}
}
