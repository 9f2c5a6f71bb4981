//go:build unix

package runner

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// endings are commands to end, and their outcome. Each makes a file
// when it can be ended.
var endings = []struct {
	name, command string
	output        string
	code          int
	slow          bool // takes the KILL
}{
	{"sleep", ": >up; exec sleep 4321", "", 143, false},
	{"child", "echo a; : >up; sleep 4321; echo b", "a\n", 143, false},
	{"own handler", "exec 2>/dev/null; trap 'echo bye; exit 7' TERM; : >up; while :; do sleep 0.1; done", "bye\n", 7, false},
	{"slow handler", "exec 2>/dev/null; trap 'sleep 1; echo bye; exit 0' TERM; : >up; while :; do sleep 0.1; done", "bye\n", 0, false},
	{"grandchildren", "(sleep 4321 & sleep 4321 | sleep 4321 & sh -c 'sleep 4321; :') & : >up; sleep 4321", "", 143, false},
	{"stopped", ": >up; kill -STOP $$; echo not here", "", 143, false},
	{"left the group", "exec 2>/dev/null; trap 'exit 7' TERM; setsid sleep 4321 & : >up; while :; do sleep 0.1; done", "", 7, false},
	{"left the group and ignores it", "setsid sh -c \"exec 2>/dev/null; trap '' TERM; : >up; while :; do sleep 0.1; done\" & sleep 4321", "", 143, true},
	{"ignores it", "trap '' TERM; : >up; while :; do sleep 0.1; done", "", 137, true},
	{"child ignores it", "exec 2>/dev/null; trap 'exit 7' TERM; sh -c \"trap '' TERM; : >up; while :; do sleep 0.1; done\" & while :; do sleep 0.1; done", "", 7, true},
	{"quiet child ignores it", "sh -c \"trap '' TERM; : >up; while :; do sleep 0.1; done\" >/dev/null 2>&1 & sleep 4321", "", 143, true},
	{"prints", ": >up; yes | while read -r _; do sleep 0.1; done", "", 143, false},
}

// An ending is one of them under way.
type ending struct {
	*started
	name, output string
	code         int
	slow         bool
	id           string
}

// startEndings starts all of them, on a node of that environment. The time begins
// when the command can be ended.
func startEndings(t *testing.T, sh nodeShell, limit time.Duration, env ...string) (all []ending) {
	t.Helper()
	for i, e := range endings {
		for kind, job := range sh.kinds(e.command, i) {
			a := newAgent(t, append(env, "SHELL=/bin/sh")...) // another may print "Terminated"
			id := runID()
			run := sh.job(timed(killable(job), limit), id)
			for i, text := range run.Args {
				run.Args[i] = strings.Replace(text, `'until sleep "$1"`, `'until [ -e up ]; do sleep 0.1; done; until sleep "$1"`, 1)
			}
			all = append(all, ending{a.start(run), e.name + " by " + kind, e.output, e.code, e.slow, id})
		}
	}
	return all
}

func (e ending) check(since time.Time, want int) {
	e.t.Helper()
	output, code := e.wait()
	if output != e.output || code != want {
		e.t.Errorf("%s: exit status %d, output %q", e.name, code, output)
	}
	if took := time.Since(since); e.slow && took < 4*time.Second {
		e.t.Errorf("%s: took only %v", e.name, took)
	}
	os.Remove(filepath.Join(e.tmp, "up"))
	e.nothingLeft()
}

// checkTimedOut checks one that the timeout has ended.
func (e ending) checkTimedOut(since time.Time) {
	e.t.Helper()
	e.output += string(NoteTimedOut.Text(e.id))
	e.check(since, TimedOut)
}

// TestEnd ends commands by the job that does that.
func TestEnd(t *testing.T) {
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		start := time.Now()
		var enders []*started
		all := startEndings(t, sh, 0)
		for _, e := range all {
			e.until("up")
			enders = append(enders, e.start(sh.end(e.id)))
		}
		for i, k := range enders {
			output, code := k.wait()
			if code == NoAnswer && all[i].slow {
				output, code = k.run(sh.end(all[i].id)) // the machine is slow as well
			}
			if output != "" || code != Ended {
				t.Errorf("the end of %s: exit status %d, output %q", all[i].name, code, output)
			}
		}
		for _, e := range all {
			e.check(start, e.code)
		}
	})
}

// TestTimeout ends commands by the timeout.
func TestTimeout(t *testing.T) {
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		start := time.Now()
		for _, e := range startEndings(t, sh, time.Second) {
			e.checkTimedOut(start)
		}
		if took := time.Since(start); took < time.Second {
			t.Errorf("ended after %v, before the time", took)
		}
	})
}

