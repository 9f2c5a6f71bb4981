package exectest

import (
	"context"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec/internal/runner"
)

// wrapped returns the spec of a command, with recovery for keep.
func wrapped(keep time.Duration) runner.Spec {
	return runner.Spec{Command: "x", MaxOutput: runner.NoLimit, Killable: true, Keep: keep}
}

// TestRunnerJobs gives web-1 jobs of the runner, one after the other, and checks
// what each of them reports. A command prints "up" and exits with 7 after a
// minute.
func TestRunnerJobs(t *testing.T) {
	start := func(keep time.Duration) runner.Job { spec := wrapped(keep); return spec.Job("id") }
	ask := func(name string, from int64) runner.Job { return runner.Ask("id", name, from, 2*time.Minute) }
	note := func(n runner.Note) string { return string(n.Text("id")) }
	type does struct {
		job    runner.Job
		after  time.Duration // nothing happens for so long before
		output string
		exit   string        // none if empty
		within time.Duration // of the exit
	}
	restart := func(srv *Server) { srv.Kill("web-1"); srv.Start("web-1") }
	for _, test := range []struct {
		name     string
		jobs     []does
		accident func(srv *Server) // after the first job has begun
		ran      int
	}{
		{"once", []does{{job: start(0), output: "up", exit: "7", within: time.Minute}}, nil, 1},
		{"a copy while it runs", []does{{job: start(0)}, {job: start(0), exit: "-1"}}, nil, 1},
		{"a copy after the end", []does{{job: start(0), output: "up", exit: "7", within: time.Minute}, {job: start(0), exit: "7", within: time.Second}}, nil, 1},
		{"a copy after the end with recovery", []does{{job: start(time.Hour), output: "up" + note(runner.NoteEnded), exit: "7", within: time.Minute}, {job: start(time.Hour), exit: "7"}}, nil, 1},
		{"a copy when the guard is gone", []does{{job: start(0), output: "up", exit: "7", within: time.Minute}, {job: start(0), after: 51 * time.Second, output: "up", exit: "7", within: time.Minute}}, nil, 2},
		{"asked while it runs", []does{{job: start(time.Hour)}, {job: ask("1", 1), output: "p" + note(runner.NoteEnded), exit: "7", within: time.Minute}}, restart, 1},
		{"asked after the end", []does{{job: start(time.Hour), output: "up" + note(runner.NoteEnded), exit: "7", within: time.Minute}, {job: ask("1", 0), after: 59 * time.Minute, output: "up" + note(runner.NoteEnded), exit: "7"}}, nil, 1},
		{"asked for what is not there", []does{{job: start(time.Hour)}, {job: ask("1", 3), output: note(runner.NoteEnded), exit: "7", within: time.Minute}}, restart, 1},
		{"asked too late", []does{{job: start(time.Hour), output: "up" + note(runner.NoteEnded), exit: "7", within: time.Minute}, {job: ask("1", 0), after: 61 * time.Minute, output: note(runner.NoteNoTrace), exit: "1"}}, nil, 1},
		{"a copy of an ask", []does{{job: start(time.Hour)}, {job: ask("1", 0)}, {job: ask("1", 0), exit: "-1"}, {job: ask("2", 2), output: note(runner.NoteEnded), exit: "7", within: time.Minute}}, nil, 1},
		{"asked first", []does{{job: ask("1", 0), output: note(runner.NoteNoTrace), exit: "1"}, {job: start(time.Hour), exit: "-1"}, {job: ask("2", 0), output: note(runner.NoteNoTrace), exit: "1"}}, nil, 0},
		{"ended first", []does{{job: runner.End("id"), exit: "0"}, {job: start(0), exit: "-1"}, {job: runner.End("id"), exit: "0"}}, nil, 0},
		{"asked and then started late", []does{{job: ask("1", 0), output: note(runner.NoteNoTrace), exit: "1"}, {job: start(0), after: 121 * time.Second, output: "up", exit: "7", within: time.Minute}}, nil, 1},
		{"ended", []does{{job: start(time.Hour)}, {job: runner.End("id"), exit: "0"}, {job: ask("1", 0), output: "up" + note(runner.NoteEnded), exit: "143"}}, nil, 1},
		{"ended after the end", []does{{job: start(0), output: "up", exit: "7", within: time.Minute}, {job: runner.End("id"), exit: "0"}}, nil, 1},
		{"killed", []does{{job: start(time.Hour)}, {job: ask("1", 0), output: "up" + note(runner.NoteKilled), exit: "1"}, {job: runner.End("id"), exit: "3", within: 9 * time.Second}, {job: start(time.Hour), exit: "-1"}},
			func(srv *Server) { srv.KillControlGroup("web-1"); srv.Start("web-1") }, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := NewServer(Node("consul"), Node("web-1", Run(func(ctx context.Context, j *Job) int {
					io.WriteString(j.Output, "up")
					sleep(ctx, time.Minute)
					return 7
				})))
				defer srv.Close()
				for i, do := range test.jobs {
					time.Sleep(do.after)
					session, dir := submit(t, srv.Client(), spec{Args: do.job.Args, Script: do.job.Script, Wait: time.Hour}, api.UserEvent{NodeFilter: "web"})
					renew(t, srv, do.within+time.Second)
					keys := await(t, srv.Client(), dir, has("job"))
					if got := keys["web-1/exit"]; got != do.exit {
						t.Errorf("job %d: exit %q, want %q", i+1, got, do.exit)
					}
					if got := output(keys); do.exit != "" && got != do.output {
						t.Errorf("job %d: output %q, want %q", i+1, got, do.output)
					}
					if i == 0 && test.accident != nil {
						test.accident(srv)
					}
					if do.exit != "" {
						srv.DestroySession(session)
					}
				}
				if ran := srv.Executions("web-1"); ran != test.ran {
					t.Errorf("%d executions, want %d", ran, test.ran)
				}
			})
		})
	}
}

