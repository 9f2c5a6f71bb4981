package consulexec_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
	"github.com/consulexec/consulexec/internal/runtest"
)

// A step is what one of two copies of a job does on its node.
type step func(ctx context.Context, j *exectest.Job)

// inSteps returns a command that takes steps and then exits with code, or
// reports no exit if code is -1.
func inSteps(code int, steps ...step) exectest.Handler {
	return func(ctx context.Context, j *exectest.Job) int {
		for _, step := range steps {
			step(ctx, j)
		}
		if code < 0 {
			j.Silence()
		}
		return code
	}
}

// puts writes an exit of the node.
func puts(exit string) step {
	return func(_ context.Context, j *exectest.Job) { j.Put(j.Node+"/exit", []byte(exit)) }
}

func passes(d time.Duration) step {
	return func(ctx context.Context, j *exectest.Job) { runtest.Sleeps(d)(ctx, j) }
}

func prints(text string) step {
	return func(_ context.Context, j *exectest.Job) { _, _ = io.WriteString(j.Output, text) }
}

// TestTurnedAway has a node whose agent got the event twice. The runner has
// turned the second copy away, which its agent reports as -1.
func TestTurnedAway(t *testing.T) {
	const lost = "node a: lost: silent for 15s; a second copy of the job was turned away, and the first one has not reported its end"
	under := consulexec.WithTimeout(time.Hour)
	for _, test := range []struct {
		name   string
		a      exectest.Handler
		option consulexec.Option
		want   string
		err    string
		warned bool
	}{
		{"before the exit", inSteps(7, puts("-1"), passes(3*time.Second), prints("up\n")), under, "a: exit 7, b: exit 0", "node a: exit status 7", true},
		{"before the exit, within one listing", inSteps(-1, prints("up\n"), passes(time.Second), puts("-1"), puts("0")), under, "a: exit 0, b: exit 0", "", false},
		{"amid output", inSteps(0, prints("u"), passes(time.Second), puts("-1"), passes(5*time.Second), prints("p\n")), under, "a: exit 0, b: exit 0", "", true},
		{"after the exit", inSteps(-1, prints("up\n"), passes(time.Second), puts("3"), passes(3*time.Second), puts("-1")), under, "a: exit 3, b: exit 0", "node a: exit status 3", false},
		{"twice", inSteps(7, puts("-1"), passes(3*time.Second), puts("-1"), passes(3*time.Second), prints("up\n")), under, "a: exit 7, b: exit 0", "node a: exit status 7", true},
		{"alone", inSteps(-1, prints("up\n"), passes(time.Second), puts("-1"), passes(time.Hour)), under, "a: lost, b: exit 0", lost, true},
		{"without the runner", inSteps(-1, prints("up\n"), passes(time.Second), puts("-1")), consulexec.WithMinNodes(2), "a: exit -1, b: exit 0", "node a: ended by a signal", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			runtest.Bubble(t, []exectest.Option{runtest.Node("a", test.a), runtest.Node("b", runtest.Sleeps(10*time.Second))}, func(t *testing.T, srv *exectest.Server) {
				var log bytes.Buffer
				rec, result, err := runtest.Execute(t, srv.Client(), "x", test.option, consulexec.WithWait(20*time.Second), consulexec.WithLostTimeout(21*time.Second),
					consulexec.WithLogger(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))))
				if got := runtest.States(result); err != nil || got != test.want {
					t.Errorf("error %v, states %s, want %s", err, got, test.want)
				}
				if got := fmt.Sprint(result.Err()); strings.TrimPrefix(got, "<nil>") != strings.Replace(test.err, "15s", "21s", 1) {
					t.Errorf("result %s, want %s", got, test.err)
				}
				if got := string(rec.Output["a"]); got != "up\n" {
					t.Errorf("output %q", got)
				}
				if warnings := strings.Count(log.String(), "a second copy of the job was turned away"); warnings > 0 != test.warned || warnings > 1 {
					t.Errorf("warned %v, log %s", test.warned, &log)
				}
			})
		})
	}
}

