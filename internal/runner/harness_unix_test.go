//go:build unix

package runner

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The files *_unix_test.go do what an agent does with a job, with each kind of
// shell that there is on this machine as the node's /bin/sh.

// TestMain runs more tests at once than there are cores, as most of the time
// they wait for a command to end.
func TestMain(m *testing.M) {
	if signal.Ignored(syscall.SIGHUP) { // by nohup
		// A signal that is caught has its default action in a child.
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
	// An agent hands three files to a child. Some shells go wrong only if no
	// other is open.
	for fd := 3; fd < 256; fd++ {
		syscall.CloseOnExec(fd)
	}
	flag.Parse()
	if err := flag.Set("test.parallel", "12"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// A nodeShell is a node's /bin/sh.
type nodeShell struct{ name, path string }

func shells(t testing.TB) []nodeShell {
	found := []nodeShell{{"sh", "/bin/sh"}}
	standard, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	dir := openDir(t)
	for _, name := range []string{"dash", "bash", "busybox", "ksh93", "mksh", "zsh"} {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		if real, err := filepath.EvalSymlinks(path); err != nil || filepath.Base(real) == filepath.Base(standard) {
			continue
		}
		as := filepath.Join(dir, name, "sh") // what a shell and busybox go by
		if err := errors.Join(os.Mkdir(filepath.Dir(as), 0o755), os.Symlink(path, as)); err != nil {
			t.Fatal(err)
		}
		found = append(found, nodeShell{name, as})
	}
	return found
}

// openDir returns a temporary directory that every user can write to.
func openDir(t testing.TB) string {
	dir := t.TempDir()
	if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(dir, 0o777)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// job returns the job of a spec for a node with that /bin/sh. The guard goes
// soon after the first shell's end.
func (s nodeShell) job(spec Spec, id string) Job {
	return s.guarded(spec, id, "while kill -0 '$$' 2>/dev/null; do sleep 0.2 || sleep 1; done; sleep 0.3 || sleep 1;")
}

// kept returns a job like job does, but its guard stays while a test goes on.
func (s nodeShell) kept(spec Spec, id string) Job { return s.guarded(spec, id, "sleep 300;") }

// guarded returns a job like job does. Its guard goes after the pause.
func (s nodeShell) guarded(spec Spec, id, pause string) Job {
	job := spec.Job(id)
	_, _, _, rest := spec.program()
	s.change(job.Args[:len(job.Args)-len(rest)-2], pause)
	return job
}

// end returns the job that ends a run. A guard of its own goes when no job can
// come any more.
func (s nodeShell) end(id string) Job {
	job := End(id)
	s.change(job.Args, "sleep 15;")
	return job
}

// impatient returns a job like end does. It waits for 2 s only for an answer.
func (s nodeShell) impatient(id string) Job {
	job := s.end(id)
	for i, text := range job.Args {
		job.Args[i] = strings.Replace(text, "cx_most=90", "cx_most=20", 1)
	}
	return job
}

// change changes the programs of a job.
func (s nodeShell) change(args []string, pause string) {
	for i, text := range args {
		args[i] = strings.ReplaceAll(strings.ReplaceAll(text, "/bin/sh", s.path), `sleep "${2:-50}" & wait;`, pause)
	}
}

// killable returns the spec of something that can be ended.
func killable(s Spec) Spec {
	s.MaxOutput, s.Killable = NoLimit, true
	return s
}

// timed returns the spec of something with a timeout.
func timed(s Spec, timeout time.Duration) Spec {
	s.MaxOutput, s.Timeout = NoLimit, timeout
	return s
}

// plain returns the job without the runner.
func plain(s Spec) Job { return Job{Command: s.Command, Script: s.Script, Args: s.Args} }

// An agent is the environment in which a job runs.
type agent struct {
	t   testing.TB
	env []string
	tmp string
	dir string // its working directory
	tag string // is in the environment of all that it starts
	uid int    // the user, if not this test's

	ended  bool // whether nothing of its jobs is left
	groups bool // whether each job starts in a process group of its own
}

func newAgent(t testing.TB, env ...string) *agent {
	a := &agent{t: t, tmp: openDir(t)}
	a.dir = a.tmp
	a.tag = "CONSULEXEC_TEST=" + a.tmp
	a.env = append([]string{"PATH=" + os.Getenv("PATH"), "PWD=" + a.tmp, "TMPDIR=" + a.tmp, a.tag}, env...)
	t.Cleanup(func() {
		if a.ended {
			return
		}
		for _, p := range a.processes() {
			syscall.Kill(p, syscall.SIGKILL)
		}
	})
	return a
}

// beside returns another agent that has the same TMPDIR.
func (a *agent) beside() *agent {
	b := newAgent(a.t)
	b.env = append(slices.Clone(a.env), "PWD="+b.tmp, b.tag)
	b.dir, b.tmp = b.tmp, a.tmp
	return b
}

// without returns the agent's environment without a variable.
func (a *agent) without(name string) []string {
	return slices.DeleteFunc(slices.Clone(a.env), func(v string) bool { return strings.HasPrefix(v, name+"=") })
}

// A buffer can be read while it is written to.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// A started is a job that runs.
type started struct {
	*agent
	cmd    *exec.Cmd
	output buffer
	done   chan struct{}
	script string
}

// file writes a file into TMPDIR and returns its path.
func (a *agent) file(name string, text []byte) string {
	a.t.Helper()
	path := filepath.Join(a.tmp, name)
	syscall.ForkLock.RLock() // nobody may inherit the open file
	err := os.WriteFile(path, text, 0o750)
	syscall.ForkLock.RUnlock()
	if err != nil {
		a.t.Fatal(err)
	}
	return path
}

// has reports whether there are files of that pattern in TMPDIR.
func (a *agent) has(pattern string) bool {
	files, err := filepath.Glob(filepath.Join(a.tmp, pattern))
	if err != nil {
		a.t.Fatal(err)
	}
	return len(files) > 0
}

// start runs a job as an agent does.
func (a *agent) start(job Job) *started {
	a.t.Helper()
	a.ended = false
	s := &started{agent: a, done: make(chan struct{})}
	command := job.Command
	if len(job.Script) > 0 {
		s.script = a.file(fmt.Sprint("rexec", rand.Int64()), job.Script)
		command = s.script
	}
	if len(job.Args) > 0 {
		s.cmd = exec.Command(job.Args[0], job.Args[1:]...)
	} else {
		sh := "/bin/sh"
		for _, v := range a.env {
			if given, ok := strings.CutPrefix(v, "SHELL="); ok && given != "" {
				sh = given
			}
		}
		s.cmd = exec.Command(sh, "-c", command)
	}
	s.cmd.Env, s.cmd.Dir = a.env, a.dir
	r, w, err := os.Pipe()
	if err != nil {
		a.t.Fatal(err)
	}
	s.cmd.Stdout, s.cmd.Stderr = w, w
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: a.groups}
	if a.uid != 0 {
		s.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.uid)}
	}
	err = s.cmd.Start()
	w.Close()
	if err != nil {
		a.t.Fatal(err)
	}
	go func() {
		defer close(s.done)
		io.Copy(&s.output, r) // an agent waits for the end of the output as well
		s.cmd.Wait()
		r.Close()
		os.Remove(s.script)
	}()
	return s
}

// wait waits for the job's end.
func (s *started) wait() (output string, code int) {
	s.t.Helper()
	select {
	case <-s.done:
	case <-time.After(2 * time.Minute):
		s.t.Fatalf("the job does not end; processes %v", s.list())
	}
	return s.output.String(), s.cmd.ProcessState.ExitCode()
}

func (a *agent) run(job Job) (output string, code int) {
	a.t.Helper()
	return a.start(job).wait()
}

// processes returns the processes of the agent's jobs, if there is a /proc.
func (a *agent) processes() (pids []int) {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer proc.Close()
	names, _ := proc.Readdirnames(-1)
	tag := []byte(a.tag + "\x00")
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if env, err := os.ReadFile("/proc/" + name + "/environ"); err == nil && bytes.Contains(env, tag) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// list is processes in words.
func (a *agent) list() (lines []string) {
	for _, pid := range a.processes() {
		args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		lines = append(lines, fmt.Sprintf("%d %.200q", pid, args))
	}
	return lines
}

// guard returns the directory of a run's guard on this agent.
func (a *agent) guard(id string) string {
	a.t.Helper()
	probe := a.start(Job{Args: []string{"/bin/sh", "-c", "cx_id=$1\n" + withoutComments(guardSource) + `printf %s "$cx_guard"`, "sh", id}})
	output, _ := probe.wait()
	return output
}

// nothingLeft checks that soon there is no process and no file of the agent's
// jobs.
func (a *agent) nothingLeft() {
	a.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		files, err := os.ReadDir(a.tmp)
		if err != nil {
			a.t.Fatal(err)
		}
		late := time.Now().After(deadline)
		if len(files) > 0 && !late {
			continue
		}
		processes := a.list()
		if len(files)+len(processes) == 0 {
			a.ended = true
			return
		}
		if late {
			a.t.Fatalf("left: files %v, processes %v", files, processes)
		}
	}
}

// until waits until the command has made a file.
func (s *started) until(file string) {
	s.t.Helper()
	s.untilTrue("a file "+file, func() bool {
		_, err := os.Stat(filepath.Join(s.dir, file))
		return err == nil
	})
}

// untilTrue waits for something.
func (s *started) untilTrue(what string, is func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("there is not %s; output %q, processes %q", what, s.output.String(), s.list())
		}
	}
}

