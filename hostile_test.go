package consulexec_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
)

// hostile runs with one node that does as h says, and returns what became of it
// and the log.
func hostile(t *testing.T, name string, h exectest.Handler, check func(t *testing.T, rec *recorder, result *consulexec.Result, log string)) {
	t.Helper()
	nodes := []exectest.Option{node("first", ok), node(name, h)}
	bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		var log bytes.Buffer
		logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		rec, result, err := executeContext(ctx, t, srv.Client(), new(recorder), "x", consulexec.WithLogger(logger))
		if err != nil {
			t.Errorf("error %v", err)
		}
		if n, ok := result.Node("first"); !ok || n.Err != nil || string(n.Output) != "up\n" {
			t.Errorf("the other node: %+v", n)
		}
		check(t, rec, result, log.String())
	})
}

// TestNodeNames has nodes whose names look like parts of the protocol.
func TestNodeNames(t *testing.T) {
	for _, name := range []string{"job", "out", "ack", "exit", "a.b.c", "50%", "%2F", "a%20b", "out.00000", "ümlaut", "a b"} {
		hostile(t, name, counts(3), func(t *testing.T, rec *recorder, result *consulexec.Result, log string) {
			n, _ := result.Node(name)
			if result.Err() != nil || string(n.Output) != "0\n1\n2\n" || log != "" {
				t.Errorf("node %q: %v, output %q, log %s", name, result.Err(), n.Output, log)
			}
		})
	}
}

// TestHostileKeys has keys under the job that no agent writes.
func TestHostileKeys(t *testing.T) {
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
				node("me", func(_ context.Context, j *exectest.Job) int {
					test.do(j)
					return 0
				}),
				node("other", sleeps(10*time.Second)),
			}
			bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
				var log bytes.Buffer
				rec := &recorder{t: t}
				e, err := consulexec.New("x", append(rec.options(), consulexec.WithClient(srv.Client()),
					consulexec.OnOutput(func(node string, output []byte) { rec.output[node] = append(rec.output[node], output...) }),
					consulexec.WithLogger(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))))...)
				if err != nil {
					t.Fatal(err)
				}
				result, err := e.Run(t.Context())
				rec.check(err)
				if got, want := states(result), "me: "+test.state+", other: exit 0"; err != nil || got != want {
					t.Errorf("error %v, states %s, want %s", err, got, want)
				}
				if got := string(rec.output["me"]); got != test.output {
					t.Errorf("%d bytes of output, %.40q, want %.40q", len(got), got, test.output)
				}
				for _, want := range test.logged {
					if !strings.Contains(log.String(), want) {
						t.Errorf("log does not have %q:\n%.2000s", want, &log)
					}
				}
				checkNothingLeft(t, srv.Client(), e, result)
			})
		})
	}
}

// TestStrangersKeys has somebody without the session write results.
func TestStrangersKeys(t *testing.T) {
	nodes := []exectest.Option{node("me", sleeps(5*time.Second)), node("off", ok, exectest.ExecDisabled())}
	bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		var log bytes.Buffer
		rec := &recorder{hook: func(call string) {
			if call != "ack me" {
				return
			}
			base := "_rexec/" + srv.Sessions()[0] + "/"
			for _, key := range []string{"off/ack", "off/out/00000", "off/exit", "me/out/00009", "me/exit", "stranger/ack", "stranger/exit"} {
				srv.Put(base+key, []byte("0"))
			}
		}}
		_, result, err := executeContext(t.Context(), t, srv.Client(), rec, "x",
			consulexec.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		if err != nil || states(result) != "me: exit 0, off: no response" {
			t.Errorf("error %v, states %s", err, states(result))
		}
		if n := strings.Count(log.String(), "key of somebody else"); n != 7 {
			t.Errorf("%d of 7 keys logged, each once:\n%s", n, &log)
		}
	})
}

