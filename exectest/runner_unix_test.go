//go:build unix && !solaris

package exectest_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
)

// script is a Handler that takes steps until its context ends, and then returns
// 0.
func script(steps ...func(ctx context.Context, j *exectest.Job) (done bool, status int)) exectest.Handler {
	return func(ctx context.Context, j *exectest.Job) int {
		for _, step := range steps {
			if done, status := step(ctx, j); done {
				return status
			}
		}
		return 0
	}
}

type step = func(ctx context.Context, j *exectest.Job) (done bool, status int)

func prints(text string) step {
	return func(_ context.Context, j *exectest.Job) (bool, int) {
		_, _ = io.WriteString(j.Output, text)
		return false, 0
	}
}

func sleeps(d time.Duration) step {
	return func(ctx context.Context, _ *exectest.Job) (bool, int) {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
		return ctx.Err() != nil, 0
	}
}

// outlives sleeps, whatever the context says.
func outlives(d time.Duration) step {
	return func(context.Context, *exectest.Job) (bool, int) {
		time.Sleep(d)
		return false, 0
	}
}

func exits(status int) step {
	return func(context.Context, *exectest.Job) (bool, int) { return true, status }
}

// onTerm prints text when its context ends, and exits.
func onTerm(text string, status int) step {
	return func(ctx context.Context, j *exectest.Job) (bool, int) {
		<-ctx.Done()
		_, _ = io.WriteString(j.Output, text)
		return true, status
	}
}