// runID returns the ID of a run.
func runID() string {
	return fmt.Sprintf("%08x-0000-0000-0000-%012x", os.Getpid(), rand.Int64N(1<<48))
}

// eachShell runs a test with each shell. With -short and with the race detector it
// takes /bin/sh only: the detector sees the Go code, which is the same for all.
func eachShell(t *testing.T, test func(t *testing.T, sh nodeShell)) {
	t.Parallel()
	found := shells(t)
	if testing.Short() || underRace() {
		found = found[:1]
	}
	for _, sh := range found {
		t.Run(sh.name, func(t *testing.T) { test(t, sh) })
	}
}

// underRace reports whether the tests were built with the race detector.
func underRace() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// onLinux is a command for Linux, and nothing for others.
func onLinux(command string) string {
	if runtime.GOOS != "linux" {
		return "true"
	}
	return command
}

// kinds are the three ways to say the same.
func kinds(text string) map[string]Spec {
	return map[string]Spec{
		"command": {Command: text},
		"script":  {Script: []byte("#!/bin/sh\n" + text)},
		"args":    {Args: []string{"/bin/sh", "-c", text}},
	}
}

// kinds returns one of the kinds of a command, a different one for the next i.
// Together the shells have them all.
func (s nodeShell) kinds(command string, i int) map[string]Spec {
	all := kinds(command)
	kind := slices.Sorted(maps.Keys(all))[(i+len(s.name))%len(all)]
	return map[string]Spec{kind: all[kind]}
}

// upTo returns n, and a tenth of it with -short.
func upTo(n int) int {
	if testing.Short() {
		return n / 10
	}
	return n
}

func look(program string) string {
	path, err := exec.LookPath(program)
	if err != nil {
		return "/no/such/" + program
	}
	return path
}

func everyByte() []byte {
	all := make([]byte, 1024)
	for i := range all {
		all[i] = byte(i)
	}
	return all
}

// count returns how many processes with these arguments run.
func (a *agent) count(args string) (n int) {
	for _, pid := range a.processes() {
		if text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); string(text) == args {
			n++
		}
	}
	return n
}
