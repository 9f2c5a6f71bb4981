package consulexec_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
	"github.com/consulexec/consulexec/internal/runtest"
)

// TestSlowCallback blocks callbacks for longer than the session's TTL and every
// timeout. The run still succeeds.
func TestSlowCallback(t *testing.T) {
	talks := func(ctx context.Context, j *exectest.Job) int {
		for i := range 20 {
			fmt.Fprintln(j.Output, i)
			runtest.Sleeps(5*time.Second)(ctx, j)
		}
		return 0
	}
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", talks), runtest.Node("b", runtest.Sleeps(3*time.Minute))}, func(t *testing.T, srv *exectest.Server) {
		rec := runtest.NewRecorder(t, srv.Client())
		rec.Hook = func(call string) {
			if call == "ack a" || call == "output a" {
				time.Sleep(time.Minute)
			}
		}
		result, err := rec.Run(t.Context(), "x")
		if err != nil || result.Err() != nil {
			t.Errorf("error %v, result %v", err, result.Err())
		}
	})
}

// TestSlowCallbackMemory blocks a callback while output piles up in Consul. The
// next listing must be without values, which would all come at once.
func TestSlowCallbackMemory(t *testing.T) {
	for slow, d := range map[string]time.Duration{"ack a": time.Second, "heartbeat a": 700 * time.Millisecond} {
		runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Counts(20))}, func(t *testing.T, srv *exectest.Server) {
			var slept time.Time
			rec := runtest.NewRecorder(t, srv.Client())
			rec.Hook = func(call string) {
				if call == slow && slept.IsZero() {
					time.Sleep(d)
					slept = time.Now()
				}
			}
			if result, err := rec.Run(t.Context(), "x"); err != nil || result.Err() != nil {
				t.Fatalf("error %v, result %v", err, result.Err())
			}
			listings := 0
			for _, r := range srv.Requests() {
				lists := r.Method == "GET" && strings.HasPrefix(r.Path, "/v1/kv/_rexec/")
				if !lists || r.Time.Before(slept) {
					continue
				}
				if listings++; listings == 1 && r.Query.Has("recurse") {
					t.Errorf("%s: the first listing after the slow callback has values", slow)
				}
			}
			if listings == 0 {
				t.Errorf("%s: there is no listing after the slow callback", slow)
			}
		})
	}
}

// TestSlowCallbackCancelled blocks a callback beyond the end of the context. One
// of the callbacks then panics. Neither leaves anything.
func TestSlowCallbackCancelled(t *testing.T) {
	for _, panics := range []bool{false, true} {
		runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Sleeps(time.Hour))}, func(t *testing.T, srv *exectest.Server) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			e, err := consulexec.New("x", consulexec.WithClient(srv.Client()), consulexec.OnAck(func(string) {
				time.Sleep(time.Minute)
				if panics {
					panic("on purpose")
				}
			}))
			if err != nil {
				t.Fatal(err)
			}
			func() {
				defer func() {
					if p := recover(); (p != nil) != panics {
						t.Errorf("recovered %v", p)
					}
				}()
				if _, err := e.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("error %v", err)
				}
			}()
			result, _ := e.Wait()
			runtest.CheckNothingLeft(t, srv.Client(), e, result)
		})
	}
}

// TestCallbacksTwice gives each callback twice. Both are called, in their order.
func TestCallbacksTwice(t *testing.T) {
	nodes := []exectest.Option{
		runtest.Node("a", func(ctx context.Context, j *exectest.Job) int {
			runtest.Sleeps(3*time.Second)(ctx, j)
			fmt.Fprintln(j.Output, "up")
			return 0
		}),
		runtest.Node("b", runtest.Dies(time.Second)),
		runtest.Node("c", runtest.Up, exectest.ExecDisabled()),
	}
	runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		calls := make(map[string]string)
		var options []consulexec.Option
		for _, who := range []string{"1", "2"} {
			called := func(what string) { calls[what] += who }
			options = append(options,
				consulexec.OnSubmit(func() { called("submit") }),
				consulexec.OnAck(func(node string) { called("ack " + node) }),
				consulexec.OnOutput(func(node string, _ []byte) { called("output " + node) }),
				consulexec.OnLine(func(node, _ string) { called("line " + node) }),
				consulexec.OnHeartbeat(func(node string) { called("heartbeat " + node) }),
				consulexec.OnExit(func(node string, _ int) { called("exit " + node) }),
				consulexec.OnLost(func(node string, _ error) { called("lost " + node) }),
				consulexec.OnNoResponse(func(node string) { called("no response " + node) }),
				consulexec.OnDone(func() { called("done") }),
				consulexec.OnError(func(error) { called("error") }),
			)
		}
		for _, node := range []string{"", "nobody"} {
			more := append(options, consulexec.WithNode(node), consulexec.WithClient(srv.Client()))
			e, err := consulexec.New("x", more...)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = e.Run(t.Context())
		}
		for _, what := range []string{
			"submit", "ack a", "ack b", "output a", "output b", "line a", "line b", "heartbeat a", "exit a", "lost b", "no response c", "done", "error",
		} {
			if calls[what] != "12" {
				t.Errorf("%s called %q, want 12", what, calls[what])
			}
			delete(calls, what)
		}
		if len(calls) > 0 {
			t.Errorf("more calls: %v", calls)
		}
	})
}

