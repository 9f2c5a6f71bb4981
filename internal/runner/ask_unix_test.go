//go:build unix

package runner

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// keeping returns the spec of something whose output the node keeps.
func keeping(s Spec) Spec {
	s.Keep = 3 * time.Minute
	if s.MaxOutput == 0 {
		s.MaxOutput = NoLimit
	}
	return s
}

// ask returns the job that asks for a run's output.
func (s nodeShell) ask(id, name string, from int64) Job {
	job := Ask(id, name, from, 3*time.Minute)
	s.change(job.Args, "sleep 300;")
	return job
}

// lasting returns the job of a spec whose guard stays while a test goes on.
func (s nodeShell) lasting(spec Spec, id string) Job { return s.kept(keeping(spec), id) }

// checkAsk checks what an ask has printed.
func checkAsk(t *testing.T, what string, s *started, id, output string, note Note, code int) {
	t.Helper()
	if got, gotCode := s.wait(); got != output+string(note.Text(id)) || gotCode != code {
		t.Errorf("%s: exit status %d, output %.200q, want %d, %.200q and note %q", what, gotCode, got, code, output, note)
	}
}

// TestAsk asks while a command runs and after its end, from several bytes on.
func TestAsk(t *testing.T) {
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		a, id := newAgent(t), runID()
		first := a.start(sh.lasting(Spec{Command: "printf 'a\\0\\377b'; until [ -e more ]; do sleep 0.1; done; printf cd; : >up; until [ -e go ]; do sleep 0.1; done; echo e; exit 3"}, id))
		first.untilTrue("output", func() bool { return len(first.output.String()) == 4 })
		const all = "a\x00\xffbcde\n"
		froms := []int64{0, 1, 4, 6, 8, 100}
		var asks []*started
		for _, from := range froms {
			asks = append(asks, a.start(sh.ask(id, fmt.Sprint("ask-", from), from)))
		}
		for i, want := range []string{all[:4], all[1:4]} {
			asks[i].untilTrue("the begin", func() bool { return asks[i].output.String() == want })
		}
		again := a.start(sh.ask(id, "ask-0", 0))
		if output, code := again.wait(); output != "" || code != TurnedAway {
			t.Errorf("second copy of an ask: exit status %d, output %q", code, output)
		}
		a.file("more", nil)
		first.until("up")
		for i, want := range []string{all[:6], all[1:6], all[4:6]} {
			asks[i].untilTrue("more", func() bool { return asks[i].output.String() == want })
		}
		a.file("go", nil)
		if output, code := first.wait(); output != all || code != 3 {
			t.Errorf("exit status %d, output %q", code, output)
		}
		for i, from := range froms {
			want := all[min(int(from), len(all)):]
			checkAsk(t, "an ask while it ran", asks[i], id, want, NoteEnded, 3)
			checkAsk(t, "an ask after the end", a.start(sh.ask(id, fmt.Sprint("late-", from), from)), id, want, NoteEnded, 3)
		}
	})
}

// TestAskStatus asks for commands of different ends.
func TestAskStatus(t *testing.T) {
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		for _, test := range []struct {
			name   string
			spec   Spec
			output string
			code   int
			note   Note // of the run; NoteEnded is added to an ask's only
		}{
			{"success", Spec{Command: "true"}, "", 0, ""},
			{"255", Spec{Command: "echo a; exit 255"}, "a\n", 255, NoteEnded},
			{"timeout", Spec{Command: "echo a; sleep 4321", Timeout: time.Second}, "a\n", 124, NoteTimedOut},
			{"limit", Spec{Command: "echo abc; exec yes | head -c 100000", MaxOutput: 3}, "abc\n", 0, ""},
			{"directory", Spec{Command: "true", Dir: "/no/such"}, "", 125, ""},
			{"not whole", Spec{Script: []byte("true")}, "", 126, ""},
			{"long", Spec{Command: "head -c 3000000 /dev/zero"}, strings.Repeat("\x00", 3000000), 0, ""},
		} {
			a, id := newAgent(t, "SHELL=/bin/sh"), runID()
			job := sh.lasting(test.spec, id)
			if test.code == 126 {
				job.Script = nil
			}
			output, code := a.run(job)
			note := ""
			if test.note != "" {
				note = string(test.note.Text(id))
			}
			want := test.output
			if test.code == 125 || test.code == 126 {
				want = output // says why
				if !strings.HasPrefix(output, "consulexec: not run: ") {
					t.Errorf("%s: output %q", test.name, output)
				}
			}
			if output != want+note || code != test.code {
				t.Errorf("%s: exit status %d, %d bytes of output, %.100q", test.name, code, len(output), output)
			}
			asked := test.note
			if asked == "" {
				asked = NoteEnded
			}
			got, gotCode := a.run(sh.ask(id, "a", 0))
			if got != want+string(asked.Text(id)) || gotCode != test.code {
				t.Errorf("%s: the ask: exit status %d, %d bytes of output, %.100q", test.name, gotCode, len(got), got)
			}
		}
		a, id := newAgent(t, "SHELL=/bin/sh"), runID()
		if output, code := a.run(sh.job(killable(Spec{Command: "exit 255"}), id)); output != "" || code != 255 {
			t.Errorf("not kept: exit status %d, output %q", code, output)
		}
	})
}

