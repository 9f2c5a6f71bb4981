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
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The tests in this file do what an agent does with a job, with each kind of
// shell that there is on this machine as the node's /bin/sh.

// TestMain runs more tests at once than there are cores, as most of the time
// they wait for a command to end.
func TestMain(m *testing.M) {
	if signal.Ignored(syscall.SIGHUP) { // by nohup
		// A signal that is caught has its default action in a child.
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// A shell is a node's /bin/sh.
type shell struct{ name, path string }

func shells(t testing.TB) []shell {
	found := []shell{{"sh", "/bin/sh"}}
	standard, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"dash", "bash", "busybox", "ksh93", "mksh"} {
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
		found = append(found, shell{name, as})
	}
	return found
}

// as returns a wrapped job for a node with that /bin/sh. The command is left as
// it is.
func (s shell) as(wrapped, job Job) Job {
	replace := func(text string) string { return strings.ReplaceAll(text, "/bin/sh", s.path) }
	n := len(wrapped.Args) - max(len(job.Args), 1)
	args := slices.Clone(wrapped.Args)
	for i := range max(n, 0) {
		args[i] = replace(args[i])
	}
	if len(wrapped.Script) == 0 {
		return Job{Args: args}
	}
	head := strings.TrimSuffix(string(wrapped.Script), string(job.Script))
	length := fmt.Sprintf("tail -c +%-6d", len(head)+1)
	head = replace(head)
	if !strings.Contains(head, length) {
		panic("the script's head does not have its own length")
	}
	head = strings.Replace(head, length, fmt.Sprintf("tail -c +%-6d", len(head)+1), 1)
	return Job{Script: append([]byte(head), job.Script...)}
}

// An agent is the environment in which a job runs.
type agent struct {
	t   testing.TB
	env []string
	tmp string
	tag string // is in the environment of all that it starts
}

func newAgent(t testing.TB, env ...string) *agent {
	a := &agent{t: t, tmp: t.TempDir()}
	a.tag = "CONSULEXEC_TEST=" + a.tmp
	a.env = append([]string{"PATH=" + os.Getenv("PATH"), "PWD=" + a.tmp, "TMPDIR=" + a.tmp, a.tag}, env...)
	t.Cleanup(func() {
		for _, p := range a.processes() {
			syscall.Kill(p, syscall.SIGKILL)
		}
	})
	return a
}

// A started is a job that runs.
type started struct {
	*agent
	cmd    *exec.Cmd
	output bytes.Buffer
	done   chan struct{}
	script string
}

// start runs a job as an agent does.
func (a *agent) start(job Job) *started {
	a.t.Helper()
	s := &started{agent: a, done: make(chan struct{})}
	command := job.Command
	if len(job.Script) > 0 {
		s.script = filepath.Join(a.tmp, fmt.Sprint("rexec", rand.Int64()))
		syscall.ForkLock.RLock() // nobody may inherit the open file
		err := os.WriteFile(s.script, job.Script, 0o750)
		syscall.ForkLock.RUnlock()
		if err != nil {
			a.t.Fatal(err)
		}
		command = s.script
	}
	if len(job.Args) > 0 && len(job.Script) == 0 {
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
	s.cmd.Env, s.cmd.Dir = a.env, a.tmp
	r, w, err := os.Pipe()
	if err != nil {
		a.t.Fatal(err)
	}
	s.cmd.Stdout, s.cmd.Stderr = w, w
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
	case <-time.After(time.Minute):
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
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range files {
		env, err := os.ReadFile(file)
		if err != nil || !slices.Contains(strings.Split(string(env), "\x00"), a.tag) {
			continue
		}
		var pid int
		fmt.Sscanf(file, "/proc/%d/", &pid)
		pids = append(pids, pid)
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

// nothingLeft checks that there is no process and no file of the agent's jobs.
// What was killed may take a moment to be gone.
func (a *agent) nothingLeft() {
	a.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); len(a.processes()) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			a.t.Fatalf("processes left: %v", a.list())
		}
	}
	if files, err := os.ReadDir(a.tmp); err != nil || len(files) > 0 {
		a.t.Errorf("files left: %v, %v", files, err)
	}
}

// until waits for the first output.
func (s *started) until(file string) {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(filepath.Join(s.tmp, file)); err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("there is no file %s", file)
		}
	}
}

