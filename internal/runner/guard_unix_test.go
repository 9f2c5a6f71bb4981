//go:build unix

package runner

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The command of a first copy: it runs until there is a file go.
const waits = "echo a; echo x >>ran; : >up; until [ -e go ]; do sleep 0.1; done; exit 3"

// once checks that the command has run once.
func (a *agent) once() {
	a.t.Helper()
	if ran, err := os.ReadFile(filepath.Join(a.dir, "ran")); err != nil || string(ran) != "x\n" {
		a.t.Errorf("the command has written %q, error %v", ran, err)
	}
}

// TestSecondCopy starts a job again while it runs and when it has ended.
func TestSecondCopy(t *testing.T) {
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		for _, kind := range []Spec{{Command: waits}, {Script: []byte(waits), Stdin: []byte("a")}, keeping(Spec{Command: waits})} {
			a, id := newAgent(t), runID()
			want := "a\n"
			if kind.Keep > 0 {
				want += string(NoteEnded.Text(id))
			}
			job := sh.kept(killable(kind), id)
			first := a.start(job)
			first.until("up")
			info, err := os.Lstat(a.guard(id))
			if err != nil || info.Mode() != os.ModeDir|0o700 {
				t.Errorf("the guard's mode: %v, error %v", info, err)
			}
			if output, code := a.run(job); output != "" || code != TurnedAway {
				t.Errorf("second copy, while it runs: exit status %d, output %q", code, output)
			}
			start := time.Now()
			a.file("go", nil)
			if output, code := first.wait(); output != want || code != 3 {
				t.Errorf("first copy: exit status %d, output %q", code, output)
			}
			if took := time.Since(start); took < time.Second {
				t.Errorf("the first copy ended after %v: the second one's agent may write its end later", took)
			}
			if output, code := a.run(job); output != "" || code != 3 {
				t.Errorf("second copy, after the end: exit status %d, output %q", code, output)
			}
			a.once()
			if output, code := a.run(sh.end(id)); output != "" || code != Ended {
				t.Errorf("the end: exit status %d, output %q", code, output)
			}
		}
	})
}

// TestCopiesAtOnce starts copies at the same time: one of them runs.
func TestCopiesAtOnce(t *testing.T) {
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		var agents []*agent
		var copies [][]*started
		for range upTo(10) {
			a := newAgent(t)
			job := sh.kept(killable(Spec{Command: "echo x >>ran; echo a; exit 3"}), runID())
			var started []*started
			for range 4 {
				started = append(started, a.start(job))
			}
			agents, copies = append(agents, a), append(copies, started)
		}
		for i, a := range agents {
			full := 0
			for _, s := range copies[i] {
				output, code := s.wait()
				switch {
				case output == "a\n" && code == 3:
					full++
				case output != "" || code != 3 && code != TurnedAway:
					t.Errorf("exit status %d, output %q", code, output)
				}
			}
			if full != 1 {
				t.Errorf("%d copies have printed", full)
			}
			a.once()
		}
	})
}

// TestAgentsBeside has agents with one TMPDIR. Each runs its own copy, with the
// data whole.
func TestAgentsBeside(t *testing.T) {
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		first := newAgent(t)
		for _, kind := range []Spec{{Command: waits}, {Script: []byte(waits + "\n# " + strings.Repeat("x", 5000))}} {
			id := runID()
			job := sh.job(killable(kind), id)
			var all []*started
			for _, a := range []*agent{first, first.beside(), first.beside()} {
				all = append(all, a.start(job))
			}
			for _, s := range all {
				s.until("up")
			}
			if first.has("rexec*") {
				t.Error("data is left in TMPDIR")
			}
			for _, s := range all {
				for _, file := range []string{"up", "go"} {
					if err := os.WriteFile(filepath.Join(s.dir, file), nil, 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			for _, s := range all {
				if output, code := s.wait(); output != "a\n" || code != 3 {
					t.Errorf("exit status %d, output %q", code, output)
				}
				s.once()
				for _, file := range []string{"up", "go", "ran"} {
					os.Remove(filepath.Join(s.dir, file))
				}
			}
		}
		first.nothingLeft()
	})
}

// stranger is another user's number.
const stranger = 54321

// TestGuardTaken has something else with the guard's name. The run takes the
// next name, and a second copy does as well.
func TestGuardTaken(t *testing.T) {
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		for name, take := range map[string]func(path string) error{
			"file": func(path string) error { return os.WriteFile(path, []byte("theirs"), 0o600) },
			"FIFO": func(path string) error { return syscall.Mkfifo(path, 0o600) },
			"link": func(path string) error {
				return errors.Join(os.Mkdir(linked(path), 0o700), os.Symlink(linked(path), path))
			},
			"bad link": func(path string) error { return os.Symlink("/no/such", path) },
			"stranger": func(path string) error { return errors.Join(os.Mkdir(path, 0o777), os.Chown(path, stranger, -1)) },
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				if name == "stranger" && os.Getuid() != 0 {
					t.Skip("only root can give a file to somebody")
				}
				a, id := newAgent(t, "SHELL=/bin/sh"), runID()
				guard := a.guard(id)
				if err := take(guard); err != nil {
					t.Fatal(err)
				}
				before := listing(t, guard)
				job := sh.kept(killable(Spec{Script: []byte(waits)}), id)
				s := a.start(job)
				s.until("up")
				if !a.has(filepath.Base(guard) + "-1/hold-*") {
					t.Error("the run's guard is not the next name")
				}
				if output, code := a.run(job); output != "" || code != TurnedAway {
					t.Errorf("second copy: exit status %d, output %q", code, output)
				}
				if output, code := a.run(sh.end(id)); output != "" || code != Ended {
					t.Errorf("the end: exit status %d, output %q", code, output)
				}
				if output, code := s.wait(); output != "a\n" || code != 143 {
					t.Errorf("exit status %d, output %q", code, output)
				}
				a.once()
				if after := listing(t, guard); after != before {
					t.Errorf("theirs was\n%sand is\n%s", before, after)
				}
			})
		}
		a, id := newAgent(t), runID()
		guard := a.guard(id)
		for _, more := range []string{"", "-1", "-2", "-3", "-4", "-5", "-6", "-7", "-8", "-9"} {
			a.file(filepath.Base(guard)+more, nil)
		}
		if output, code := a.run(sh.job(killable(Spec{Command: "echo ran"}), id)); code != 126 || !strings.HasPrefix(output, "consulexec: not run: mkdir") {
			t.Errorf("all names are taken: exit status %d, output %q", code, output)
		}
	})
}

