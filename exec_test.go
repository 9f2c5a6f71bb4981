package consulexec_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
	"github.com/consulexec/consulexec/internal/runtest"
)

func TestStartAndWait(t *testing.T) {
	srv := exectest.NewServer(runtest.Node("a", runtest.Up))
	defer srv.Close()
	rec := runtest.NewRecorder(t, srv.Client())
	e := rec.New("x")
	if result, err := e.Wait(); err != consulexec.ErrNotStarted || result.Err() != err || result.ID != "" {
		t.Errorf("Wait before Start: %v, %v", result, err)
	}
	//lint:ignore SA1012 the test is about a nil context
	if err := e.Start(nil); err == nil {
		t.Error("Start accepts a nil context")
	}
	//lint:ignore SA1012 the test is about a nil context
	if result, err := e.Run(nil); err == nil || result.Err() != err {
		t.Errorf("Run with a nil context: %v, error %v", result, err)
	}
	if err := e.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := e.Start(t.Context()); !errors.Is(err, consulexec.ErrStarted) {
		t.Errorf("second Start: %v", err)
	}
	if result, err := e.Run(t.Context()); err != consulexec.ErrStarted || result.Err() != err || result.ID != "" {
		t.Errorf("Run after Start: %v, %v", result, err)
	}
	var waiters sync.WaitGroup
	for range 3 {
		waiters.Go(func() {
			if result, err := e.Wait(); err != nil || runtest.States(result) != "a: exit 0" {
				t.Errorf("error %v, states %v", err, runtest.States(result))
			}
		})
	}
	waiters.Wait()
	rec.CheckCalls(nil)
	if n := srv.Executions("a"); n != 1 {
		t.Errorf("the command ran %d times, want 1", n)
	}
}

// TestManyRuns runs twenty Execs at once through one client.
func TestManyRuns(t *testing.T) {
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Up), runtest.Node("b", runtest.Sleeps(time.Minute))}, func(t *testing.T, srv *exectest.Server) {
		var runs sync.WaitGroup
		for range 20 {
			runs.Go(func() {
				e, err := consulexec.New("x", consulexec.WithClient(srv.Client()))
				if err != nil {
					t.Error(err)
					return
				}
				if result, err := e.Run(t.Context()); err != nil || runtest.States(result) != "a: exit 0, b: exit 0" {
					t.Errorf("error %v, states %s", err, runtest.States(result))
				}
			})
		}
		runs.Wait()
		if keys, sessions := srv.Keys(""), srv.Sessions(); len(keys)+len(sessions) > 0 {
			t.Errorf("the runs leave keys %v and sessions %v", keys, sessions)
		}
	})
}

// TestRequests counts the requests of a small run.
func TestRequests(t *testing.T) {
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Up), runtest.Node("b", runtest.Up), runtest.Node("c", runtest.Up)}, func(t *testing.T, srv *exectest.Server) {
		if _, result, err := runtest.Execute(t, srv.Client(), "uptime"); err != nil || result.Err() != nil {
			t.Fatal(err, result.Err())
		}
		n := 0
		for _, r := range srv.Requests() {
			if strings.HasPrefix(r.Path, "/v1/session/list") || strings.HasPrefix(r.Path, "/v1/catalog/datacenters") || r.Path == "/v1/kv/" {
				continue // from the checks of what is left
			}
			n++
		}
		if n > 25 {
			t.Errorf("%d requests, want at most 25", n)
		}
	})
}

// TestSilentForHours runs a command that prints nothing for longer than any
// timeout. Its heartbeats keep the node from being lost.
func TestSilentForHours(t *testing.T) {
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Sleeps(3*time.Hour))}, func(t *testing.T, srv *exectest.Server) {
		rec, result, err := runtest.Execute(t, srv.Client(), "x", consulexec.WithWait(10*time.Second))
		if err != nil || result.Err() != nil {
			t.Errorf("error %v, result %v", err, result.Err())
		}
		if n := rec.Count("heartbeat a"); n < 1000 {
			t.Errorf("%d heartbeats, want at least 1000", n)
		}
	})
}

