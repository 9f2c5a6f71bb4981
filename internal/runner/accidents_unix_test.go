//go:build unix

package runner

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
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

// TestCantStart has the runner fail to open a file when some of its processes
// have started. The command does not run, and none of them goes on.
func TestCantStart(t *testing.T) {
	eachShell(t, func(t *testing.T, sh nodeShell) {
		if sh.name == "zsh" {
			t.Skip("runs no EXIT trap then")
		}
		t.Parallel()
		for _, test := range []struct {
			fifo string // is a broken link instead
			spec Spec
		}{
			{"hold", timed(Spec{Command: ": >ran"}, time.Hour)},
			{"hold", keeping(Spec{Command: ": >ran"})},
			{"passed", keeping(Spec{Command: ": >ran", Timeout: time.Hour})},
		} {
			bin := t.TempDir()
			mkfifo := "#!/bin/sh\n" + look("mkfifo") + ` "$@"; for f; do case $f in */` + test.fifo + ") rm $f; ln -s /no/such/dir/file $f ;; esac; done\n"
			if err := os.WriteFile(filepath.Join(bin, "mkfifo"), []byte(mkfifo), 0o755); err != nil {
				t.Fatal(err)
			}
			a, id := newAgent(t, "SHELL=/bin/sh"), runID()
			a.env = append(a.without("PATH"), "PATH="+bin+":"+os.Getenv("PATH"))
			output, code := a.run(sh.kept(test.spec, id))
			if code != 126 || output != notStarted || a.has("ran") {
				t.Errorf("no %s: exit status %d, output %q", test.fifo, code, output)
			}
			if test.spec.Keep > 0 {
				checkAsk(t, "an ask", a.start(sh.ask(id, "a", 0)), id, notStarted, NoteEnded, 126)
			}
			if output, code := a.run(sh.end(id)); output != "" || code != Ended {
				t.Errorf("the end: exit status %d, output %q", code, output)
			}
			a.onlySweeper()
		}
	})
}

// notStarted is what a job prints whose runner could not start its processes.
const notStarted = "consulexec: not run: the runner can't start its processes: is there a limit?\n"

// onlySweeper checks that soon only the process that removes the guard is left.
func (a *agent) onlySweeper() {
	a.t.Helper()
	var left []string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		left = slices.DeleteFunc(a.list(), func(process string) bool {
			return strings.Contains(process, "asked()") || strings.Contains(process, `"sleep\x00300\x00"`)
		})
		if len(left) == 0 {
			return
		}
	}
	a.t.Errorf("left: %v", left)
}

// TestProcessLimit runs jobs as users who may have only few processes at once. If
// the runner can't start, the command does not run. None of its processes goes on.
func TestProcessLimit(t *testing.T) {
	if runtime.GOOS != "linux" || os.Getuid() != 0 {
		t.Skip("only root can be another user, and not all systems limit a user's processes")
	}
	eachShell(t, func(t *testing.T, sh nodeShell) {
		switch sh.name {
		case "zsh":
			t.Skip("runs no EXIT trap then")
		case "ksh93":
			t.Skip("waits for ever until it can start a process")
		}
		t.Parallel()
		first := 1
		if sh.name == "bash" || sh.name == "mksh" {
			first = 5 // they try for up to half a minute, at each process anew
		}
		var jobs []*started
		for limit := first; limit <= 12; limit++ {
			for _, spec := range []Spec{{Command: ": >ran; echo a; exit 3", Timeout: time.Hour, MaxOutput: NoLimit}, keeping(Spec{Command: ": >ran; echo a; exit 3"})} {
				a := newAgent(t)
				job := sh.job(spec, runID())
				a.uid = 1<<20 + rand.IntN(1<<30)
				job.Args = append([]string{"/bin/sh", "-c", `ulimit -u "$0" 2>/dev/null || ulimit -p "$0"; exec "$@"`, fmt.Sprint(limit)}, job.Args...)
				jobs = append(jobs, a.start(job))
			}
		}
		notRun := 0
		for i, s := range jobs {
			output, code := s.wait()
			ran := s.has("ran")
			if !ran {
				notRun++
			}
			if ran != (output == "a\n" && code == 3) || ran == (output != "" && code == 126) {
				t.Errorf("limit %d: exit status %d, output %q, has run: %v", first+i/2, code, output, ran)
			}
			s.onlySweeper()
		}
		if notRun == 0 || notRun == len(jobs) {
			t.Errorf("%d of %d did not run", notRun, len(jobs))
		}
	})
}