// linked returns the target of the link at that path.
func linked(path string) string { return filepath.Join(filepath.Dir(path), "linked") }

// listing describes a file and what is in it.
func listing(t testing.TB, path string) (text string) {
	t.Helper()
	for _, file := range []string{path, path + "/.", linked(path)} {
		info, err := os.Lstat(file)
		if err != nil {
			continue
		}
		text += fmt.Sprintln(info.Name(), info.Mode(), info.Size(), info.ModTime())
	}
	return text
}

// TestNoGuard has no place for the guard.
func TestNoGuard(t *testing.T) {
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		a := newAgent(t)
		for _, tmp := range []string{filepath.Join(a.tmp, "no such"), a.file("file", nil)} {
			a.env = append(a.without("TMPDIR"), "TMPDIR="+tmp)
			output, code := a.run(sh.job(killable(Spec{Command: ": >ran"}), runID()))
			if code != 126 || !strings.HasPrefix(output, "consulexec: not run: ") || !strings.Contains(output, tmp) {
				t.Errorf("exit status %d, output %q", code, output)
			}
			if output, code := a.run(sh.end(runID())); code != NoAnswer || !strings.HasPrefix(output, "consulexec: not run: ") {
				t.Errorf("the end: exit status %d, output %q", code, output)
			}
		}
		if a.has("ran") {
			t.Error("the command has run")
		}
	})
}

// TestWithoutTMPDIR has agents that use /tmp.
func TestWithoutTMPDIR(t *testing.T) {
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		for _, more := range [][]string{nil, {"TMPDIR="}} {
			a, id := newAgent(t), runID()
			a.env = append(a.without("TMPDIR"), more...)
			a.tmp = "/tmp"
			output, code := a.run(sh.job(killable(Spec{Script: []byte("ls -d /tmp/consulexec-$1-*/output"), Args: []string{id}}), id))
			if want := a.guard(id) + "/output\n"; output != want || code != 0 || !strings.HasPrefix(output, "/tmp/") {
				t.Errorf("exit status %d, output %q, want %q", code, output, want)
			}
		}
	})
}

// TestGuardGoes waits for the real end of a guard.
func TestGuardGoes(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes a minute")
	}
	a, id := newAgent(t), runID()
	spec := killable(Spec{Command: "exit 3"})
	s := a.start(spec.Job(id))
	if output, code := s.wait(); output != "" || code != 3 {
		t.Errorf("exit status %d, output %q", code, output)
	}
	end := time.Now()
	for ; a.has("consulexec-*/exit-3-*"); time.Sleep(100 * time.Millisecond) {
		if time.Since(end) > 2*time.Minute {
			t.Fatalf("the guard is still there; processes %q", a.list())
		}
	}
	if took := time.Since(end); took < 45*time.Second {
		t.Errorf("the guard went after %v", took)
	}
	a.nothingLeft()
}

// TestDataNotWhole has agents whose disk is full: not all of the file is there,
// or nothing.
func TestDataNotWhole(t *testing.T) {
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		a := newAgent(t)
		spec := Spec{Script: []byte(": >ran\necho a\n"), Stdin: []byte("b\n"), Env: map[string]string{"A": "c"}}
		job := sh.job(killable(spec), runID())
		whole := job.Script
		head := bytes.IndexByte(whole, '\n') + 1
		lengths := []int{0, 1, head - 2, head - 1, head, head + 1, head + 7, len(whole) - 15, len(whole) - 14, len(whole) - 13, len(whole) - 2, len(whole) - 1, len(whole) + 1}
		var jobs []*started
		for _, length := range lengths {
			job := sh.job(killable(spec), runID())
			job.Script = append(job.Script, '\n')[:length]
			jobs = append(jobs, a.start(job))
		}
		for i, length := range lengths {
			output, code := jobs[i].wait()
			if code != 126 || !strings.HasPrefix(output, "consulexec: not run: its script, input or environment is not in "+a.tmp) {
				t.Errorf("%d of %d bytes: exit status %d, output %q", length, len(whole), code, output)
			}
		}
		if a.has("ran") {
			t.Fatal("the command has run")
		}
		a.nothingLeft()
	})
}