// runID returns the ID of a run.
func runID() string {
	return fmt.Sprintf("%08x-0000-0000-0000-%012x", os.Getpid(), rand.Int64N(1<<48))
}

// eachShell runs a test with each shell; with -short, with /bin/sh only.
func eachShell(t *testing.T, test func(t *testing.T, sh shell)) {
	t.Parallel()
	found := shells(t)
	if testing.Short() {
		found = found[:1]
	}
	for _, sh := range found {
		t.Run(sh.name, func(t *testing.T) { test(t, sh) })
	}
}

// onLinux is a command for Linux, and nothing for others.
func onLinux(command string) string {
	if runtime.GOOS != "linux" {
		return "true"
	}
	return command
}

// kinds are the three ways to say the same.
func kinds(command string) map[string]Job {
	return map[string]Job{
		"command": {Command: command},
		"script":  {Script: []byte("#!/bin/sh\n" + command)},
		"args":    {Args: []string{"/bin/sh", "-c", command}},
	}
}

// kinds returns all kinds of a command for /bin/sh. For another shell, and with
// -short, it returns one of them, a different one for the next i.
func (s shell) kinds(command string, i int) map[string]Job {
	all := kinds(command)
	if s.name == "sh" && !testing.Short() {
		return all
	}
	kind := slices.Sorted(maps.Keys(all))[i%len(all)]
	return map[string]Job{kind: all[kind]}
}

// upTo returns n, and a tenth of it with -short.
func upTo(n int) int {
	if testing.Short() {
		return n / 10
	}
	return n
}

