package consulexec_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
	"github.com/consulexec/consulexec/internal/runtest"
)

// kinds are the errors that programs tell apart.
var kinds = map[string]error{
	"unavailable": consulexec.ErrUnavailable,
	"denied":      consulexec.ErrPermissionDenied,
	"session":     consulexec.ErrSessionLost,
	"no targets":  consulexec.ErrNoTargets,
	"too few":     consulexec.ErrTooFewNodes,
	"timed out":   consulexec.ErrTimedOut,
	"deadline":    context.DeadlineExceeded,
	"cancelled":   context.Canceled,
	"bad option":  consulexec.ErrBadOption,
	"loop left":   consulexec.ErrLoopLeft,
}

// checkKinds compares the kinds of an error with want, separated by commas.
func checkKinds(t *testing.T, err error, want string) {
	t.Helper()
	for name, kind := range kinds {
		if wanted := strings.Contains(","+want+",", ","+name+","); errors.Is(err, kind) != wanted {
			t.Errorf("%q is of kind %q: %v, want %v", err, name, !wanted, wanted)
		}
	}
}

// TestErrorKinds has Consul fail in all ways, before the job is submitted or
// after the ack of a node that never ends.
func TestErrorKinds(t *testing.T) {
	create := exectest.Path("PUT", "/v1/session/create")
	noLeader := exectest.Respond(500, "No cluster leader")
	destroy := func(srv *exectest.Server) {
		for _, id := range srv.Sessions() {
			srv.DestroySession(id)
		}
	}
	fault := func(match func(*http.Request) bool, do exectest.Action) func(*exectest.Server) {
		return func(srv *exectest.Server) { srv.Fault(exectest.Fault{Match: match, Do: do}) }
	}
	for _, test := range []struct {
		name          string
		before, after func(srv *exectest.Server) // the event
		timeout       time.Duration              // of the run's context, if any
		options       []consulexec.Option
		submitted     bool
		want          string // of Run
	}{
		{name: "not reached", before: fault(nil, exectest.Refuse), want: "unavailable"},
		{name: "no leader", before: fault(create, noLeader), want: "unavailable"},
		{name: "overloaded", before: fault(create, exectest.Respond(429, "slow down")), want: "unavailable"},
		{name: "no answer", before: fault(create, exectest.Hang), want: "unavailable"},
		{name: "no answer in time", before: fault(create, noLeader), timeout: 2 * time.Second, want: "unavailable,deadline"},
		{name: "no server", before: fault(exectest.Path("GET", "/v1/health/service"), exectest.Respond(200, "[]")),
			options: []consulexec.Option{consulexec.WithDatacenter("dc1")}, want: "unavailable"},
		{name: "denied", before: fault(create, exectest.Denied), want: "denied"},
		{name: "unknown token", before: fault(create, exectest.Respond(403, "ACL not found")), want: "denied"},
		{name: "bad request", before: fault(create, exectest.Respond(400, "no")), want: ""},
		{name: "denied event", before: fault(exectest.Path("PUT", "/v1/event/fire"), exectest.Denied), want: "denied"},
		{name: "refused event", before: fault(exectest.Path("PUT", "/v1/event/fire"), exectest.Refuse), want: "unavailable"},
		{name: "uncertain event", before: fault(exectest.Path("PUT", "/v1/event/fire"), exectest.Respond(500, "rpc error making call: EOF")), submitted: true, want: "unavailable"},
		{name: "nothing matches", options: []consulexec.Option{consulexec.WithNode("z")}, want: "no targets"},
		{name: "session destroyed", after: destroy, submitted: true, want: "session"},
		{name: "session not renewed", after: fault(exectest.Path("PUT", "/v1/session/renew"), exectest.Refuse), submitted: true, want: "session,unavailable"},
		{name: "session not renewed, no answer", after: fault(exectest.Path("PUT", "/v1/session/renew"), exectest.Hang), submitted: true, want: "session,unavailable"},
		{name: "not recovered", after: fault(nil, exectest.Hang), submitted: true,
			options: []consulexec.Option{consulexec.WithRecovery(time.Minute)}, want: "session,unavailable"},
		{name: "deadline", timeout: 3 * time.Second, submitted: true, want: "deadline"},
	} {
		t.Run(test.name, func(t *testing.T) {
			runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Sleeps(time.Hour)), runtest.Node("off", runtest.Up, exectest.ExecDisabled())}, func(t *testing.T, srv *exectest.Server) {
				if test.before != nil {
					test.before(srv)
				}
				options := append(test.options, consulexec.WithClient(srv.Client()), consulexec.OnAck(func(string) {
					if test.after != nil {
						test.after(srv)
					}
				}))
				e, err := consulexec.New("x", options...)
				if err != nil {
					t.Fatal(err)
				}
				ctx := t.Context()
				if test.timeout > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, test.timeout)
					defer cancel()
				}
				result, err := e.Run(ctx)
				if err == nil {
					t.Fatal("no error")
				}
				checkKinds(t, err, test.want)
				checkKinds(t, result.Err(), test.want)
				if result.Submitted != test.submitted || result.ID != e.ID() {
					t.Errorf("submitted %v, ID %s of %s", result.Submitted, result.ID, e.ID())
				}
			})
		})
	}
}