// givesUp returns a command that prints "begun". Its agent gives up d later and
// reports nothing more.
func givesUp(d time.Duration) exectest.Handler {
	return func(ctx context.Context, j *exectest.Job) int {
		fmt.Fprintln(j.Output, "begun")
		runtest.Sleeps(d)(ctx, j)
		j.Silence()
		return 0
	}
}

// TestLost loses two nodes. The agent of one lives, but reports nothing more. The
// agent of the other dies, which gossip reports sooner.
func TestLost(t *testing.T) {
	options := []exectest.Option{
		runtest.Node("a", runtest.Up),
		runtest.Node("b", givesUp(10*time.Second)),
		runtest.Node("c", runtest.Sleeps(time.Minute)),
		runtest.Node("d", runtest.Dies(10*time.Second)),
	}
	runtest.Bubble(t, options, func(t *testing.T, srv *exectest.Server) {
		start := time.Now()
		noticed := make(map[string]time.Duration)
		rec := runtest.NewRecorder(t, srv.Client())
		rec.Hook = func(call string) { noticed[call] = time.Since(start) }
		result, err := rec.Run(t.Context(), "x", consulexec.WithLostTimeout(20*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := runtest.States(result), "a: exit 0, b: lost, c: exit 0, d: lost"; got != want {
			t.Errorf("states %s, want %s", got, want)
		}
		for name, want := range map[string]struct {
			text     string
			min, max time.Duration
		}{
			"b": {"silent for 20", 28 * time.Second, 31 * time.Second}, // the last heartbeat was up to 2 s before
			"d": {"serfHealth is critical", 10 * time.Second, 15 * time.Second},
		} {
			n, _ := result.Node(name)
			var lost *consulexec.NodeError
			if !errors.As(n.Err, &lost) || lost.Node != name || lost.State != consulexec.StateLost || !strings.Contains(lost.Error(), want.text) {
				t.Errorf("%s: error %v, want a loss because %s", name, n.Err, want.text)
			}
			if after := noticed["lost "+name]; after < want.min || after > want.max {
				t.Errorf("%s: lost after %v, want %v to %v", name, after, want.min, want.max)
			}
			if string(rec.Output[name]) != "begun\n" {
				t.Errorf("%s: output %q", name, rec.Output[name])
			}
		}
	})
}

func TestNoResponse(t *testing.T) {
	options := []exectest.Option{
		runtest.Node("a", runtest.Up),
		runtest.Node("late", runtest.Up, exectest.AckAfter(7*time.Second)),
		runtest.Node("off", runtest.Up, exectest.ExecDisabled()),
		runtest.Node("down", runtest.Up, exectest.Down()),
		runtest.Node("other", runtest.Up, exectest.External()),
		runtest.Node("slow", runtest.Sleeps(10*time.Second)),
	}
	runtest.Bubble(t, options, func(t *testing.T, srv *exectest.Server) {
		start := time.Now()
		rec, result, err := runtest.Execute(t, srv.Client(), "x")
		if err != nil {
			t.Fatal(err)
		}
		// The node that is down and the one without an agent are not expected. The
		// late one is fenced, so that it does not run, although the slow one keeps the
		// run going.
		if got, want := runtest.States(result), "a: exit 0, late: no response, off: no response, slow: exit 0"; got != want {
			t.Errorf("states %s, want %s", got, want)
		}
		if !slices.Contains(rec.Calls, "no-response late") || !slices.Contains(rec.Calls, "no-response off") {
			t.Errorf("late or off has no no-response: %v", rec.Calls)
		}
		if n := srv.Executions("late"); n != 0 {
			t.Errorf("late ran %d times after its no-response", n)
		}
		if took := time.Since(start); took > 11*time.Second {
			t.Errorf("took %v, want at most 11s", took)
		}
	})
	runtest.Bubble(t, options[:3], func(t *testing.T, srv *exectest.Server) {
		start := time.Now()
		_, result, err := runtest.Execute(t, srv.Client(), "x", consulexec.WithAckTimeout(3*time.Second))
		if err != nil || runtest.States(result) != "a: exit 0, late: no response, off: no response" {
			t.Errorf("error %v, states %s", err, runtest.States(result))
		}
		if took := time.Since(start); took < 3*time.Second || took > 4*time.Second {
			t.Errorf("took %v, want 3s to 4s", took)
		}
	})
}

// TestRanTwice has a node whose agent got the event twice, so that one copy of
// the command writes over what the other wrote.
func TestRanTwice(t *testing.T) {
	twice := func(ctx context.Context, j *exectest.Job) int {
		j.Put("a/out/00000", []byte("first\n"))
		j.Put("a/out/00000", []byte("second\n"))
		return runtest.Sleeps(time.Second)(ctx, j)
	}
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", twice), runtest.Node("b", runtest.Up)}, func(t *testing.T, srv *exectest.Server) {
		_, result, err := runtest.Execute(t, srv.Client(), "x")
		if got, want := runtest.States(result), "a: exit 0, b: exit 0"; err != nil || got != want {
			t.Errorf("error %v, states %s, want %s", err, got, want)
		}
		var failed *consulexec.NodeError
		if !errors.As(result.Err(), &failed) || failed.Node != "a" || !strings.Contains(failed.Error(), "may have run twice") {
			t.Errorf("result %v", result.Err())
		}
	})
}