// TestWrapChangesNothing runs jobs with and without the wrapper.
func TestWrapChangesNothing(t *testing.T) {
	jobs := map[string]Job{
		"no command":         {Command: "/no/such/command 2>/dev/null"},
		"only a comment":     {Command: "# nothing"},
		"error of syntax":    {Command: "exec 2>/dev/null; (("},
		"binary output":      {Command: `printf '\000\377\r\n\303'`},
		"quotes":             {Command: `printf '%s|' "a'b" 'c"d' '$HOME' "\\" '` + "`" + `' $((1+1)) "$#" "$@"`},
		"lines":              {Command: "cat <<'END'\na\n  'b'\n\n\"c\"$x\nEND\n"},
		"reserved words":     {Command: "}; done; fi; exit 5"},
		"arguments":          {Args: []string{"printf", "%s|", "a  b", "$HOME", "", "*", "'", `"`, "\n", "-", "--", "ü", "\\", "a'b''"}},
		"no arguments":       {Args: []string{"true"}},
		"arguments and exit": {Args: []string{"sh", "-c", "exit $1", "sh", "9"}},
		"script, bare":       {Script: []byte("echo bare; exit 4")},
		"script, one line":   {Script: []byte("#!/bin/sh")},
		"script, empty line": {Script: []byte("\n")},
		"script, NUL":        {Script: []byte("#!/bin/sh\necho a\nexit 6\n\x00\x00\xff\x00")},
		"script, shell":      {Script: []byte("#!/bin/sh -e\nfalse\necho not here\n")},
		"script, no such":    {Script: []byte("#!/no/such/interpreter\n")}, // whose path is in the output
		"script, awk":        {Script: []byte("#!" + look("awk") + " -f\nBEGIN { print \"awk\"; exit 3 }\n")},
		"script, perl":       {Script: []byte("#!" + look("perl") + "\nprint \"perl\\n\"; exit 5; __END__\n\xff\x00")},
		"script, cat":        {Script: slices.Concat([]byte("#!"+look("cat")+"\n"), everyByte(), []byte("\n#!/bin/sh\nEOF\n"), everyByte())},
	}
	for name, command := range map[string]string{
		"success":      "echo hello",
		"status":       "echo a; exit 3",
		"status 126":   "exit 126",
		"status 255":   "exit 255",
		"two streams":  "echo 1; echo 2 >&2; echo 3; echo 4 >&2",
		"a megabyte":   "head -c 1048576 /dev/zero | tr '\\0' x; echo end >&2",
		"no input":     "cat; echo $?",
		"umask":        "umask",
		"directory":    "pwd; echo $PWD",
		"environment":  "env | grep -v -e ^_= -e ^SHLVL= -e ^A__z= -e ^_AST_FEATURES= | sort",
		"limits":       "ulimit -a",
		"files":        onLinux("ls /proc/self/fd; readlink /proc/self/fd/0"),
		"signals":      onLinux("grep Sig[BIC] /proc/self/status | sed 's/[0-9a-f]*\\(.......\\)$/\\1/'"), // but for real-time ones
		"interrupt":    `trap 'echo interrupted' INT QUIT; kill -INT $$; kill -QUIT $$`,
		"a late child": "(sleep 0.3; echo late) & echo early; exit 4",
		"a quiet exit": "exec >&- 2>&-; sleep 0.1; exit 5",
		"its group":    `trap '' TERM; kill -TERM 0; echo still here`,
		"TERM":         "trap 'exit 8' TERM; kill -TERM $$; exit 9",
		"pipefail":     "true | false",
	} {
		for kind, job := range kinds(command) {
			jobs[name+" by "+kind] = job
		}
	}
	delete(jobs, "its group by command") // would end this test without the wrapper
	eachShell(t, func(t *testing.T, sh shell) {
		t.Parallel()
		for i, name := range slices.Sorted(maps.Keys(jobs)) {
			job := jobs[name]
			if (sh.name != "sh" || testing.Short()) && strings.Contains(name, " by ") && i%3 > 0 {
				continue // one kind of each command, as the names are sorted
			}
			a := newAgent(t, "SHELL=/bin/sh", "told=a", "pid=b", "kind=c", "code=d", "timer=e", "found=f", "sh=g", "HOME=/", "IFS=,", "ENV=/dev/tty")
			var want string
			code := 0
			if strings.HasPrefix(name, "its group") {
				want = "still here\n"
			} else {
				want, code = a.run(job)
			}
			got, gotCode := a.run(sh.as(Wrap(job, runID(), time.Hour), job))
			if name == "script, no such" {
				got = want
			}
			if got != want || gotCode != code {
				t.Errorf("%s: exit status %d, output %q; without the wrapper %d, %q", name, gotCode, got, code, want)
			}
			if !strings.HasPrefix(name, "a late child") {
				a.nothingLeft()
			}
		}
	})
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

// TestWrapSignal shows how the status differs. Without the wrapper an agent
// reports a status of -1 for any signal.
func TestWrapSignal(t *testing.T) {
	eachShell(t, func(t *testing.T, sh shell) {
		t.Parallel()
		for signal, want := range map[string]int{"KILL": 137, "TERM": 143, "HUP": 129, "INT": 130, "PIPE": 141} {
			for kind, job := range kinds("echo a; kill -s " + signal + " $$; sleep 10") {
				a := newAgent(t)
				if output, code := a.run(sh.as(Wrap(job, runID(), 0), job)); output != "a\n" || code != want {
					t.Errorf("%s of %s: exit status %d, output %q", signal, kind, code, output)
				}
				a.nothingLeft()
			}
		}
		job := Job{Args: []string{"/no/such/program"}}
		if output, code := newAgent(t).run(sh.as(Wrap(job, runID(), 0), job)); code != 127 || !strings.Contains(output, "/no/such/program") {
			t.Errorf("no such program: exit status %d, output %q", code, output)
		}
	})
}

// TestWrapShell checks which shell runs the command.
func TestWrapShell(t *testing.T) {
	mine := filepath.Join(t.TempDir(), "mine")
	if err := os.WriteFile(mine, []byte("#!/bin/sh\necho \"my shell: $*\"\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	eachShell(t, func(t *testing.T, sh shell) {
		t.Parallel()
		for _, test := range []struct {
			name string
			env  []string
			want string
		}{
			{"not set", nil, "it 0"},
			{"empty", []string{"SHELL="}, "it 0"},
			{"false", []string{"SHELL=/bin/false"}, " 1"},
			{"its own", []string{"SHELL=" + mine}, "my shell: -c echo it 3"},
			{"in another's text", []string{"A=a\nSHELL=/bin/false\nB=b"}, "it 0"},
		} {
			job := Job{Command: "echo it"}
			output, code := newAgent(t, test.env...).run(sh.as(Wrap(job, runID(), 0), job))
			if got := fmt.Sprint(strings.TrimSpace(output), " ", code); got != test.want {
				t.Errorf("%s: %q, want %q", test.name, got, test.want)
			}
		}
		// The agent runs a script by its shell, too.
		job := Job{Script: []byte("echo it")}
		a := newAgent(t, "SHELL="+look("bash"))
		if output, code := a.run(sh.as(Wrap(job, runID(), 0), job)); look("bash") != "/no/such/bash" && (output != "it\n" || code != 0) {
			t.Errorf("script: %q, %d", output, code)
		}
	})
}

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
	{"ignores it", "trap '' TERM; : >up; while :; do sleep 0.1; done", "", 137, true},
	{"child ignores it", "exec 2>/dev/null; trap 'exit 7' TERM; sh -c \"trap '' TERM; : >up; while :; do sleep 0.1; done\" & while :; do sleep 0.1; done", "", 7, true},
	{"quiet child ignores it", "sh -c \"trap '' TERM; : >up; while :; do sleep 0.1; done\" >/dev/null 2>&1 & sleep 4321", "", 143, true},
	{"prints", ": >up; exec yes >/dev/null", "", 143, false},
}