// TestResultErrKinds has runs that go to their end and are no success.
func TestResultErrKinds(t *testing.T) {
	for _, test := range []struct {
		name    string
		nodes   []exectest.Option
		options []consulexec.Option
		want    string
	}{
		{"minimum", []exectest.Option{runtest.Node("a", runtest.Up)}, []consulexec.Option{consulexec.WithMinNodes(2)}, "too few"},
		{"limit", []exectest.Option{runtest.Node("a", runtest.Up)}, []consulexec.Option{consulexec.WithLimit(2)}, "too few"},
		{"exit", []exectest.Option{runtest.Node("a", exectest.Answer("", 3))}, nil, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			runtest.Bubble(t, test.nodes, func(t *testing.T, srv *exectest.Server) {
				_, result, err := runtest.Execute(t, srv.Client(), "x", test.options...)
				if err != nil || result.Err() == nil || !result.Submitted {
					t.Fatalf("error %v, result %v, submitted %v", err, result.Err(), result.Submitted)
				}
				checkKinds(t, result.Err(), test.want)
			})
		})
	}
}

// TestNotSubmitted has runs that dispatch to nobody although OnSubmit is called.
func TestNotSubmitted(t *testing.T) {
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", runtest.Up), runtest.Node("down", nil, exectest.Down())}, func(t *testing.T, srv *exectest.Server) {
		rec, result, err := runtest.Execute(t, srv.Client(), "x", consulexec.WithNodes("down", "a"), consulexec.WithMaxFailures(1))
		if err != nil || rec.Count("submit") != 1 || result.Submitted || srv.Executions("a") > 0 {
			t.Errorf("error %v, calls %v, submitted %v", err, rec.Calls, result.Submitted)
		}
	})
}

// TestLoopLeft leaves the loop of runs. That is no failure of the run: its
// Result says what became of the nodes, and nothing else.
func TestLoopLeft(t *testing.T) {
	for _, test := range []struct {
		name    string
		command exectest.Handler
		options []consulexec.Option
		dies    bool // the agent, at the ack
		at      consulexec.EventType
		want    string // of Result.Err
	}{
		{"at the last exit", exectest.Answer("", 0), nil, false, consulexec.EventExit, ""},
		{"at a failure", exectest.Answer("", 3), nil, false, consulexec.EventExit, "node a: exit status 3"},
		{"at the ack", runtest.Sleeps(time.Hour), nil, false, consulexec.EventAck, "node a: running"},
		{"too few", exectest.Answer("", 0), []consulexec.Option{consulexec.WithMinNodes(2)}, false, consulexec.EventExit,
			"consulexec: too few nodes: 1 exited and 1 are missing: WithMinNodes(2)"},
		{"and not ended", exectest.NeverExit, []consulexec.Option{consulexec.WithKillOnCancel()}, true, consulexec.EventAck,
			"consulexec: commands may still run: node a: running: does not confirm that the command has ended"},
	} {
		t.Run(test.name, func(t *testing.T) {
			runtest.Bubble(t, []exectest.Option{runtest.Node("a", test.command)}, func(t *testing.T, srv *exectest.Server) {
				left := func(event consulexec.Event) bool {
					if event.Type == consulexec.EventAck && test.dies {
						srv.Kill("a") // so that nobody can end the command
					}
					return event.Type != test.at
				}
				_, result, err := loop(t.Context(), t, srv.Client(), "x", left, test.options...)
				if test.at == consulexec.EventAck {
					checkKinds(t, err, "loop left,cancelled")
				}
				if got := result.Err(); got == nil && test.want != "" || got != nil && got.Error() != test.want {
					t.Errorf("Result.Err is %v, want %q", got, test.want)
				}
			})
		})
	}
}