// TestEndAtAnyTime ends jobs in their first moments. A job that comes later is
// turned away.
func TestEndAtAnyTime(t *testing.T) {
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		var jobs, enders []*started
		for i := range upTo(10) {
			for _, job := range sh.kinds(": >up; sleep 4321", i) {
				id := runID()
				s := newAgent(t, "SHELL=/bin/sh").start(sh.job(timed(job, time.Hour), id))
				time.Sleep(time.Duration(4*i) * time.Millisecond)
				jobs, enders = append(jobs, s), append(enders, s.start(sh.end(id)))
			}
		}
		for i, s := range jobs {
			if output, code := enders[i].wait(); output != "" || code != Ended {
				t.Errorf("the end: exit status %d, output %q", code, output)
			}
			output, code := s.wait()
			err := os.Remove(filepath.Join(s.tmp, "up"))
			if sh.name == "ksh93" && code == 15 {
				code = 143 // it says so of a subshell that it has not forked
			}
			if output != "" || code != 143 && (code != TurnedAway || err == nil) {
				t.Errorf("job %d: exit status %d, output %q, has begun: %v", i, code, output, err == nil)
			}
			s.nothingLeft()
		}
	})
}

// TestEndOnly checks that the end of a run leaves other runs alone, and daemons,
// and the children of a command that ended by itself.
func TestEndOnly(t *testing.T) {
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		a, id := newAgent(t, "SHELL=/bin/sh"), runID()
		leaves := Spec{Command: "sleep 4321 >/dev/null 2>&1 & exit 4"}
		if output, code := a.run(sh.job(timed(leaves, time.Second), id)); code != 4 || output != "" {
			t.Errorf("exit status %d, output %q", code, output)
		}
		job := Spec{Command: ": >up; sleep 4321 >/dev/null 2>&1"}
		o := a.start(sh.job(killable(job), runID()))
		o.until("up")
		time.Sleep(1500 * time.Millisecond) // the timeout of the one that left a child
		if _, code := a.run(sh.end(id)); code != Ended {
			t.Errorf("the end: exit status %d, %q", code, a.list())
		}
		select {
		case <-o.done:
			t.Error("another run was ended")
		default:
		}
		if n := a.count("sleep\x004321\x00"); n != 2 {
			t.Errorf("%d sleep, want 2: %q", n, a.list())
		}
	})
}

// forge starts a process whose arguments look like those of a runner. It waits
// until the test's end. The function returned reports whether it lives.
func (a *agent) forge(uid int, text string) (lives func() bool) {
	a.t.Helper()
	cmd := exec.Command("/bin/sh", "-c", text+"\nread -r _")
	cmd.Env, cmd.Dir = a.env, "/"
	if uid != os.Getuid() {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	}
	input, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		a.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cmd.Wait()
	}()
	a.t.Cleanup(func() {
		input.Close()
		<-ended
	})
	return func() bool {
		select {
		case <-ended:
			return false
		default:
			return true
		}
	}
}

// TestEndForged ends a run whose name others have in their arguments. It signals
// none of them. It only doubts if one of them may have its guard elsewhere.
func TestEndForged(t *testing.T) {
	me := os.Getuid()
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		for _, test := range []struct {
			name, text string
			uid, want  int
		}{
			{"start", ": consulexec-ID start", me, NoAnswer},
			{"leader", ": consulexec-ID leader", me, Ended},
			{"another run", ": consulexec-IDa start", me, Ended},
			{"stranger's", ": consulexec-ID start", stranger, Ended},
		} {
			t.Run(test.name, func(t *testing.T) {
				t.Parallel()
				if me != 0 && test.uid != me {
					t.Skip("only root can start a process of somebody else")
				}
				if _, err := os.Stat("/proc/self/cmdline"); err != nil && test.want == NoAnswer {
					t.Skip("without /proc nobody is seen")
				}
				a, id := newAgent(t), runID()
				lives := a.forge(test.uid, strings.ReplaceAll(test.text, "ID", id))
				job := sh.end(id)
				if test.want == NoAnswer {
					job = sh.impatient(id)
				}
				if output, code := a.run(job); output != "" || code != test.want {
					t.Errorf("the end: exit status %d, want %d, output %q", code, test.want, output)
				}
				if !lives() {
					t.Error("it is gone")
				}
			})
		}
	})
}