// TestPrefixDeleted has somebody delete what nodes have reported: acks that were
// not read yet, an exit, and all of it together with the job.
func TestPrefixDeleted(t *testing.T) {
	nodes := []exectest.Option{node("a", counts(20)), node("b", sleeps(2*time.Second)), node("c", sleeps(30*time.Second))}
	bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		rec := &recorder{hook: func(call string) {
			if call == "ack a" {
				for _, after := range []time.Duration{time.Millisecond, 1990 * time.Millisecond, 3 * time.Second} {
					time.AfterFunc(after, func() {
						for _, key := range srv.Keys("_rexec/") {
							srv.Delete(key)
						}
					})
				}
			}
		}}
		start := time.Now()
		_, result, err := executeContext(t.Context(), t, srv.Client(), rec, "x")
		if err != nil {
			t.Errorf("error %v", err)
		}
		for _, n := range result.Nodes {
			if n.State != consulexec.StateExited && n.State != consulexec.StateLost {
				t.Errorf("%s is %v", n.Node, n.State)
			}
		}
		if n, _ := result.Node("c"); n.State != consulexec.StateExited {
			t.Errorf("c is %v", n.State)
		}
		if took := time.Since(start); took > time.Minute {
			t.Errorf("took %v", took)
		}
	})
}

// TestOutageLog has an outage in which many requests fail: it is logged once, and
// its end once.
func TestOutageLog(t *testing.T) {
	bubble(t, []exectest.Option{node("a", counts(100))}, func(t *testing.T, srv *exectest.Server) {
		var log bytes.Buffer
		failed := 0
		rec := &recorder{hook: func(call string) {
			if call == "ack a" {
				time.AfterFunc(2*time.Second, func() {
					remove := srv.Fault(exectest.Fault{Do: exectest.Respond(http.StatusInternalServerError, "No cluster leader"), Match: func(*http.Request) bool {
						failed++
						return true
					}})
					time.AfterFunc(8*time.Second, remove)
				})
			}
		}}
		_, result, err := executeContext(t.Context(), t, srv.Client(), rec, "x",
			consulexec.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		if err != nil || result.Err() != nil {
			t.Errorf("error %v, result %v", err, result.Err())
		}
		if failed < 5 {
			t.Errorf("only %d requests failed", failed)
		}
		if n := strings.Count(log.String(), "\n"); n != 2 || !strings.Contains(log.String(), "No cluster leader") || !strings.Contains(log.String(), "after=") {
			t.Errorf("%d log lines, want 2:\n%s", n, &log)
		}
	})
}

// TestNoRetry has requests fail in ways that cannot pass: each is made once.
func TestNoRetry(t *testing.T) {
	for _, test := range []struct {
		path, text string
		status     int
		is         error
	}{
		{"/v1/session/create", "Bad request", 400, nil},
		{"/v1/session/create", "Permission denied", 403, consulexec.ErrPermissionDenied},
		{"/v1/session/create", "rpc error making call: Permission denied", 500, consulexec.ErrPermissionDenied},
		{"/v1/kv/", "Request body(600000 bytes) too large", 413, nil},
		{"/v1/kv/", "invalid session", 500, consulexec.ErrSessionLost},
		{"/v1/event/fire/", "user event exceeds configured limit of 512 bytes", 500, nil},
		{"/v1/txn", "Permission denied", 403, consulexec.ErrPermissionDenied},
	} {
		long := func(ctx context.Context, j *exectest.Job) int { // so that values are read by transactions
			fmt.Fprint(j.Output, strings.Repeat("x", 20_000))
			return counts(3)(ctx, j)
		}
		bubble(t, []exectest.Option{node("a", long)}, func(t *testing.T, srv *exectest.Server) {
			n := 0
			match := exectest.Path("PUT", test.path)
			remove := srv.Fault(exectest.Fault{Do: exectest.Respond(test.status, test.text), Match: func(r *http.Request) bool {
				if match(r) {
					n++
				}
				return match(r)
			}})
			defer remove()
			_, _, err := execute(t, srv.Client(), "x")
			if err == nil || !strings.Contains(err.Error(), test.text) || test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("%s: error %v", test.path, err)
			}
			if n != 1 {
				t.Errorf("%s, status %d: %d requests", test.path, test.status, n)
			}
		})
	}
}