// TestLog checks that the log has each step, and no secret.
func TestLog(t *testing.T) {
	srv := exectest.NewServer(runtest.Node("a", runtest.Up))
	defer srv.Close()
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	config := &api.Config{Address: srv.URL, Token: "very-secret"}
	e, err := consulexec.New("do --password=hush", consulexec.WithConfig(config), consulexec.WithLogger(logger))
	if err != nil {
		t.Fatal(err)
	}
	result, err := e.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(log.String()) {
		if !strings.Contains(line, "run="+e.ID()) || !strings.Contains(line, "level=DEBUG") {
			t.Errorf("log line %q is not at DEBUG, or does not name the run", line)
		}
	}
	for _, step := range []string{"session created", "job written", "targets found", "event fired", "msg=ack", "msg=output", "msg=exit", "session destroyed", "keys deleted", "msg=done", result.Session} {
		if !strings.Contains(log.String(), step) {
			t.Errorf("the log lacks %q:\n%s", step, &log)
		}
	}
	for _, secret := range []string{"hush", "very-secret"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("%q is in the log:\n%s", secret, &log)
		}
	}
}

// TestSessionName checks that a session is named after its run and its host.
func TestSessionName(t *testing.T) {
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Sleeps(time.Second))}, func(t *testing.T, srv *exectest.Server) {
		var e *consulexec.Exec
		var names []string
		e, err := consulexec.New("x", consulexec.WithClient(srv.Client()), consulexec.OnAck(func(string) {
			sessions, _, err := srv.Client().Session().List(nil)
			if err != nil {
				t.Error(err)
			}
			for _, s := range sessions {
				names = append(names, s.Name)
			}
		}))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		host, _ := os.Hostname()
		if len(names) != 1 || !strings.Contains(names[0], e.ID()) || !strings.Contains(names[0], host) {
			t.Errorf("session names %q, want one with %q and %q", names, e.ID(), host)
		}
	})
}

// TestReplicationWait measures the pause between job and event.
func TestReplicationWait(t *testing.T) {
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Up)}, func(t *testing.T, srv *exectest.Server) {
		if _, result, err := runtest.Execute(t, srv.Client(), "x", consulexec.WithReplicationWait(3*time.Second)); err != nil || result.Err() != nil {
			t.Fatal(err, result.Err())
		}
		var job, event time.Time
		for _, r := range srv.Requests() {
			switch {
			case r.Method == "PUT" && strings.HasSuffix(r.Path, "/job"):
				job = r.Time
			case strings.HasPrefix(r.Path, "/v1/event/fire/"):
				event = r.Time
			}
		}
		if pause := event.Sub(job); pause != 3*time.Second {
			t.Errorf("%v between job and event, want 3s", pause)
		}
	})
}