// TestCleanBeforeDone checks that session and keys are gone before OnDone is
// called.
func TestCleanBeforeDone(t *testing.T) {
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Up)}, func(t *testing.T, srv *exectest.Server) {
		rec := runtest.NewRecorder(t, srv.Client())
		rec.Hook = func(call string) {
			if left := append(srv.Keys(""), srv.Sessions()...); call == "done" && len(left) > 0 {
				t.Errorf("left when OnDone is called: %v", left)
			}
		}
		if result, err := rec.Run(t.Context(), "x"); err != nil || result.Err() != nil {
			t.Errorf("error %v, result %v", err, result.Err())
		}
	})
}

// TestGoexit ends the goroutine of a callback, as t.FailNow does.
func TestGoexit(t *testing.T) {
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Up)}, func(t *testing.T, srv *exectest.Server) {
		e, err := consulexec.New("x", consulexec.WithClient(srv.Client()), consulexec.OnAck(func(string) { runtime.Goexit() }))
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		result, err := e.Wait()
		if err == nil || result.Err() == nil {
			t.Errorf("error %v", err)
		}
		runtest.CheckNothingLeft(t, srv.Client(), e, result)
	})
}

const panicAddress = "CONSULEXEC_TEST_PANIC_AT"

// TestPanicAfterStart runs a program in which a callback panics. The panic ends the
// program, but only after session and keys are gone.
func TestPanicAfterStart(t *testing.T) {
	if address := os.Getenv(panicAddress); address != "" {
		e, err := consulexec.New("x", consulexec.WithConfig(&api.Config{Address: address}),
			consulexec.OnOutput(func(string, []byte) { panic("on purpose") }))
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		select {} // only the panic ends this
	}
	srv := exectest.NewServer(runtest.Node("a", runtest.Up))
	defer srv.Close()
	program := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestPanicAfterStart$")
	program.Env = append(os.Environ(), panicAddress+"="+strings.TrimPrefix(srv.URL, "http://"))
	output, err := program.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || !bytes.Contains(output, []byte("panic: on purpose")) {
		t.Errorf("error %v, output %s", err, output)
	}
	if keys, sessions := srv.Keys(""), srv.Sessions(); len(keys)+len(sessions) > 0 {
		t.Errorf("the run leaves keys %v and sessions %v", keys, sessions)
	}
	if n := srv.Executions("a"); n != 1 {
		t.Errorf("the command ran %d times, want 1", n)
	}
}

// says returns a command that prints each text as a chunk and exits with 3.
func says(texts ...string) exectest.Handler {
	return func(ctx context.Context, j *exectest.Job) int {
		for _, text := range texts {
			_, _ = io.WriteString(j.Output, text)
			runtest.Sleeps(time.Second)(ctx, j)
		}
		return 3
	}
}

// newLines returns an Exec that records its callbacks, OnLine among them.
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

// TestOnLine checks the lines of a node that exits, is lost or is cut off, and
// their place among the other callbacks.
func TestOnLine(t *testing.T) {
	t.Run("exit", func(t *testing.T) {
		runtest.Bubble(t, []exectest.Option{runtest.Node("a", says("one\ntw", "o\r", "\n\nend"))}, func(t *testing.T, srv *exectest.Server) {
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
		runtest.Bubble(t, []exectest.Option{runtest.Node("b", runtest.Up), runtest.Node("a", gone)}, func(t *testing.T, srv *exectest.Server) {
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
		runtest.Bubble(t, []exectest.Option{runtest.Node("a", asks)}, func(t *testing.T, srv *exectest.Server) {
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

// TestOnLineShared gives one option to two runs. Each run has its own unfinished
// line.
func TestOnLineShared(t *testing.T) {
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", says("be", "gun\n"))}, func(t *testing.T, srv *exectest.Server) {
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
		for range execs[0].Events(t.Context()) { // the second runs inside the first
			if execs[1] != nil {
				if _, err := execs[1].Run(t.Context()); err != nil {
					t.Fatal(err)
				}
				execs[1] = nil
			}
		}
		if !slices.Equal(lines, []string{"begun", "begun"}) {
			t.Errorf("lines %q, want each run's", lines)
		}
	})
}
