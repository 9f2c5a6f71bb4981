//go:build unix

package runner

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestEmptiedTMPDIR has a command remove all that is in TMPDIR, as a job that
// cleans /tmp does.
func TestEmptiedTMPDIR(t *testing.T) {
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		a := newAgent(t, "SHELL=/bin/sh")
		if output, code := a.run(sh.job(killable(Spec{Command: `rm -rf "$TMPDIR"/*; echo a; exit 3`}), runID())); output != "a\n" || code != 3 {
			t.Errorf("exit status %d, output %q", code, output)
		}
		if runtime.GOOS != "linux" {
			return // the timer needs /proc
		}
		id := runID()
		output, code := a.run(sh.job(timed(Spec{Command: `rm -rf "$TMPDIR"/*; exec sleep 4321`}, time.Second), id))
		if want := string(NoteTimedOut.Text(id)); output != want || code != TimedOut {
			t.Errorf("at the timeout: exit status %d, output %q", code, output)
		}
		a.nothingLeft()
	})
}

// TestKilledSleep kills the sleep of a timer. The timeout must not come sooner.
func TestKilledSleep(t *testing.T) {
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		a := newAgent(t, "SHELL=/bin/sh")
		s := a.start(sh.job(timed(Spec{Command: ": >up; until [ -f killed ]; do sleep 0.1; done; sleep 1; exit 5"}, 4321*time.Second), runID()))
		s.until("up")
		if runtime.GOOS == "linux" && sh.name != "ksh93" { // whose sleep is built in
			s.untilTrue("the timer's sleep", func() bool { return a.count("sleep\x004321\x00") == 1 })
		}
		killed := 0
		for _, pid := range a.processes() {
			if args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); string(args) == "sleep\x004321\x00" {
				killed++
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					t.Error(err)
				}
			}
		}
		if killed > 1 {
			t.Errorf("killed %d sleeps, want one at most", killed)
		}
		if err := os.WriteFile(filepath.Join(a.tmp, "killed"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if output, code := s.wait(); output != "" || code != 5 {
			t.Errorf("exit status %d, output %q", code, output)
		}
	})
}

// TestMissingUtility takes each utility away in turn. The command does not run.
func TestMissingUtility(t *testing.T) {
	t.Parallel()
	sh := shells(t)[0]
	for _, missing := range utilities {
		dir := t.TempDir()
		for _, program := range append(utilities, "sh", "setsid") {
			if program != missing {
				if err := os.Symlink(look(program), filepath.Join(dir, program)); err != nil {
					t.Fatal(err)
				}
			}
		}
		a := newAgent(t, "PATH="+dir)
		switch output, code := a.run(sh.job(killable(Spec{Command: ": >ran"}), runID())); {
		case code == 0 && (missing == "ps" || missing == "printf"):
			// There is /proc, and the shell has its own printf.
		case code != 126 || output != "consulexec: not run: there is no "+missing+"\n" || a.has("ran"):
			t.Errorf("%s: exit status %d, output %q", missing, code, output)
		}
	}
}

// TestForgedHolder has a process that is not of the run hold a file whose name
// looks like the run's output.
func TestForgedHolder(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs /proc")
	}
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		a, other := newAgent(t), newAgent(t)
		s := a.start(sh.job(timed(Spec{Command: "setsid sleep 4321 & : >up; wait"}, 2*time.Second), runID()))
		s.until("up")
		guards, err := filepath.Glob(filepath.Join(a.tmp, "consulexec-*"))
		if err != nil || len(guards) != 1 {
			t.Fatalf("guards %v, error %v", guards, err)
		}
		forged := filepath.Join(other.tmp, filepath.Base(guards[0]))
		if err := os.Mkdir(forged, 0o700); err != nil {
			t.Fatal(err)
		}
		f := other.start(Job{Command: "exec 5>" + forged + "/output; : >up; exec sleep 1234"})
		f.until("up")
		if output, code := s.wait(); code != TimedOut || !strings.Contains(output, "timed out") {
			t.Errorf("exit status %d, output %q", code, output)
		}
		if n := a.count("sleep\x004321\x00"); n != 0 {
			t.Errorf("a holder goes on: %q", a.list())
		}
		if n := other.count("sleep\x001234\x00"); n != 1 {
			t.Error("a process of somebody else was ended")
		}
	})
}

// TestEndTooLate ends a run whose command has just ended by itself. The end says
// whether a process of its group goes on.
func TestEndTooLate(t *testing.T) {
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		for command, want := range map[string]int{
			"exit 3":                              Ended,
			"sleep 4321 >/dev/null 2>&1 & exit 3": Survives,
			"setsid sleep 4321 >/dev/null 2>&1 & exit 3": Ended,
		} {
			a, id := newAgent(t, "SHELL=/bin/sh"), runID()
			if output, code := a.run(sh.kept(killable(Spec{Command: command}), id)); output != "" || code != 3 {
				t.Errorf("%s: exit status %d, output %q", command, code, output)
			}
			if output, code := a.run(sh.end(id)); output != "" || code != want {
				t.Errorf("%s: the end: exit status %d, output %q, want %d", command, code, output, want)
			}
		}
	})
}
