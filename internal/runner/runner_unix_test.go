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

// A nodeShell is a node's /bin/sh.
type nodeShell struct{ name, path string }

func shells(t testing.TB) []nodeShell {
	found := []nodeShell{{"sh", "/bin/sh"}}
	standard, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
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

// job returns the job of a spec for a node with that /bin/sh. The guard goes
// half a second after the command's end.
func (s nodeShell) job(spec Spec, id string) Job {
	job := spec.Job(id)
	_, _, _, rest := spec.program()
	s.change(job.Args[:len(job.Args)-len(rest)-2], "sleep 0.5 || sleep 1;")
	return job
}

// end returns the job that ends a run. A guard of its own goes when no job can
// come any more.
func (s nodeShell) end(id string) Job {
	job := End(id)
	s.change(job.Args, "sleep 15;")
	return job
}

// change changes the programs of a job.
func (s nodeShell) change(args []string, pause string) {
	for i, text := range args {
		args[i] = strings.ReplaceAll(strings.ReplaceAll(text, "/bin/sh", s.path), "sleep 50;", pause)
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

// nothingLeft checks that soon there is no process and no file of the agent's
// jobs.
func (a *agent) nothingLeft() {
	a.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		files, err := os.ReadDir(a.tmp)
		if err != nil {
			a.t.Fatal(err)
		}
		processes := a.list()
		if len(files)+len(processes) == 0 {
			return
		}
		if time.Now().After(deadline) {
			a.t.Fatalf("left: files %v, processes %v", files, processes)
		}
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
			s.t.Fatalf("there is no file %s: %q", file, s.cmd.Args)
		}
	}
}

// runID returns the ID of a run.
func runID() string {
	return fmt.Sprintf("%08x-0000-0000-0000-%012x", os.Getpid(), rand.Int64N(1<<48))
}

// eachShell runs a test with each shell; with -short, with /bin/sh only.
func eachShell(t *testing.T, test func(t *testing.T, sh nodeShell)) {
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
func kinds(text string) map[string]Spec {
	return map[string]Spec{
		"command": {Command: text},
		"script":  {Script: []byte("#!/bin/sh\n" + text)},
		"args":    {Args: []string{"/bin/sh", "-c", text}},
	}
}

// kinds returns all kinds of a command for /bin/sh. For another shell, and with
// -short, it returns one of them, a different one for the next i.
func (s nodeShell) kinds(command string, i int) map[string]Spec {
	all := kinds(command)
	if s.name == "sh" && !testing.Short() {
		return all
	}
	kind := slices.Sorted(maps.Keys(all))[i%len(all)]
	return map[string]Spec{kind: all[kind]}
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
	jobs := map[string]Spec{
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
		"environment":  "env | grep -v -e ^_= -e ^SHLVL= -e ^A__z= -e ^_AST_FEATURES= $OTHERS | sort",
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
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		for i, name := range slices.Sorted(maps.Keys(jobs)) {
			job := jobs[name]
			if (sh.name != "sh" || testing.Short()) && strings.Contains(name, " by ") && i%3 > 0 {
				continue // one kind of each command, as the names are sorted
			}
			a := newAgent(t, "SHELL=/bin/sh", "told=a", "pid=b", "kind=c", "code=d", "timer=e", "found=f", "sh=g", "HOME=/", "IFS=,", "ENV=/dev/tty", "OTHERS="+sh.adds())
			var want string
			code := 0
			if strings.HasPrefix(name, "its group") {
				want = "still here\n"
			} else {
				want, code = a.run(plain(job))
			}
			got, gotCode := a.run(sh.job(timed(job, time.Hour), runID()))
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

// adds returns the arguments for grep that find what a shell itself puts into the
// environment, besides what most do.
func (s nodeShell) adds() string {
	if s.name == "zsh" {
		return "-e ^LOGNAME= -e ^OLDPWD= -e ^IFS="
	}
	return ""
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
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		for signal, want := range map[string]int{"KILL": 137, "TERM": 143, "HUP": 129, "INT": 130, "PIPE": 141} {
			for kind, job := range kinds("echo a; kill -s " + signal + " $$; sleep 10") {
				a := newAgent(t, "SHELL=/bin/sh") // zsh exits with 1 after HUP
				if output, code := a.run(sh.job(killable(job), runID())); output != "a\n" || code != want {
					t.Errorf("%s of %s: exit status %d, output %q", signal, kind, code, output)
				}
				a.nothingLeft()
			}
		}
		job := Spec{Args: []string{"/no/such/program"}}
		if output, code := newAgent(t).run(sh.job(killable(job), runID())); code != 127 || !strings.Contains(output, "/no/such/program") {
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
	eachShell(t, func(t *testing.T, sh nodeShell) {
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
			job := Spec{Command: "echo it"}
			output, code := newAgent(t, test.env...).run(sh.job(killable(job), runID()))
			if got := fmt.Sprint(strings.TrimSpace(output), " ", code); got != test.want {
				t.Errorf("%s: %q, want %q", test.name, got, test.want)
			}
		}
		// The agent runs a script by its shell, too.
		job := Spec{Script: []byte("echo it")}
		a := newAgent(t, "SHELL="+look("bash"))
		if output, code := a.run(sh.job(killable(job), runID())); look("bash") != "/no/such/bash" && (output != "it\n" || code != 0) {
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
	{"stopped", ": >up; kill -STOP $$; echo not here", "", 143, false},
	{"left the group", "exec 2>/dev/null; trap 'exit 7' TERM; setsid sleep 4321 & : >up; while :; do sleep 0.1; done", "", 7, false},
	{"left the group and ignores it", "setsid sh -c \"exec 2>/dev/null; trap '' TERM; : >up; while :; do sleep 0.1; done\" & sleep 4321", "", 143, true},
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
func startEndings(t *testing.T, sh nodeShell, limit time.Duration, env ...string) (all []ending) {
	t.Helper()
	for i, e := range endings {
		for kind, job := range sh.kinds(e.command, i) {
			a := newAgent(t, append(env, "SHELL=/bin/sh")...) // another may print "Terminated"
			id := runID()
			all = append(all, ending{a.start(sh.job(timed(killable(job), limit), id)), e.name + " by " + kind, e.output, e.code, e.slow, id})
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
	e.output += string(TimeoutNote(e.id))
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
			if output, code := k.wait(); output != "" || code != Ended {
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
		for _, e := range startEndings(t, sh, 1500*time.Millisecond) {
			e.checkTimedOut(start)
		}
		if took := time.Since(start); took < 2*time.Second {
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

// count returns how many processes with these arguments run.
func (a *agent) count(args string) (n int) {
	for _, pid := range a.processes() {
		if text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); string(text) == args {
			n++
		}
	}
	return n
}

// utilities are those of POSIX that the programs use.
var utilities = []string{"cat", "cksum", "dd", "env", "find", "grep", "id", "ls", "mkdir", "mkfifo", "mv", "printf", "ps", "rm", "sed", "sleep", "uname", "wc"}

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

// TestManyShort checks that nothing stays behind however soon a command ends.
func TestManyShort(t *testing.T) {
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		a := newAgent(t)
		for i := range upTo(100) {
			for kind, job := range sh.kinds(fmt.Sprint("exit ", i%3), i) {
				output, code := a.run(sh.job(timed(job, time.Hour), runID()))
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
		sh := nodeShell{"sh", "/bin/sh"}
		check := func(what string, spec Spec, want string) {
			t.Helper()
			if output, code := a.run(sh.job(killable(spec), runID())); output != want || code != 0 {
				t.Errorf("%s: exit status %d, output %q", what, code, output)
			}
		}
		script := "#!" + cat + "\n" + text
		check("script", Spec{Script: []byte(script)}, script)
		check("input", Spec{Command: "cat", Stdin: []byte(text)}, text)
		if strings.Contains(text, "\x00") {
			return
		}
		check("args", Spec{Args: []string{"printf", "%s", text}}, text)
		check("command", Spec{Command: "printf %s " + quote(text)}, text)
		check("environment", Spec{Command: `printf %s "$A"`, Env: map[string]string{"A": text}}, text)
		check("script's arguments", Spec{Script: []byte(`printf '%s|' "$@"`), Args: []string{text, "", text}}, text+"||"+text+"|")
		a.nothingLeft()
	})
}
