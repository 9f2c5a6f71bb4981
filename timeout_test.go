package consulexec_test

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
	"github.com/consulexec/consulexec/internal/runner"
	"github.com/consulexec/consulexec/internal/runtest"
)

// TestTimedOut has nodes whose output ends with the runner's note, or looks as if
// it did. NOTE stands for the note, and each text is a chunk.
func TestTimedOut(t *testing.T) {
	limit := []consulexec.Option{consulexec.WithTimeout(time.Hour)}
	exits := func(code int) func(*exectest.Job) int { return func(*exectest.Job) int { return code } }
	for _, test := range []struct {
		name    string
		options []consulexec.Option
		chunks  []string
		end     func(*exectest.Job) int
		want    string // outputs, lines and the end
		err     string
	}{
		{"note", limit, []string{"up\n", "a\nbNOTE"}, exits(124), `output "up\n", line "up", output "a\nb", line "a", line "b", exit 124, timed out`, "node a: exit status 124: timed out after 1h0m0s"},
		{"note alone", limit, []string{"NOTE"}, exits(124), `exit 124, timed out`, "node a: exit status 124: timed out after 1h0m0s"},
		{"note in three", limit, []string{"upNO", "T", "E"}, exits(124), `output "up", line "up", exit 124, timed out`, "node a: exit status 124: timed out after 1h0m0s"},
		{"status of its own", limit, []string{"up\n"}, exits(124), `output "up\n", line "up", exit 124`, "node a: exit status 124"},
		{"another status", limit, []string{"up", "NOTE"}, exits(0), `output "up", line "up", exit 0`, ""},
		{"part of the note", limit, []string{"up\n", "aNO"}, exits(124), `output "up\n", line "up", output "a", output "NO", line "aNO", exit 124`, "node a: exit status 124"},
		{"more after the note", limit, []string{"NOTE", "\n"}, exits(124), `output "NOTE", output "\n", line "NOTE", exit 124`, "node a: exit status 124"},
		{"lost", limit, []string{"up", "NO"}, dies, `output "up", output "NO", line "upNO", lost`, "node a: lost: silent for 3s, and serfHealth is critical"},
		{"lost with the note", limit, []string{"up", "NOTE"}, dies, `output "up", line "up", lost`, "node a: lost: silent for 3s, and serfHealth is critical"},
		{"no timeout", nil, []string{"up\n", "NOTE"}, exits(124), `output "up\n", line "up", output "NOTE", line "NOTE", exit 124`, "node a: exit status 124"},
	} {
		t.Run(test.name, func(t *testing.T) {
			note := ""
			spell := strings.NewReplacer("NOTE", "NOTE") // until the run has its ID
			h := func(ctx context.Context, j *exectest.Job) int {
				for i, text := range test.chunks {
					if i > 0 {
						runtest.Sleeps(time.Second)(ctx, j) // the chunk before is sent
					}
					_, _ = io.WriteString(j.Output, spell.Replace(text))
				}
				runtest.Sleeps(time.Second)(ctx, j)
				return test.end(j)
			}
			runtest.Bubble(t, []exectest.Option{runtest.Node("a", h)}, func(t *testing.T, srv *exectest.Server) {
				var calls []string
				say := func(format string, args ...any) { calls = append(calls, fmt.Sprintf(format, args...)) }
				plain := func(output string) string {
					return strings.ReplaceAll(strings.ReplaceAll(output, note, "NOTE"), note[:9], "NO")
				}
				rec := runtest.NewRecorder(t, srv.Client())
				e := rec.New("x", append([]consulexec.Option{
					consulexec.OnLine(func(node, line string) { say("line %q", plain(line)) }),
				}, test.options...)...)
				note = string(runner.NoteTimedOut.Text(e.ID()))
				spell = strings.NewReplacer("NOTE", note, "NO", note[:9], "T", note[9:10], "E", note[10:])
				delivered := 0
				rec.Hook = func(call string) {
					switch output := rec.Output["a"]; {
					case call == "output a":
						say("output %q", plain(string(output[delivered:])))
						delivered = len(output)
					case strings.HasPrefix(call, "exit a"):
						say("exit %s", call[len("exit a "):])
					case call == "lost a":
						say("lost")
					}
				}
				result, err := e.Run(t.Context())
				rec.Check(e, result, err)
				n, _ := result.Node("a")
				if n.TimedOut {
					say("timed out")
				}
				if got := strings.Join(calls, ", "); got != test.want {
					t.Errorf("got  %s\nwant %s", got, test.want)
				}
				if text := fmt.Sprint(n.Err); text != test.err && (n.Err != nil || test.err != "") {
					t.Errorf("error %s, want %s", text, test.err)
				}
			})
		})
	}
}