// TestTurnedAwayDeleted looks for the exit of the second copy while the first one
// still runs.
func TestTurnedAwayDeleted(t *testing.T) {
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", inSteps(0, puts("-1"), passes(time.Minute+time.Second)))}, func(t *testing.T, srv *exectest.Server) {
		rec := runtest.NewRecorder(t, srv.Client())
		rec.Hook = func(call string) {
			left := slices.ContainsFunc(srv.Keys(""), func(key string) bool { return strings.HasSuffix(key, "/exit") })
			if call == "heartbeat a" && left {
				t.Errorf("the exit is still there: %v", srv.Keys(""))
			}
		}
		result, err := rec.Run(t.Context(), "x", consulexec.WithTimeout(time.Hour))
		if err != nil || result.Err() != nil || runtest.States(result) != "a: exit 0" {
			t.Errorf("error %v, result %v", err, result.Err())
		}
	})
}

// onDeletion returns a fault that does something to each request that deletes a
// key with its index.
func onDeletion(do exectest.Action) exectest.Fault {
	return exectest.Fault{Match: exectest.Path("PUT", "/v1/txn"), Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(err)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		if bytes.Contains(body, []byte("delete-cas")) {
			do(w, r, next)
		} else {
			next.ServeHTTP(w, r)
		}
	}}
}

// TestTurnedAwayOverwritten has the first copy exit when the second copy's exit
// is read and is about to be deleted. Another node has written so much that
// listings bring no values.
func TestTurnedAwayOverwritten(t *testing.T) {
	exits := make(chan struct{})
	h := func(ctx context.Context, j *exectest.Job) int {
		runtest.Sleeps(10*time.Second)(ctx, j)
		j.Put("a/exit", []byte("-1"))
		<-exits
		j.Put("a/exit", []byte("7"))
		j.Silence()
		return 0
	}
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", h), runtest.Node("b", exectest.Answer(strings.Repeat("x", 80<<10), 0))}, func(t *testing.T, srv *exectest.Server) {
		exits = make(chan struct{}) // of the bubble
		deletions := 0
		srv.Fault(onDeletion(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if deletions++; deletions == 1 {
				close(exits)
			}
			time.Sleep(time.Millisecond)
			next.ServeHTTP(w, r)
		}))
		start := time.Now()
		_, result, err := runtest.Execute(t, srv.Client(), "x", consulexec.WithTimeout(time.Hour))
		if err != nil || runtest.States(result) != "a: exit 7, b: exit 0" || deletions != 1 {
			t.Errorf("error %v, states %s, %d deletions", err, runtest.States(result), deletions)
		}
		if took := time.Since(start); took > 10200*time.Millisecond {
			t.Errorf("took %v, want at most 10.2s", took)
		}
	})
}

// TestTurnedAwayListedBefore has the first copy print and exit when a listing has
// the second copy's exit, whose value is about to be read. Another node has
// written so much that listings bring no values.
func TestTurnedAwayListedBefore(t *testing.T) {
	exits := make(chan struct{})
	h := func(ctx context.Context, j *exectest.Job) int {
		runtest.Sleeps(10*time.Second)(ctx, j)
		j.Put("a/exit", []byte("-1"))
		<-exits
		j.Put("a/out/00000", []byte("up\n"))
		j.Put("a/exit", []byte("7"))
		j.Silence()
		return 0
	}
	nodes := []exectest.Option{runtest.Node("a", h), runtest.Node("b", exectest.Answer(strings.Repeat("x", 80<<10), 0)), runtest.Node("c", runtest.Sleeps(20*time.Second))}
	runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		exits = make(chan struct{}) // of the bubble
		begun := time.Now()
		done := false
		srv.Fault(exectest.Fault{Match: exectest.Path("PUT", "/v1/txn"), Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if !done && time.Since(begun) > 9*time.Second {
				done = true
				close(exits)
			}
			time.Sleep(time.Millisecond)
			next.ServeHTTP(w, r)
		}})
		_, result, err := runtest.Execute(t, srv.Client(), "x", consulexec.WithTimeout(time.Hour), consulexec.WithWait(time.Hour))
		if a, _ := result.Node("a"); err != nil || a.ExitCode != 7 || string(a.Output) != "up\n" {
			t.Errorf("error %v, node a %v with %d, output %q", err, a.State, a.ExitCode, a.Output)
		}
	})
}

