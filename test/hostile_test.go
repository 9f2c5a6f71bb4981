package test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
	"github.com/consulexec/consulexec/internal/runtest"
)

// TestNodeNames runs on nodes whose names look like parts of the protocol.
func TestNodeNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"job", "out", "ack", "exit", "a.b.c", "50%", "%2F", "a%20b", "out.00000", "ümlaut", "a b"} {
		nodes := []exectest.Option{runtest.Node("first", runtest.Up), runtest.Node(name, runtest.Counts(3))}
		runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
			var log bytes.Buffer
			logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			defer cancel()
			result, err := runtest.NewRecorder(t, srv.Client()).Run(ctx, "x", consulexec.WithLogger(logger))
			if err != nil || result.Err() != nil || log.Len() > 0 {
				t.Errorf("node %q: error %v, result %v, log %s", name, err, result.Err(), &log)
			}
			for name, want := range map[string]string{"first": "up\n", name: "0\n1\n2\n"} {
				if n, _ := result.Node(name); n.State != consulexec.StateExited || string(n.Output) != want {
					t.Errorf("node %q is %v with output %q, want %q", name, n.State, n.Output, want)
				}
			}
		})
	}
}

// TestHostileKeys writes keys under the job that no agent writes.
func TestHostileKeys(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		do     func(j *exectest.Job) // before the exit
		output string
		state  string // of the node
		logged []string
	}{
		{"unknown keys", func(j *exectest.Job) {
			for _, key := range []string{"x", "me/x", "me/out/x", "me/out/000000", "me/out/0000A", "me/ack/deep", "me/out/00000/x", "/ack", "job/", "me/out/99999999999999999999"} {
				j.Put(key, []byte("0"))
			}
		}, "", "exit 0", []string{"unknown key", "/x", "/me/out/000000"}},
		{"missing chunks", func(j *exectest.Job) {
			j.Put("me/out/00003", []byte("3"))
			j.Put("me/out/00007", []byte("7"))
		}, "37", "exit 0", []string{"output is missing"}},
		{"beyond five digits", func(j *exectest.Job) {
			j.Put("me/out/100000", []byte("last"))
			j.Put("me/out/fffff", []byte("first "))
		}, "first last", "exit 0", nil},
		{"no number", func(j *exectest.Job) {
			j.Put("me/exit", []byte("zero"))
			time.Sleep(time.Second)
		}, "", "lost", []string{"not a number"}},
		{"empty exit", func(j *exectest.Job) {
			j.Put("me/exit", nil)
			time.Sleep(time.Second)
		}, "", "lost", nil},
		{"large values", func(j *exectest.Job) {
			j.Put("me/out/00000", bytes.Repeat([]byte{'x'}, 10<<20))
		}, strings.Repeat("x", 10<<20), "exit 0", nil},
		{"output after the exit", func(j *exectest.Job) {
			j.Put("me/exit", []byte("0"))
			time.Sleep(time.Second)
			j.Put("me/out/00000", []byte("late"))
			time.Sleep(time.Second)
		}, "", "exit 0", []string{"output after the exit"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			nodes := []exectest.Option{
				runtest.Node("me", func(_ context.Context, j *exectest.Job) int {
					test.do(j)
					return 0
				}),
				runtest.Node("other", runtest.Sleeps(10*time.Second)),
			}
			runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
				var log bytes.Buffer
				rec := runtest.NewRecorder(t, srv.Client())
				rec.AnySize = true
				e := rec.New("x", consulexec.WithLogger(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))))
				result, err := e.Run(t.Context())
				rec.CheckCalls(err)
				if got, want := runtest.States(result), "me: "+test.state+", other: exit 0"; err != nil || got != want {
					t.Errorf("error %v, states %s, want %s", err, got, want)
				}
				if got := string(rec.Output["me"]); got != test.output {
					t.Errorf("%d bytes of output, %.40q, want %.40q", len(got), got, test.output)
				}
				for _, want := range test.logged {
					if !strings.Contains(log.String(), want) {
						t.Errorf("the log lacks %q:\n%.2000s", want, &log)
					}
				}
				runtest.CheckNothingLeft(t, srv.Client(), e, result)
			})
		})
	}
}

// TestStrangersKeys writes results without the session of the run.
func TestStrangersKeys(t *testing.T) {
	t.Parallel()
	nodes := []exectest.Option{runtest.Node("me", runtest.Sleeps(5*time.Second)), runtest.Node("off", runtest.Up, exectest.ExecDisabled())}
	runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		var log bytes.Buffer
		rec := runtest.NewRecorder(t, srv.Client())
		rec.Hook = func(call string) {
			if call != "ack me" {
				return
			}
			base := "_rexec/" + srv.Sessions()[0] + "/"
			for _, key := range []string{"off/ack", "off/out/00000", "off/exit", "me/out/00009", "me/exit", "stranger/ack", "stranger/exit"} {
				srv.Put(base+key, []byte("0"))
			}
		}
		result, err := rec.Run(t.Context(), "x",
			consulexec.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		if err != nil || runtest.States(result) != "me: exit 0, off: no response" {
			t.Errorf("error %v, states %s", err, runtest.States(result))
		}
		if n := strings.Count(log.String(), "key of somebody else"); n != 7 {
			t.Errorf("the log has %d keys of somebody else, want 7:\n%s", n, &log)
		}
	})
}

// TestPrefixDeleted deletes all keys of a run at three moments: before the acks
// are read, beside an exit, and later once more.
func TestPrefixDeleted(t *testing.T) {
	t.Parallel()
	nodes := []exectest.Option{runtest.Node("a", runtest.Counts(20)), runtest.Node("b", runtest.Sleeps(2*time.Second)), runtest.Node("c", runtest.Sleeps(30*time.Second))}
	runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		rec := runtest.NewRecorder(t, srv.Client())
		rec.Hook = func(call string) {
			if call == "ack a" {
				for _, after := range []time.Duration{time.Millisecond, 1990 * time.Millisecond, 3 * time.Second} {
					time.AfterFunc(after, func() {
						for _, key := range srv.Keys("_rexec/") {
							srv.Delete(key)
						}
					})
				}
			}
		}
		start := time.Now()
		result, err := rec.Run(t.Context(), "x")
		if err != nil {
			t.Errorf("error %v", err)
		}
		for _, n := range result.Nodes {
			if n.State != consulexec.StateExited && n.State != consulexec.StateLost {
				t.Errorf("%s is %v", n.Node, n.State)
			}
		}
		if n, _ := result.Node("c"); n.State != consulexec.StateExited {
			t.Errorf("c is %v, want exited", n.State)
		}
		if took := time.Since(start); took > time.Minute {
			t.Errorf("took %v, want at most a minute", took)
		}
	})
}