// TestEndElsewhere ends a run that has its guard in another TMPDIR.
func TestEndElsewhere(t *testing.T) {
	if _, err := os.Stat("/proc/self/cmdline"); err != nil {
		t.Skip("without /proc nobody is seen")
	}
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		a, id := newAgent(t), runID()
		s := a.start(sh.job(killable(Spec{Command: waits}), id))
		s.until("up")
		if output, code := newAgent(t).run(sh.impatient(id)); output != "" || code != NoAnswer {
			t.Errorf("the end: exit status %d, output %q", code, output)
		}
		a.file("go", nil)
		if output, code := s.wait(); output != "a\n" || code != 3 {
			t.Errorf("exit status %d, output %q", code, output)
		}
	})
}

// TestEndBeside ends a run of two agents with one TMPDIR, and leaves a guard of
// somebody else alone.
func TestEndBeside(t *testing.T) {
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		a, id := newAgent(t, "SHELL=/bin/sh"), runID()
		job := sh.job(killable(Spec{Command: waits}), id)
		both := []*started{a.start(job), a.beside().start(job)}
		for _, s := range both {
			s.until("up")
		}
		theirs := filepath.Join(a.tmp, "consulexec-"+id+"-123")
		if os.Getuid() == 0 {
			if err := errors.Join(os.Mkdir(theirs, 0o777), os.Chown(theirs, stranger, -1)); err != nil {
				t.Fatal(err)
			}
		}
		if output, code := a.run(sh.end(id)); output != "" || code != Ended {
			t.Errorf("the end: exit status %d, output %q", code, output)
		}
		for _, s := range both {
			if output, code := s.wait(); output != "a\n" || code != 143 {
				t.Errorf("exit status %d, output %q", code, output)
			}
		}
		if a.has(filepath.Base(theirs) + "/*") {
			t.Error("there is something in the stranger's directory")
		}
	})
}

// TestSignals sends signals to the first shell while the command runs, and to
// all in its process group. An agent's service manager may do so.
func TestSignals(t *testing.T) {
	untilGo := "until [ -e go ]; do sleep 0.1; done; "
	commands := []struct {
		name, command string
		code          int
	}{
		{"runs", "echo a; : >up; " + untilGo + "echo b; exit 3", 3},
		{"has ended", "(" + untilGo + "echo b) & echo a; : >up; exit 3", 3},
		{"has killed its leader", "kill -KILL $PPID; echo a; : >up; exec sleep 4321", TimedOut},
	}
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		for _, c := range commands {
			var all []*started
			var wants []string
			for range 2 {
				a := newAgent(t, "SHELL=/bin/sh")
				a.groups = true
				id, want, limit := runID(), "a\nb\n", time.Hour
				if c.code == TimedOut {
					want, limit = "a\n"+string(NoteTimedOut.Text(id)), 3*time.Second
				}
				all, wants = append(all, a.start(sh.job(timed(Spec{Command: c.command}, limit), id))), append(wants, want)
			}
			for i, s := range all {
				s.until("up")
				pid := s.cmd.Process.Pid
				if i == 1 {
					pid = -pid
				}
				for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM} {
					time.Sleep(100 * time.Millisecond) // for it to arrive, and to act
					if err := syscall.Kill(pid, signal); err != nil {
						t.Errorf("%s: %v", c.name, err)
					}
				}
			}
			time.Sleep(100 * time.Millisecond)
			for i, s := range all {
				s.file("go", nil)
				if output, code := s.wait(); output != wants[i] || code != c.code {
					t.Errorf("%s, %d: exit status %d, output %q", c.name, i, code, output)
				}
			}
		}
	})
}

// utilities are those of POSIX that the programs use.
var utilities = []string{"cat", "cksum", "dd", "env", "find", "grep", "id", "ls", "mkdir", "mkfifo", "mv", "printf", "ps", "rm", "sed", "sleep", "uname"}

// TestWithoutSetsid takes setsid away. A command that could not be ended must
// not run; a shell with job control without a terminal can do without setsid.
func TestWithoutSetsid(t *testing.T) {
	dir := t.TempDir()
	for _, program := range append(utilities, "sh", "yes") {
		if err := os.Symlink(look(program), filepath.Join(dir, program)); err != nil {
			t.Fatal(err)
		}
	}
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		_, code := newAgent(t, "PATH="+dir).run(sh.job(killable(Spec{Command: "exit 3"}), runID()))
		able := code == 3
		if sh.name == "bash" && !able {
			t.Error("bash has no job control without a terminal")
		}
		start := time.Now()
		for _, e := range startEndings(t, sh, time.Second, "PATH="+dir) {
			if strings.HasPrefix(e.name, "left") {
				continue // that takes setsid
			}
			if able {
				e.checkTimedOut(start)
			} else if output, code := e.wait(); code != 126 || !strings.Contains(output, "not run") {
				t.Errorf("%s: exit status %d, output %q", e.name, code, output)
			}
		}
	})
}