// TestNoTrace asks for a run that has not begun. It never will.
func TestNoTrace(t *testing.T) {
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		a, id := newAgent(t), runID()
		checkAsk(t, "an ask", a.start(sh.ask(id, "a", 5)), id, "", NoteNoTrace, 1)
		if output, code := a.run(sh.lasting(Spec{Command: ": >ran"}, id)); output != "" || code != TurnedAway {
			t.Errorf("a late start: exit status %d, output %q", code, output)
		}
		checkAsk(t, "another ask", a.start(sh.ask(id, "b", 0)), id, "", NoteNoTrace, 1)
		if output, code := a.run(sh.end(id)); output != "" || code != Ended {
			t.Errorf("the end: exit status %d, output %q", code, output)
		}
		id = runID()
		if output, code := a.run(sh.end(id)); output != "" || code != Ended {
			t.Errorf("an end before: exit status %d, output %q", code, output)
		}
		checkAsk(t, "an ask after the end's job", a.start(sh.ask(id, "b", 0)), id, "", NoteNoTrace, 1)
		if a.has("ran") {
			t.Error("the command has run")
		}
	})
}

// TestDeadAgent has the agent die while the command prints. The command does not
// notice, and an ask gets all.
func TestDeadAgent(t *testing.T) {
	command := "echo a; : >up; until [ -e go ]; do sleep 0.1; done; i=0; while [ $i -lt 2000 ]; do echo $i || exit 9; i=$((i + 1)); done; head -c 300000 /dev/zero; echo $? >status; exit 3"
	want := "a\n"
	for i := range 2000 {
		want += fmt.Sprintln(i)
	}
	want += strings.Repeat("\x00", 300000)
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		for _, limit := range []int64{NoLimit, 1 << 30} {
			a, id := newAgent(t, "SHELL=/bin/sh"), runID()
			job := sh.lasting(Spec{Command: command, MaxOutput: limit}, id)
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(job.Args[0], job.Args[1:]...)
			cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = a.env, a.dir, w, w
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			w.Close()
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				cmd.Wait()
			}()
			for deadline := time.Now().Add(time.Minute); !a.has("up") && time.Now().Before(deadline); {
				time.Sleep(2 * time.Millisecond)
			}
			before := a.start(sh.ask(id, "before", 2))
			time.Sleep(100 * time.Millisecond) // for the ask to begin
			r.Close()
			cmd.Process.Signal(syscall.SIGTERM) // from a service manager
			for _, pid := range append(a.processes(), a.watcher()) {
				if args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); strings.Contains(string(args), id+" start") {
					syscall.Kill(pid, syscall.SIGTERM)
				}
			}
			a.file("go", nil)
			checkAsk(t, "an ask before", before, id, want[2:], NoteEnded, 3)
			checkAsk(t, "an ask after", a.start(sh.ask(id, "after", 0)), id, want, NoteEnded, 3)
			<-ended
			if status, err := os.ReadFile(filepath.Join(a.tmp, "status")); err != nil || string(status) != "0\n" {
				t.Errorf("the command saw %q, error %v", status, err)
			}
		}
	})
}

// TestKeptEmptiedTMPDIR has a command remove the guard at once. The run goes on
// to its end.
func TestKeptEmptiedTMPDIR(t *testing.T) {
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		var jobs []*started
		for range upTo(10) {
			spec := keeping(Spec{Command: `rm -rf "$TMPDIR"/*; echo a; exit 3`})
			jobs = append(jobs, newAgent(t, "SHELL=/bin/sh").start(sh.job(spec, runID())))
		}
		for _, s := range jobs {
			if output, code := s.wait(); output != "a\n" || code != 3 {
				t.Errorf("exit status %d, output %q", code, output)
			}
			s.nothingLeft()
		}
	})
}