// dies ends the job's agent.
func dies(j *exectest.Job) int {
	j.Die()
	return 0
}

// TestNoteOfCancelledRun ends a run, by its context or by a panic, while part of
// a note is held back.
func TestNoteOfCancelledRun(t *testing.T) {
	for _, way := range []string{"cancel", "panic"} {
		var e *consulexec.Exec
		h := func(ctx context.Context, j *exectest.Job) int {
			_, _ = j.Output.Write(runner.NoteTimedOut.Text(e.ID())[:9])
			return runtest.Sleeps(time.Hour)(ctx, j)
		}
		runtest.Bubble(t, []exectest.Option{runtest.Node("a", h)}, func(t *testing.T, srv *exectest.Server) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			rec := runtest.NewRecorder(t, srv.Client())
			rec.Hook = func(call string) {
				switch {
				case call == "heartbeat a" && way == "cancel":
					cancel()
				case call == "heartbeat a":
					panic("on purpose")
				}
			}
			e = rec.New("x", consulexec.WithTimeout(time.Hour))
			func() {
				defer func() { _ = recover() }()
				_, _ = e.Run(ctx)
			}()
			result, err := e.Wait()
			want := []string{"submit", "ack a", "heartbeat a", "output a", "error"}
			if way == "panic" {
				want = want[:3]
			} else {
				rec.Check(e, result, err)
			}
			if n, _ := result.Node("a"); err == nil || n.OutputBytes != 9 || len(n.Output) != 9 || n.TimedOut {
				t.Errorf("%s: error %v, output %q of %d bytes, timed out %v", way, err, n.Output, n.OutputBytes, n.TimedOut)
			}
			if !slices.Equal(rec.Calls, want) {
				t.Errorf("%s: callbacks %v, want %v", way, rec.Calls, want)
			}
		})
	}
}

// TestHeldOutputIsNews has a chunk that is held back just before its node would
// count as lost.
func TestHeldOutputIsNews(t *testing.T) {
	h := func(ctx context.Context, j *exectest.Job) int {
		runtest.Sleeps(1500*time.Millisecond)(ctx, j)
		_, _ = j.Output.Write([]byte{0}) // comes at 2 s, and the next heartbeat at 4 s
		return runtest.Sleeps(10*time.Second)(ctx, j)
	}
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", h)}, func(t *testing.T, srv *exectest.Server) {
		rec, result, err := runtest.Execute(t, srv.Client(), "x", consulexec.WithTimeout(time.Hour), consulexec.WithWait(2100*time.Millisecond), consulexec.WithLostTimeout(2200*time.Millisecond))
		if err != nil || runtest.States(result) != "a: exit 0" {
			t.Errorf("error %v, states %s", err, runtest.States(result))
		}
		want := []string{"submit", "ack a", "heartbeat a", "heartbeat a", "heartbeat a", "heartbeat a", "output a", "exit a 0", "done"}
		if !slices.Equal(rec.Calls, want) {
			t.Errorf("callbacks %v, want %v", rec.Calls, want)
		}
	})
}