// TestDataStrangers has other files in TMPDIR that look like an agent's. Nobody
// waits for them or takes them.
func TestDataStrangers(t *testing.T) {
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		a := newAgent(t)
		spec := killable(Spec{Script: []byte("cat; exit 3\n# " + strings.Repeat("x", 500)), Stdin: []byte("mine")})
		job, none := sh.job(spec, runID()), sh.job(spec, runID()) // none has no file
		other := a.file("other", none.Script)
		link := strings.Repeat("/", len(none.Script)-len(other)) + other // of the same size
		a.file("rexec1", sh.job(spec, runID()).Script)
		a.file("rexec2", []byte(strings.Repeat("x", len(none.Script))))
		a.file("rexec3", nil)
		err := errors.Join(
			os.Truncate(a.file("rexec4", none.Script), 1<<30),
			os.Truncate(a.file("rexec5", nil), 1<<30), // has no line at all
			syscall.Mkfifo(filepath.Join(a.tmp, "rexec0"), 0o600),
			os.Symlink(link, filepath.Join(a.tmp, "rexec6")),
			os.Mkdir(filepath.Join(a.tmp, "rexec7"), 0o700),
		)
		if err != nil {
			t.Fatal(err)
		}
		if os.Getuid() == 0 {
			if err := os.Chown(a.file("rexec8", none.Script), stranger, -1); err != nil {
				t.Fatal(err)
			}
		}
		before, _ := filepath.Glob(filepath.Join(a.tmp, "*"))
		if output, code := a.run(job); output != "mine" || code != 3 {
			t.Errorf("exit status %d, output %q", code, output)
		}
		none.Script = nil // the agent has not written it
		if output, code := a.run(none); code != 126 {
			t.Errorf("no file: exit status %d, output %q", code, output)
		}
		for _, file := range before {
			if _, err := os.Lstat(file); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestDataGone looks at the data while the command runs: the agent's file is
// gone, and the script's is not executable, as TMPDIR may be noexec.
func TestDataGone(t *testing.T) {
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		a, id := newAgent(t), runID()
		spec := Spec{Script: []byte("#!/bin/sh\n" + waits), Stdin: []byte("in"), Env: map[string]string{"A": "secret"}}
		s := a.start(sh.kept(killable(spec), id))
		s.until("up")
		if a.has("rexec*") {
			t.Error("the agent's file is still there")
		}
		files, err := os.ReadDir(a.guard(id))
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, file := range files {
			name, _, _ := strings.Cut(file.Name(), "-")
			names = append(names, name)
		}
		if want := []string{"events", "hold", "output", "script"}; !slices.Equal(names, want) {
			t.Errorf("the guard has %q, want %q", names, want)
		}
		info, err := os.Stat(filepath.Join(a.guard(id), "script"))
		if err != nil || info.Mode()&0o111 != 0 {
			t.Errorf("the script: %v, error %v", info.Mode(), err)
		}
		a.file("go", nil)
		if output, code := s.wait(); output != "a\n" || code != 3 {
			t.Errorf("exit status %d, output %q", code, output)
		}
	})
}

// TestDeadBeforeGuard has the agent die before the runner knows the name of its
// guard. The command does not run: the guard would have another name.
func TestDeadBeforeGuard(t *testing.T) {
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		a, id := newAgent(t, "SHELL=/bin/sh"), runID()
		bin := t.TempDir() // whose cksum lets the agent die first
		slow := "#!/bin/sh\n: >" + a.tmp + "/asks; until [ -e " + a.tmp + "/dead ]; do sleep 0.1; done; PATH=${PATH#*:}; exec cksum\n"
		if err := os.WriteFile(filepath.Join(bin, "cksum"), []byte(slow), 0o755); err != nil {
			t.Fatal(err)
		}
		job := sh.job(killable(Spec{Command: ": >ran"}), id)
		args := append([]string{"-c", `trap : TERM; "$@"; :`, "agent"}, job.Args...)
		cmd := exec.Command("/bin/sh", args...)
		cmd.Env, cmd.Dir = append(slices.Clone(a.env), "PATH="+bin+":"+os.Getenv("PATH")), a.dir
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); !a.has("asks") && time.Now().Before(deadline); {
			time.Sleep(2 * time.Millisecond)
		}
		cmd.Process.Kill()
		cmd.Wait()
		a.file("dead", nil)
		for deadline := time.Now().Add(time.Minute); len(a.processes()) > 0 && time.Now().Before(deadline); {
			time.Sleep(2 * time.Millisecond)
		}
		if a.has("ran") || a.has("consulexec-*") {
			t.Error("the command runs, or there is a guard")
		}
	})
}