// watcher returns the number in the name of the guard's hold.
func (a *agent) watcher() (pid int) {
	a.t.Helper()
	for _, file := range must(filepath.Glob(filepath.Join(a.tmp, "consulexec-*", "hold-*"))) {
		fmt.Sscan(file[strings.LastIndex(file, "-")+1:], &pid)
	}
	if pid == 0 {
		a.t.Fatal("there is no watcher")
	}
	return pid
}

func must(files []string, err error) []string {
	if err != nil {
		panic(err)
	}
	return files
}

// TestKilledRunner kills the watcher, and all of the runner.
func TestKilledRunner(t *testing.T) {
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		for _, what := range []string{"watcher", "all"} {
			a, id := newAgent(t, "SHELL=/bin/sh"), runID()
			first := a.start(sh.lasting(Spec{Command: waits}, id))
			first.until("up")
			first.untilTrue("output", func() bool { return first.output.String() == "a\n" })
			ask := a.start(sh.ask(id, "a", 0))
			ask.untilTrue("output", func() bool { return ask.output.String() == "a\n" })
			pids := []int{a.watcher()}
			if what == "all" {
				for _, pid := range a.processes() {
					if args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); !strings.Contains(string(args), id+" ask") {
						pids = append(pids, pid)
					}
				}
			}
			for _, pid := range pids {
				syscall.Kill(pid, syscall.SIGKILL)
			}
			checkAsk(t, what+": an ask", ask, id, "a\n", NoteKilled, 1)
			a.file("go", nil)
			if output, code := first.wait(); output != "a\n" || code != -1 {
				t.Errorf("%s: exit status %d, output %q", what, code, output)
			}
			checkAsk(t, what+": a late ask", a.start(sh.ask(id, "b", 1)), id, "\n", NoteKilled, 1)
			if !strings.Contains(strings.Join(a.list(), ""), "asked()") { // which only a sweeper has
				t.Errorf("%s: nobody removes the guard", what)
			}
		}
	})
}

// TestFullDisk keeps output on a disk that gets full. The command does not
// notice, and an ask gets the begin.
func TestFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can mount a small disk")
	}
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		for _, test := range []struct {
			name, command string
			timeout       time.Duration
			code          int
			note          Note
		}{
			{"full from the start", "%s; echo $?; exit 3", 0, 3, NoteIncomplete},
			{"full", "%s; echo $?; exit 3", 0, 3, NoteIncomplete},
			{"full for a moment", "%s; sleep 0.5; rm $TMPDIR/fill; sleep 0.1; %[1]s; echo $?; exit 3", 0, 3, NoteIncomplete},
			{"timeout", "%s; echo $?; sleep 4321", 2 * time.Second, 124, NoteIncompleteTimedOut},
		} {
			a, id := newAgent(t, "SHELL=/bin/sh"), runID()
			if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=400k", "none", a.tmp).CombinedOutput(); err != nil {
				t.Skipf("no small disk: %v: %s", err, out)
			}
			t.Cleanup(func() { exec.Command("umount", "-l", a.tmp).Run() })
			size, most := 200_000, 390_000
			if strings.HasSuffix(test.name, "start") {
				size, most = 500_000, 0
			}
			if err := os.WriteFile(filepath.Join(a.tmp, "fill"), make([]byte, size), 0o600); (err != nil) != (most == 0) {
				t.Fatal(err)
			}
			lines := "seq -f %07.0f 50000" // 400,000 bytes
			command := fmt.Sprintf(test.command, lines)
			if !strings.Contains(test.command, "[1]") {
				command = strings.Replace(test.command, "%s", lines, 1)
			}
			output, code := a.run(sh.lasting(Spec{Command: command, Timeout: test.timeout}, id))
			live, _, _ := strings.Cut(output, "\x00")
			if len(live) < 400_000 || !strings.HasSuffix(live, "\n0\n") || code != test.code {
				t.Errorf("%s: exit status %d, %d bytes", test.name, code, len(live))
			}
			got, gotCode := a.run(sh.ask(id, "a", 1))
			kept, whole := strings.CutSuffix(got, string(test.note.Text(id)))
			if gotCode != test.code || !whole || len(kept) < most/40 || len(kept) > most || !strings.HasPrefix(live[1:], kept) {
				t.Errorf("%s: the ask: exit status %d, %d bytes, %.60q, end %q", test.name, gotCode, len(got), got, got[max(0, len(got)-90):])
			}
		}
	})
}