// An ending is one of them under way.
type ending struct {
	*started
	name, output string
	code         int
	slow         bool
	id           string
}

// startEndings starts all of them in each form, on a node of that environment.
func startEndings(t *testing.T, sh shell, limit time.Duration, env ...string) (all []ending) {
	for i, e := range endings {
		for kind, job := range sh.kinds(e.command, i) {
			a := newAgent(t, append(env, "SHELL=/bin/sh")...) // another may print "Terminated"
			id := runID()
			all = append(all, ending{a.start(sh.as(Wrap(job, id, limit), job)), e.name + " by " + kind, e.output, e.code, e.slow, id})
		}
	}
	return all
}

func (e ending) check(since time.Time) {
	e.t.Helper()
	output, code := e.wait()
	if output != e.output || code != e.code {
		e.t.Errorf("%s: exit status %d, output %q", e.name, code, output)
	}
	if took := time.Since(since); e.slow && took < 4*time.Second {
		e.t.Errorf("%s: took only %v", e.name, took)
	}
	os.Remove(filepath.Join(e.tmp, "up"))
	e.nothingLeft()
}

// TestKiller ends commands by the killer: half of the time by what there is
// without /proc.
func TestKiller(t *testing.T) {
	eachShell(t, func(t *testing.T, sh shell) {
		t.Parallel()
		start := time.Now()
		node := newAgent(t)
		var killers []*started
		all := startEndings(t, sh, 0)
		for i, e := range all {
			e.until("up")
			k := Killer(e.id)
			if _, err := exec.LookPath("ps"); i%2 == 1 && err == nil {
				k.Args[2] = strings.Replace(k.Args[2], "/proc/$$/cmdline", "/nowhere", 1)
			}
			killers = append(killers, node.start(sh.as(k, Job{})))
		}
		for i, k := range killers {
			if output, code := k.wait(); output != "" || code != 0 {
				t.Errorf("the killer of %s: exit status %d, output %q", all[i].name, code, output)
			}
		}
		for _, e := range all {
			e.check(start)
		}
		node.nothingLeft()
	})
}