// TestRunner runs the same on a scripted node, which plays the runner, and on one
// with the real shell programs.
func TestRunner(t *testing.T) {
	lines := strings.Repeat("line\n", 6)
	slow := "for i in 1 2 3 4 5 6; do echo line; sleep 0.5; done; exit 7"
	var slowly []step
	for range 6 {
		slowly = append(slowly, prints("line\n"), sleeps(500*time.Millisecond))
	}
	slowly = append(slowly, exits(7))
	recovers := consulexec.WithRecovery(time.Minute)
	restart := func(srv *exectest.Server) { srv.Kill("a"); srv.Start("a") }
	gone := func(srv *exectest.Server) {
		for _, id := range srv.Sessions() {
			srv.DestroySession(id)
		}
	}
	var real sync.WaitGroup // they run at once, as they mostly wait
	for _, test := range []struct {
		name     string
		command  string
		handler  exectest.Handler
		options  []consulexec.Option
		accident func(srv *exectest.Server) // at the first output
		cancel   bool                       // the run, at the first output
		wrapped  bool                       // also with a Handler that calls RunCommand
		want     string
	}{
		{name: "status", command: "echo up; exit 3", handler: script(prints("up\n"), exits(3)),
			want: `exited 3 "up\n"`},
		{name: "status of a child", command: "exit 300", handler: script(exits(300)),
			want: `exited 44 ""`},
		{name: "timeout", command: "echo up; exec sleep 300", handler: script(prints("up\n"), sleeps(time.Hour)),
			options: []consulexec.Option{consulexec.WithTimeout(2 * time.Second)}, want: `exited 124 "up\n" timed out`},
		{name: "timeout is not reached", command: "echo up; sleep 0.1; exit 124", handler: script(prints("up\n"), exits(124)),
			options: []consulexec.Option{consulexec.WithTimeout(30 * time.Second)}, want: `exited 124 "up\n"`},
		{name: "timeout is handled", command: "trap 'echo bye; exit 3' TERM; echo up; sleep 300 & wait",
			handler: script(prints("up\n"), onTerm("bye\n", 3)),
			options: []consulexec.Option{consulexec.WithTimeout(2 * time.Second)}, want: `exited 124 "up\nbye\n" timed out`},
		{name: "timeout is ignored", command: "trap '' TERM; echo up; sleep 10; echo late", handler: script(prints("up\n"), outlives(10*time.Second), prints("late\n")),
			options: []consulexec.Option{consulexec.WithTimeout(2 * time.Second)}, want: `exited 124 "up\n" timed out`},
		{name: "limit", command: "echo up; echo down", handler: script(prints("up\n"), prints("down\n")),
			options: []consulexec.Option{consulexec.WithMaxOutput(5)}, want: `exited 0 "up\ndo" truncated`},
		{name: "limit is reached", command: "echo up", handler: script(prints("up\n")),
			options: []consulexec.Option{consulexec.WithMaxOutput(3)}, want: `exited 0 "up\n"`},
		{name: "no output", command: "echo up", handler: script(prints("up\n")),
			options: []consulexec.Option{consulexec.WithMaxOutput(0)}, want: `exited 0 "" truncated`},
		{name: "cancelled", command: "echo up; sleep 300", handler: script(prints("up\n"), sleeps(time.Hour)), cancel: true, wrapped: true,
			want: `killed -1 "up\n"`},

		{name: "restarted", command: slow, handler: script(slowly...), accident: restart, wrapped: true,
			options: []consulexec.Option{recovers}, want: fmt.Sprintf("exited 7 %q recovered", lines)},
		{name: "session gone", command: slow, handler: script(slowly...), accident: gone,
			options: []consulexec.Option{recovers}, want: fmt.Sprintf("exited 7 %q recovered", lines)},
		{name: "restarted and limited", command: slow, handler: script(slowly...), accident: restart,
			options: []consulexec.Option{recovers, consulexec.WithMaxOutput(22)}, want: fmt.Sprintf("exited 7 %q truncated recovered", lines[:22])},
		{name: "restarted and timed out", command: "echo up; sleep 300", handler: script(prints("up\n"), sleeps(time.Hour)), accident: restart,
			options: []consulexec.Option{recovers, consulexec.WithTimeout(3 * time.Second)}, want: `exited 124 "up\n" timed out recovered`},
		{name: "255", command: "echo up; sleep 0.5; exit 255", handler: script(prints("up\n"), sleeps(500*time.Millisecond), exits(255)),
			options: []consulexec.Option{recovers}, want: `exited 255 "up\n"`},
		{name: "session gone and 255", command: "echo up; sleep 2; exit 255", handler: script(prints("up\n"), sleeps(2*time.Second), exits(255)), accident: gone,
			options: []consulexec.Option{recovers}, want: `exited 255 "up\n" recovered`},
		{name: "control group killed", command: "echo up; sleep 300", handler: script(prints("up\n"), sleeps(time.Hour)),
			accident: func(srv *exectest.Server) { srv.KillControlGroup("a"); srv.Start("a") },
			options:  []consulexec.Option{recovers}, want: `lost -1 "up\n" recovered: node a: lost: the shell program that ran the command was killed`},
	} {
		check := func(t *testing.T, kind string, options ...exectest.NodeOption) {
			srv := exectest.NewServer(exectest.Node("first"), exectest.Node("a", append(options, exectest.RepeatEvents(1))...))
			defer srv.Close()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			e, err := consulexec.New(test.command, append([]consulexec.Option{
				consulexec.WithClient(srv.Client()), consulexec.WithNodes("a"), consulexec.WithKillOnCancel(), consulexec.WithCapture(1 << 20), consulexec.WithWait(200 * time.Millisecond),
			}, test.options...)...)
			if err != nil {
				t.Error(err)
				return
			}
			begun := false
			for event := range e.Events(ctx) {
				if begun || event.Type != consulexec.EventOutput {
					continue
				}
				begun = true
				if test.accident != nil {
					test.accident(srv)
				}
				if test.cancel {
					cancel()
				}
			}
			result, err := e.Wait()
			if err != nil && !test.cancel {
				t.Errorf("%s, %s: %v", test.name, kind, err)
			}
			n, _ := result.Node("a")
			if got := summary(n); got != test.want {
				t.Errorf("%s, %s:\n got %s\nwant %s", test.name, kind, got, test.want)
			}
			if ran := srv.Executions("a"); ran != 1 && kind == "scripted" {
				t.Errorf("%s: %d executions, want 1", test.name, ran)
			}
		}
		synctest.Test(t, func(t *testing.T) { check(t, "scripted", exectest.Run(test.handler)) })
		real.Go(func() { check(t, "real") })
		if test.wrapped {
			real.Go(func() {
				check(t, "wrapped", exectest.Run(func(ctx context.Context, j *exectest.Job) int { return exectest.RunCommand(ctx, j) }))
			})
		}
	}
	real.Wait()
}

// summary returns what TestRunner compares.
func summary(n consulexec.NodeResult) string {
	text := fmt.Sprintf("%v %d %q", n.State, n.ExitCode, n.Output)
	if n.TimedOut {
		text += " timed out"
	}
	if n.Truncated {
		text += " truncated"
	}
	if n.Recovered > 0 {
		text += " recovered"
	}
	if n.State == consulexec.StateLost {
		text += fmt.Sprint(": ", n.Err)
	}
	return text
}
