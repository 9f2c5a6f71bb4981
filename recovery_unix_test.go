//go:build unix

package consulexec_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
	"github.com/consulexec/consulexec/internal/runtest"
)

// TestRecovery has a cluster of exectest lose what nodes report, in several
// ways, while they really run a command.
func TestRecovery(t *testing.T) {
	// loses is a handler whose agent gives up in the middle of the first job.
	loses := func() exectest.Handler {
		var once sync.Once
		return func(ctx context.Context, j *exectest.Job) int {
			once.Do(func() { time.AfterFunc(time.Second, j.Silence) })
			return exectest.RunCommand(ctx, j)
		}
	}
	for _, test := range []struct {
		name      string
		accident  func(srv *exectest.Server)
		recovered int // of "b", at least
	}{
		{"agent gives up", func(*exectest.Server) {}, 0},
		{"agent restarted", func(srv *exectest.Server) {
			srv.Kill("b")
			time.Sleep(200 * time.Millisecond)
			srv.Start("b")
		}, 1},
		{"session destroyed", func(srv *exectest.Server) {
			for _, id := range srv.Sessions() {
				srv.DestroySession(id)
			}
		}, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			srv := exectest.NewServer(runtest.Node("a", loses()), exectest.Node("b"))
			defer srv.Close()
			rec := runtest.NewRecorder(t, srv.Client())
			rec.Hook = func(call string) {
				if call == "output b" && rec.Count(call) == 1 {
					test.accident(srv)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			command := "for i in 1 2 3 4; do echo line $i; sleep 0.7; done; exit 7"
			result, err := rec.Run(ctx, command, consulexec.WithRecovery(30*time.Second),
				consulexec.WithWait(100*time.Millisecond), consulexec.WithLostTimeout(2*time.Second))
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range result.Nodes {
				if n.ExitCode != 7 || strings.Count(string(n.Output), "line") != 4 || !strings.HasSuffix(string(n.Output), "line 4\n") {
					t.Errorf("%s: %v, code %d, output %q", n.Node, n.State, n.ExitCode, n.Output)
				}
				if least := map[string]int{"a": 1, "b": test.recovered}[n.Node]; n.Recovered < least {
					t.Errorf("%s was reached again %d times, want at least %d", n.Node, n.Recovered, least)
				}
			}
			if left := srv.Keys(""); len(left) > 0 || len(srv.Sessions()) > 0 {
				t.Errorf("keys %q and sessions %q are left", left, srv.Sessions())
			}
		})
	}
}

// TestRecoveryRolling destroys the session when a node has exited and the next
// one is about to get the job. Each node runs the command once.
func TestRecoveryRolling(t *testing.T) {
	t.Parallel()
	srv := exectest.NewServer(exectest.Node("a"), exectest.Node("b"), exectest.Node("c"))
	defer srv.Close()
	rec := runtest.NewRecorder(t, srv.Client())
	rec.Hook = func(call string) {
		if strings.HasPrefix(call, "exit ") {
			for _, id := range srv.Sessions() {
				srv.DestroySession(id)
			}
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	result, err := rec.Run(ctx, "echo up", consulexec.WithRecovery(30*time.Second), consulexec.WithConcurrency(1))
	if err != nil || result.Err() != nil || runtest.States(result) != "a: exit 0, b: exit 0, c: exit 0" {
		t.Errorf("error %v, result %v, states %s", err, result.Err(), runtest.States(result))
	}
	for _, n := range result.Nodes {
		if string(n.Output) != "up\n" {
			t.Errorf("%s printed %q", n.Node, n.Output)
		}
	}
}

// TestRecoveryConsulGone has Consul stay away for longer than a run waits.
func TestRecoveryConsulGone(t *testing.T) {
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Sleeps(time.Hour))}, func(t *testing.T, srv *exectest.Server) {
		rec := runtest.NewRecorder(t, srv.Client())
		var gone time.Time
		rec.Hook = func(call string) {
			if call == "ack a" {
				gone = time.Now()
				srv.Fault(exectest.Fault{Do: exectest.Refuse, Match: func(*http.Request) bool { return true }})
			}
		}
		e := rec.New("x", consulexec.WithRecovery(10*time.Minute))
		_, err := e.Run(t.Context())
		if took := time.Since(gone); !errors.Is(err, consulexec.ErrSessionLost) || took < 10*time.Minute || took > 11*time.Minute {
			t.Errorf("error %v after %v", err, took)
		}
	})
}