// TestTimeout ends commands by the timeout.
func TestTimeout(t *testing.T) {
	eachShell(t, func(t *testing.T, sh shell) {
		t.Parallel()
		start := time.Now()
		for _, e := range startEndings(t, sh, 1500*time.Millisecond) {
			e.check(start)
		}
		if took := time.Since(start); took < 2*time.Second {
			t.Errorf("ended after %v, before the time", took)
		}
	})
}

// TestKillerAtAnyTime has the killer come in the first moments of a job.
func TestKillerAtAnyTime(t *testing.T) {
	eachShell(t, func(t *testing.T, sh shell) {
		t.Parallel()
		node := newAgent(t)
		var jobs, killers []*started
		for i := range upTo(20) {
			for _, job := range sh.kinds("sleep 4321", i) {
				id := runID()
				jobs = append(jobs, newAgent(t).start(sh.as(Wrap(job, id, time.Hour), job)))
				time.Sleep(time.Duration(2*i) * time.Millisecond)
				killers = append(killers, node.start(sh.as(Killer(id), Job{})))
			}
		}
		for i, s := range jobs {
			if output, code := killers[i].wait(); output != "" || code != 0 {
				t.Errorf("the killer: exit status %d, output %q", code, output)
			}
			if output, code := s.wait(); output != "" || code != 143 {
				t.Errorf("job %d: exit status %d, output %q", i, code, output)
			}
			s.nothingLeft()
		}
	})
}

// TestKillerOnly checks that the killer leaves other runs alone, and their
// children, and those of a command that ended by itself.
func TestKillerOnly(t *testing.T) {
	eachShell(t, func(t *testing.T, sh shell) {
		t.Parallel()
		job := Job{Command: ": >up; sleep 4321 >/dev/null 2>&1"}
		id := runID()
		a, other := newAgent(t), newAgent(t)
		s, o := a.start(sh.as(Wrap(job, id, 0), job)), other.start(sh.as(Wrap(job, runID(), 0), job))
		s.until("up")
		o.until("up")
		killed := newAgent(t)
		leaves := Job{Command: "sleep 4321 >/dev/null 2>&1 & exit 4"}
		if output, code := killed.run(sh.as(Wrap(leaves, id, time.Second), leaves)); code != 4 || output != "" {
			t.Errorf("exit status %d, output %q", code, output)
		}
		if _, code := newAgent(t).run(sh.as(Killer(id), Job{})); code != 0 {
			t.Errorf("the killer: exit status %d", code)
		}
		if _, code := s.wait(); code != 143 {
			t.Errorf("exit status %d", code)
		}
		time.Sleep(1500 * time.Millisecond) // the timeout of the one that left a child
		select {
		case <-o.done:
			t.Error("another run was ended")
		default:
		}
		if runtime.GOOS == "linux" && len(killed.processes()) != 1 {
			t.Errorf("left by a command that ended by itself: %v", killed.list())
		}
		if _, code := newAgent(t).run(sh.as(Killer(runID()), Job{})); code != 0 {
			t.Errorf("the killer of nobody: exit status %d", code)
		}
	})
}

// TestKillerSeesNothing checks that the killer does not take blindness for
// success.
func TestKillerSeesNothing(t *testing.T) {
	dir := t.TempDir()
	for _, program := range []string{"sleep", "tr"} {
		if err := os.Symlink(look(program), filepath.Join(dir, program)); err != nil {
			t.Fatal(err)
		}
	}
	a := newAgent(t)
	a.env[0] = "PATH=" + dir
	if _, code := a.run(Killer(runID())); code != 2 {
		t.Errorf("exit status %d", code)
	}
}

// TestWithoutSetsid takes setsid away. A command that could not be ended must
// not run; a shell with job control without a terminal can do without setsid.
func TestWithoutSetsid(t *testing.T) {
	dir := t.TempDir()
	for _, program := range []string{"cat", "chmod", "env", "mkdir", "ps", "rm", "rmdir", "sed", "sleep", "tail", "tr", "sh", "yes"} {
		if err := os.Symlink(look(program), filepath.Join(dir, program)); err != nil {
			t.Fatal(err)
		}
	}
	eachShell(t, func(t *testing.T, sh shell) {
		t.Parallel()
		able := sh.makesGroups(t, dir)
		if sh.name == "bash" && !able {
			t.Error("bash has no job control without a terminal")
		}
		start := time.Now()
		for _, e := range startEndings(t, sh, time.Second, "PATH="+dir) {
			if able {
				e.check(start)
			} else if output, code := e.wait(); code != 126 || !strings.Contains(output, "not run") {
				t.Errorf("%s: exit status %d, output %q", e.name, code, output)
			}
		}
	})
}