// TestKeptGoes checks that the guard goes after its time, not at a SIGTERM, and
// not while an ask is under way.
func TestKeptGoes(t *testing.T) {
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		a, id := newAgent(t), runID()
		spec := keeping(Spec{Command: "exit 3"})
		spec.Keep = 3 * time.Second
		job := spec.Job(id)
		for i, text := range job.Args {
			job.Args[i] = strings.ReplaceAll(text, "/bin/sh", sh.path)
		}
		a.run(job)
		end := time.Now()
		for _, pid := range a.processes() {
			syscall.Kill(pid, syscall.SIGTERM)
			syscall.Kill(pid, syscall.SIGHUP)
		}
		ask := a.forge(os.Getuid(), ": consulexec-"+id+" ask")
		time.Sleep(time.Until(end.Add(5 * time.Second)))
		if !a.has("consulexec-*/exit-3--*") || !ask() {
			t.Error("the guard is gone")
		}
		for _, pid := range a.processes() {
			if args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); strings.Contains(string(args), id+" ask") {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		a.nothingLeft()
	})
}

// TestOldGuards checks which guards of former runs a start removes.
func TestOldGuards(t *testing.T) {
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		a := newAgent(t)
		tests := []struct {
			files   string
			minutes int
			others  bool // the guard of another agent
			lives   bool // a process runs the job
			removed bool
		}{
			{"exit-3--ended", 4, false, false, true},
			{"exit-3--ended", 4, true, false, true},
			{"exit-3--ended", 1, false, false, false},
			{"exit-3--ended keep-9", 4, false, false, false},
			{"exit-3--ended keep-9", 11, false, false, true},
			{"never keep-9", 11, true, false, true},
			{"never keep-9", 8, true, false, false},
			{"hold-1", 4, false, false, true},
			{"hold", 4, false, false, true},
			{"hold", 4, false, true, false},
			{"hold-1", 4, true, false, false},
			{"", 4, false, false, true},
		}
		var guards []string
		for _, test := range tests {
			id := runID()
			guard := a.guard(id)
			if test.others {
				guard += "0"
			}
			for _, name := range strings.Fields(test.files) {
				if err := os.MkdirAll(guard, 0o700); err != nil {
					t.Fatal(err)
				}
				if err := syscall.Mkfifo(filepath.Join(guard, name), 0o600); err != nil {
					t.Fatal(err)
				}
				if name == "never" {
					os.Remove(filepath.Join(guard, name))
					os.Mkdir(filepath.Join(guard, name), 0o700)
				}
			}
			os.MkdirAll(guard, 0o700)
			when := time.Now().Add(-time.Duration(test.minutes)*time.Minute - 10*time.Second)
			if err := os.Chtimes(guard, when, when); err != nil {
				t.Fatal(err)
			}
			if test.lives {
				a.forge(os.Getuid(), ": consulexec-"+id+" start")
			}
			guards = append(guards, guard)
		}
		if output, code := a.run(sh.job(killable(Spec{Command: "exit 3"}), runID())); output != "" || code != 3 {
			t.Errorf("exit status %d, output %q", code, output)
		}
		for i, test := range tests {
			if _, err := os.Stat(guards[i]); os.IsNotExist(err) != test.removed {
				t.Errorf("%+v: %v", test, err)
			}
		}
	})
}

// TestLivingGuard starts a job beside one that has run for long. Its guard stays.
func TestLivingGuard(t *testing.T) {
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		a, id := newAgent(t, "SHELL=/bin/sh"), runID()
		first := a.start(sh.lasting(Spec{Command: waits}, id))
		first.until("up")
		when := time.Now().Add(-time.Hour)
		if err := os.Chtimes(a.guard(id), when, when); err != nil {
			t.Fatal(err)
		}
		if output, code := a.run(sh.job(killable(Spec{Command: "exit 4"}), runID())); output != "" || code != 4 {
			t.Errorf("exit status %d, output %q", code, output)
		}
		a.file("go", nil)
		if output, code := first.wait(); output != "a\n" || code != 3 {
			t.Errorf("exit status %d, output %q", code, output)
		}
		checkAsk(t, "an ask", a.start(sh.ask(id, "a", 0)), id, "a\n", NoteEnded, 3)
	})
}