// TestRecoveryOutage has Consul stay away for minutes: the session expires.
func TestRecoveryOutage(t *testing.T) {
	runtest.Bubble(t, []exectest.Option{exectest.Node("a", exectest.Run(runtest.Sleeps(20*time.Minute)))}, func(t *testing.T, srv *exectest.Server) {
		rec := runtest.NewRecorder(t, srv.Client())
		rec.Hook = func(call string) {
			if call == "ack a" {
				end := srv.Fault(exectest.Fault{Do: exectest.Refuse, Match: func(*http.Request) bool { return true }})
				time.AfterFunc(5*time.Minute, end)
			}
		}
		result, err := rec.Run(t.Context(), "x", consulexec.WithRecovery(10*time.Minute))
		if err != nil || runtest.States(result) != "a: exit 0" {
			t.Errorf("error %v, states %s", err, runtest.States(result))
		}
	})
}

// TestRecoverySecondCopy has an agent give up before it has written any output.
// It gets the job again when the command has ended. That is there as long as the
// other node has not answered.
func TestRecoverySecondCopy(t *testing.T) {
	h := func(_ context.Context, j *exectest.Job) int {
		_, _ = j.Output.Write([]byte("up"))
		j.Silence()
		return 7
	}
	nodes := []exectest.Option{runtest.Node("a", h, exectest.AckAfter(time.Second), exectest.RepeatEvents(1)), runtest.Node("off", runtest.Up, exectest.ExecDisabled())}
	runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		_, result, err := runtest.Execute(t, srv.Client(), "x", consulexec.WithRecovery(time.Minute), consulexec.WithAckTimeout(20*time.Second))
		if a, _ := result.Node("a"); err != nil || a.ExitCode != 7 || string(a.Output) != "up" {
			t.Errorf("error %v, %+v", err, a)
		}
	})
}

// TestRecoveryOverwritten has a second copy of the job write a heartbeat over
// output that was not read yet.
func TestRecoveryOverwritten(t *testing.T) {
	h := func(ctx context.Context, j *exectest.Job) int {
		runtest.Sleeps(time.Second)(ctx, j)
		j.Put("x", nil) // ends the listing that waits
		_, _ = j.Output.Write([]byte("up"))
		runtest.Sleeps(time.Second)(ctx, j)
		j.Put("a/out/00000", nil)
		runtest.Sleeps(5*time.Second)(ctx, j)
		return 7
	}
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", h)}, func(t *testing.T, srv *exectest.Server) {
		begun := time.Now()
		srv.Fault(exectest.Fault{Do: exectest.Refuse, Match: func(r *http.Request) bool {
			return r.Method == "GET" && time.Since(begun) >= time.Second && time.Since(begun) < 3*time.Second
		}})
		_, result, err := runtest.Execute(t, srv.Client(), "x", consulexec.WithRecovery(time.Minute), consulexec.WithWait(time.Hour))
		if a, _ := result.Node("a"); err != nil || a.ExitCode != 7 || string(a.Output) != "up" {
			t.Errorf("error %v, %+v", err, a)
		}
	})
}

// TestRecoveryShortOutage has somebody destroy the session while Consul has no
// leader for a moment. That is ridden out even if the time of recovery is short.
func TestRecoveryShortOutage(t *testing.T) {
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Sleeps(time.Minute))}, func(t *testing.T, srv *exectest.Server) {
		rec := runtest.NewRecorder(t, srv.Client())
		rec.Hook = func(call string) {
			if call == "ack a" {
				for _, id := range srv.Sessions() {
					srv.DestroySession(id)
				}
				// The run hears of the loss after 5 s.
				end := srv.Fault(exectest.Fault{Do: exectest.Respond(500, "No cluster leader"), Match: exectest.Path("PUT", "/v1/session/destroy/")})
				time.AfterFunc(25*time.Second, end)
			}
		}
		result, err := rec.Run(t.Context(), "x", consulexec.WithRecovery(time.Second))
		if err != nil || runtest.States(result) != "a: exit 0" {
			t.Errorf("error %v, states %s", err, runtest.States(result))
		}
	})
}