// TestTurnedAwayUndeletable can't delete the second copy's exit. The first
// copy's, which overwrites it, is read nevertheless, and nobody asks too often.
func TestTurnedAwayUndeletable(t *testing.T) {
	for name, do := range map[string]exectest.Action{
		"refused":     exectest.Refuse,
		"forbidden":   exectest.Denied,
		"rolled back": exectest.Respond(http.StatusConflict, `{"Results":null,"Errors":[{"OpIndex":0,"What":"Permission denied"}]}`),
	} {
		for _, chatty := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " ", chatty), func(t *testing.T) {
				const runs = 20 * time.Second
				first := inSteps(7, puts("-1"), passes(runs))
				if chatty {
					steps := []step{puts("-1")}
					for range int(runs / (100 * time.Millisecond)) {
						steps = append(steps, func(_ context.Context, j *exectest.Job) { _, _ = j.Output.Write(make([]byte, 4096)) }, passes(100*time.Millisecond))
					}
					first = inSteps(7, steps...)
				}
				runtest.Bubble(t, []exectest.Option{runtest.Node("a", first), runtest.Node("b", runtest.Sleeps(time.Second))}, func(t *testing.T, srv *exectest.Server) {
					var deletions atomic.Int64
					srv.Fault(onDeletion(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
						deletions.Add(1)
						do(w, r, next)
					}))
					start := time.Now()
					_, result, err := runtest.Execute(t, srv.Client(), "x", consulexec.WithTimeout(time.Hour), consulexec.WithWait(time.Hour))
					if err != nil || runtest.States(result) != "a: exit 7, b: exit 0" || strings.Contains(result.Err().Error(), "twice") {
						t.Errorf("error %v, states %s, result %v", err, runtest.States(result), result.Err())
					}
					if took := time.Since(start) - runs; took > 2500*time.Millisecond {
						t.Errorf("the exit is read %v later, want at most 2.5s", took)
					}
					n := deletions.Load()
					if most := int64(runs/time.Second) + 3; n < 2 || n > most {
						t.Errorf("%d deletions, want 2 to %d", n, most)
					}
				})
			})
		}
	}
}

// TestTurnedAwayAfterDeletion has so many nodes that their exits are deleted.
// Later their second copies report their ends.
func TestTurnedAwayAfterDeletion(t *testing.T) {
	var nodes []exectest.Option
	for i, exit := range []string{"0", "-1"} {
		for n := range 50 {
			nodes = append(nodes, runtest.Node(fmt.Sprintf("n-%d-%02d", i, n), inSteps(-1, puts("0"), passes(3*time.Second), puts(exit))))
		}
	}
	nodes = append(nodes, runtest.Node("slow", runtest.Sleeps(10*time.Second)))
	runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		var log bytes.Buffer
		logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		_, result, err := runtest.Execute(t, srv.Client(), "x", consulexec.WithTimeout(time.Hour), consulexec.WithWait(time.Hour), consulexec.WithLogger(logger))
		if err != nil || result.Err() != nil || strings.Count(runtest.States(result), "exit 0") != 101 {
			t.Errorf("error %v, states %s, result %v", err, runtest.States(result), result.Err())
		}
		if !strings.Contains(log.String(), "deleted what was read") || strings.Contains(log.String(), "level=WARN") {
			t.Errorf("log %s", &log)
		}
	})
}

// TestTurnedAwayAtTheEnd has commands end when a second copy is turned away.
// That copy's exit must not take the place of the first one's.
func TestTurnedAwayAtTheEnd(t *testing.T) {
	var nodes []exectest.Option
	for i := range 200 {
		nodes = append(nodes, runtest.Node(fmt.Sprintf("n-%03d", i), exectest.Answer("up\n", 0), exectest.RepeatEvents(1)))
	}
	runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		_, result, err := runtest.Execute(t, srv.Client(), "x", consulexec.WithTimeout(time.Hour))
		if err != nil || result.Err() != nil {
			t.Errorf("error %v, result %v", err, result.Err())
		}
	})
}
