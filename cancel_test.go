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

// TestCancelledInRequest cancels the context during each request of a run in
// turn. The run ends soon and leaves nothing.
func TestCancelledInRequest(t *testing.T) {
	requests := 0
	for n := 0; n <= requests; n++ {
		runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Sleeps(time.Second)), runtest.Node("b", runtest.Up)}, func(t *testing.T, srv *exectest.Server) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var ended time.Time
			var mu sync.Mutex // guards the count
			count := 0
			remove := srv.Fault(exectest.Fault{Delay: time.Second, Match: func(*http.Request) bool {
				mu.Lock()
				defer mu.Unlock()
				count++
				if count == n+1 {
					ended = time.Now().Add(500 * time.Millisecond)
					time.AfterFunc(500*time.Millisecond, cancel)
				}
				return count == n+1
			}})
			e, err := consulexec.New("x", consulexec.WithClient(srv.Client()))
			if err != nil {
				t.Fatal(err)
			}
			result, err := e.Run(ctx)
			took := time.Since(ended)
			remove()
			if n == 0 {
				requests = max(requests, 5)
			}
			if ended.IsZero() { // the run made fewer requests
				if err != nil {
					t.Errorf("without request %d: error %v", n, err)
				}
				return
			}
			requests = max(requests, count)
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("request %d: error %v", n, err)
			}
			if took > 6*time.Second {
				t.Errorf("request %d: the run ends %v after the context", n, took)
			}
			runtest.CheckNothingLeft(t, srv.Client(), e, result)
		})
	}
	if requests < 8 {
		t.Errorf("%d requests, want at least 8", requests)
	}
}

// TestCancelVerdicts cancels a run when its nodes have taken the job or not, and
// the run has read no ack yet. It finds out which have, if Consul answers.
func TestCancelVerdicts(t *testing.T) {
	nodes := []exectest.Option{runtest.Node("a", runtest.Sleeps(time.Second)), runtest.Node("off", runtest.Up, exectest.ExecDisabled())}
	for _, test := range []struct {
		fault exectest.Fault // once the run is cancelled
		want  string
	}{
		{exectest.Fault{Match: exectest.Path("GET", "/v1/none")}, "a: running, off: no response"},
		{exectest.Fault{Match: exectest.Path("PUT", "/v1/txn"), Do: exectest.Refuse}, "a: lost, off: lost"},
		{exectest.Fault{Do: exectest.Hang}, "a: lost, off: lost"},
	} {
		runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var remove func()
			e, err := consulexec.New("x", consulexec.WithClient(srv.Client()), consulexec.OnSubmit(func() {
				time.Sleep(time.Second) // the agents' time to take the job
				remove = srv.Fault(test.fault)
				cancel()
			}))
			if err != nil {
				t.Fatal(err)
			}
			result, err := e.Run(ctx)
			remove()
			if got := runtest.States(result); !errors.Is(err, context.Canceled) || got != test.want {
				t.Errorf("error %v, states %s, want %s", err, got, test.want)
			}
			if a, _ := result.Node("a"); srv.Executions("a") != 1 || srv.Executions("off") != 0 || a.State == consulexec.StateLost && !strings.Contains(a.Err.Error(), "may have taken the job") {
				t.Errorf("a ran %d times, off %d times, error %v", srv.Executions("a"), srv.Executions("off"), a.Err)
			}
		})
	}
}

// TestKillNobody cancels a run before its dispatch. No node may run anything then,
// not even what would end the command.
func TestKillNobody(t *testing.T) {
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Up), runtest.Node("b", runtest.Up)}, func(t *testing.T, srv *exectest.Server) {
		remove := srv.Fault(exectest.Fault{Match: exectest.Path("GET", "/v1/health/"), Delay: 3 * time.Second})
		defer remove()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := runtest.NewRecorder(t, srv.Client()).Run(ctx, "x", consulexec.WithNodes("a"), consulexec.WithKillOnCancel())
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		if n := srv.Executions("a") + srv.Executions("b"); n > 0 {
			t.Errorf("%d executions, want none", n)
		}
	})
}

// TestKillFails cancels a run whose command cannot be ended, as its agent is dead. Its error is that the
// run was cancelled, not that a deadline passed.
func TestKillFails(t *testing.T) {
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", exectest.NeverExit)}, func(t *testing.T, srv *exectest.Server) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		time.AfterFunc(time.Second, func() { srv.Kill("a"); cancel() })
		_, err := runtest.NewRecorder(t, srv.Client()).Run(ctx, "x", consulexec.WithKillOnCancel())
		var nodeErr *consulexec.NodeError
		if !errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &nodeErr) || nodeErr.Node != "a" {
			t.Errorf("error %v", err)
		}
	})
}