// makesGroups reports whether the shell gives a child a process group of its
// own with this PATH: by a setsid that it has built in, or by job control.
func (s shell) makesGroups(t *testing.T, path string) bool {
	cmd := exec.CommandContext(t.Context(), s.path, "-c", `command -v setsid || { set -m; `+s.path+` -c 'kill -0 "-$$"'; }`)
	cmd.Env = []string{"PATH=" + path}
	var exit *exec.ExitError
	err := cmd.Run()
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return err == nil
}

// TestScriptDirectoryTaken checks that a script does not run from, and leaves
// alone, what somebody else has put in its way.
func TestScriptDirectoryTaken(t *testing.T) {
	eachShell(t, func(t *testing.T, sh shell) {
		a, theirs := newAgent(t), filepath.Join(t.TempDir(), "script")
		if err := os.WriteFile(theirs, []byte("theirs"), 0o600); err != nil {
			t.Fatal(err)
		}
		job := Job{Script: []byte("#!/bin/sh\necho it")}
		script := filepath.Join(a.tmp, "rexec1")
		if err := errors.Join(os.WriteFile(script, sh.as(Wrap(job, runID(), 0), job).Script, 0o700), os.Symlink(filepath.Dir(theirs), script+".d")); err != nil {
			t.Fatal(err)
		}
		output, code := a.run(Job{Args: []string{sh.path, script}})
		if code != 126 || strings.Contains(output, "it\n") || !strings.Contains(output, "rexec1.d") {
			t.Errorf("exit status %d, output %q", code, output)
		}
		if text, err := os.ReadFile(theirs); string(text) != "theirs" {
			t.Errorf("what was in the way is %q, %v", text, err)
		}
	})
}

// TestManyShort checks that nothing stays behind however soon a command ends.
func TestManyShort(t *testing.T) {
	eachShell(t, func(t *testing.T, sh shell) {
		t.Parallel()
		a := newAgent(t)
		for i := range upTo(100) {
			for kind, job := range sh.kinds(fmt.Sprint("exit ", i%3), i) {
				output, code := a.run(sh.as(Wrap(job, runID(), time.Hour), job))
				if output != "" || code != i%3 {
					t.Errorf("%s: exit status %d, output %q", kind, code, output)
				}
			}
		}
		a.nothingLeft()
	})
}

// FuzzWrap checks that a job runs exactly what it was given.
func FuzzWrap(f *testing.F) {
	for _, text := range []string{"", "'", "''", `\'`, `"`, "$(exit 1)`exit 1`", "\n", "\n\n'\n", "*", "~", "-c", "--", "\\", "%s%d", "!x", "ü\xff", "#", ";&|<>(){}[]", "a\tb\r"} {
		f.Add(text)
	}
	cat := look("cat")
	f.Fuzz(func(t *testing.T, text string) {
		a := newAgent(t)
		script := "#!" + cat + "\n" + text
		if output, code := a.run(Wrap(Job{Script: []byte(script)}, runID(), 0)); output != script || code != 0 {
			t.Errorf("script: exit status %d, output %q", code, output)
		}
		if strings.Contains(text, "\x00") {
			return
		}
		if output, code := a.run(Wrap(Job{Args: []string{"printf", "%s", text}}, runID(), time.Hour)); output != text || code != 0 {
			t.Errorf("args: exit status %d, output %q", code, output)
		}
		if output, code := a.run(Wrap(Job{Command: "printf %s " + quote(text)}, runID(), 0)); output != text || code != 0 {
			t.Errorf("command: exit status %d, output %q", code, output)
		}
		a.nothingLeft()
	})
}