// TestRunnerEnding has the job that ends a command come in the middle of it.
func TestRunnerEnding(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(ctx context.Context, j *Job) int
		keep string // output and status
		took time.Duration
	}{
		{"at once", func(ctx context.Context, _ *Job) int { <-ctx.Done(); return 0 }, "143", 0},
		{"soon", func(ctx context.Context, j *Job) int {
			<-ctx.Done()
			time.Sleep(3 * time.Second)
			io.WriteString(j.Output, "bye")
			return 0
		}, "bye143", 3 * time.Second},
		{"not at all", func(ctx context.Context, j *Job) int {
			time.Sleep(time.Minute)
			io.WriteString(j.Output, "bye")
			return 0
		}, "137", killDelay},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := NewServer(Node("consul"), Node("web-1", Run(test.do)))
				defer srv.Close()
				run := func(job runner.Job) (text string) {
					session, dir := submit(t, srv.Client(), spec{Args: job.Args, Wait: time.Hour}, api.UserEvent{NodeFilter: "web"})
					defer srv.DestroySession(session)
					keys := await(t, srv.Client(), dir, has("web-1/exit"))
					return strings.TrimSuffix(output(keys), string(runner.NoteEnded.Text("id"))) + keys["web-1/exit"]
				}
				spec := wrapped(time.Hour)
				var started string
				done := make(chan struct{})
				go func() { defer close(done); started = run(spec.Job("id")) }()
				time.Sleep(time.Second)
				begin := time.Now()
				if exit := run(runner.End("id")); exit != "0" || time.Since(begin) != test.took {
					t.Errorf("exit %s after %v, want 0 after %v", exit, time.Since(begin), test.took)
				}
				<-done
				if kept := run(runner.Ask("id", "1", 0, time.Hour)); kept != test.keep || started != test.keep {
					t.Errorf("reported %s, kept %s, want %s", started, kept, test.keep)
				}
			})
		})
	}
}

// TestHandlersJob checks that a Handler gets the command, not the runner.
func TestHandlersJob(t *testing.T) {
	want := runner.Spec{
		Script: []byte("#!/bin/sh\n"), Args: []string{"a"}, Env: map[string]string{"A": "b"}, Dir: "/", Stdin: []byte("in"),
		Timeout: time.Minute, MaxOutput: runner.NoLimit,
	}
	synctest.Test(t, func(t *testing.T) {
		var got runner.Spec
		srv := NewServer(Node("web-1", Run(func(_ context.Context, j *Job) int {
			got = runner.Spec{Command: j.Command, Args: j.Args, Script: j.Script, Env: j.Env, Dir: j.Dir, Stdin: j.Stdin, Timeout: j.Timeout, MaxOutput: runner.NoLimit}
			return 0
		})))
		defer srv.Close()
		job := want.Job("id")
		_, dir := submit(t, srv.Client(), spec{Args: job.Args, Script: job.Script, Wait: time.Hour}, api.UserEvent{})
		await(t, srv.Client(), dir, has("web-1/exit"))
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got  %s\nwant %s", fmt.Sprint(got), fmt.Sprint(want))
		}
	})
}

// TestKillControlGroup ends the commands of one node, whether the runner runs
// them or not.
func TestKillControlGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := map[string]*atomic.Int64{"web-1": new(atomic.Int64), "web-2": new(atomic.Int64)}
		run := Run(func(ctx context.Context, j *Job) int {
			<-ctx.Done()
			ended[j.Node].Add(1)
			return 0
		})
		srv := NewServer(Node("consul"), Node("web-1", run), Node("web-2", run))
		defer srv.Close()
		under := wrapped(0)
		for _, job := range []spec{{Command: "x"}, {Args: under.Job("id").Args}} {
			job.Wait = time.Hour
			submit(t, srv.Client(), job, api.UserEvent{NodeFilter: "web"})
		}
		synctest.Wait()
		srv.KillControlGroup("web-1")
		synctest.Wait()
		if one, two := ended["web-1"].Load(), ended["web-2"].Load(); one != 2 || two != 0 {
			t.Errorf("%d commands ended on web-1, want 2; %d on web-2, want none", one, two)
		}
	})
}
