package consulexec_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
)

// says is a command that prints each text as a piece of its own, and exits with 3.
func says(texts ...string) exectest.Handler {
	return func(ctx context.Context, j *exectest.Job) int {
		for _, text := range texts {
			_, _ = io.WriteString(j.Output, text)
			sleeps(time.Second)(ctx, j)
		}
		return 3
	}
}

// newLines makes an Exec that writes every callback down, and every line.
func newLines(t *testing.T, client *api.Client, options ...consulexec.Option) (*consulexec.Exec, *[]string) {
	t.Helper()
	calls := new([]string)
	say := func(format string, args ...any) { *calls = append(*calls, fmt.Sprintf(format, args...)) }
	e, err := consulexec.New("x", append([]consulexec.Option{
		consulexec.WithClient(client),
		consulexec.OnOutput(func(node string, output []byte) { say("output %s %q", node, output) }),
		consulexec.OnLine(func(node, line string) { say("line %s %q", node, line) }),
		consulexec.OnExit(func(node string, code int) { say("exit %s %d", node, code) }),
		consulexec.OnLost(func(node string, err error) { say("lost %s", node) }),
		consulexec.OnDone(func() { say("done") }),
		consulexec.OnError(func(err error) { say("error") }),
	}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	return e, calls
}

func TestOnLine(t *testing.T) {
	t.Run("exit", func(t *testing.T) {
		bubble(t, []exectest.Option{node("a", says("one\ntw", "o\r", "\n\nend"))}, func(t *testing.T, srv *exectest.Server) {
			e, calls := newLines(t, srv.Client())
			if _, err := e.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			want := []string{
				`output a "one\ntw"`, `line a "one"`,
				`output a "o\r"`,
				`output a "\n\nend"`, `line a "two"`, `line a ""`,
				`line a "end"`, `exit a 3`, `done`,
			}
			if !slices.Equal(*calls, want) {
				t.Errorf("calls %q, want %q", *calls, want)
			}
		})
	})
	t.Run("lost", func(t *testing.T) {
		gone := func(ctx context.Context, j *exectest.Job) int {
			says("one\nCannot")(ctx, j)
			j.Die()
			return 0
		}
		bubble(t, []exectest.Option{node("b", ok), node("a", gone)}, func(t *testing.T, srv *exectest.Server) {
			e, calls := newLines(t, srv.Client(), consulexec.WithNode("a"))
			if _, err := e.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			want := []string{`output a "one\nCannot"`, `line a "one"`, `line a "Cannot"`, `lost a`, `done`}
			if !slices.Equal(*calls, want) {
				t.Errorf("calls %q, want %q", *calls, want)
			}
		})
	})
	t.Run("cancelled", func(t *testing.T) {
		asks := func(ctx context.Context, j *exectest.Job) int {
			says("Go on? ")(ctx, j)
			return exectest.NeverExit(ctx, j)
		}
		bubble(t, []exectest.Option{node("a", asks)}, func(t *testing.T, srv *exectest.Server) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			e, calls := newLines(t, srv.Client())
			if _, err := e.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error %v", err)
			}
			want := []string{`output a "Go on? "`, `line a "Go on? "`, `error`}
			if !slices.Equal(*calls, want) {
				t.Errorf("calls %q, want %q", *calls, want)
			}
		})
	})
	t.Run("nil", func(t *testing.T) {
		if _, err := consulexec.New("x", consulexec.OnLine(nil)); err == nil || !strings.Contains(err.Error(), "OnLine(nil)") {
			t.Errorf("error %v", err)
		}
	})
}

// TestOnLineShared gives one option to two runs: what one has begun is not the
// other's.
func TestOnLineShared(t *testing.T) {
	bubble(t, []exectest.Option{node("a", says("be", "gun\n"))}, func(t *testing.T, srv *exectest.Server) {
		var lines []string
		shared := consulexec.OnLine(func(_, line string) { lines = append(lines, line) })
		var execs []*consulexec.Exec
		for range 2 {
			e, err := consulexec.New("x", consulexec.WithClient(srv.Client()), shared)
			if err != nil {
				t.Fatal(err)
			}
			execs = append(execs, e)
		}
		for range execs[0].Events(t.Context()) { // the other runs in its midst
			if execs[1] != nil {
				if _, err := execs[1].Run(t.Context()); err != nil {
					t.Fatal(err)
				}
				execs[1] = nil
			}
		}
		if !slices.Equal(lines, []string{"begun", "begun"}) {
			t.Errorf("lines %q", lines)
		}
	})
}

// conformOnLine prints lines of many kinds, and more than a piece of output holds.
func conformOnLine(t *testing.T, client *api.Client) {
	lines, atExit := make(map[string][]string), make(map[string]int)
	rec := &recorder{hook: func(call string) {
		if node, exits := strings.CutPrefix(call, "exit "); exits {
			node, _, _ = strings.Cut(node, " ")
			atExit[node] = len(lines[node])
		}
	}}
	command := `printf 'one\r\n\nthr'; sleep 0.8; printf 'ee\r'; sleep 0.8; printf '\n\377\n'; seq 3000; head -c 70000 /dev/zero | tr '\000' x; printf '\nend'`
	_, result, err := executeContext(t.Context(), t, client, rec, command, answering,
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
