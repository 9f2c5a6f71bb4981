//go:build unix

package runner

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A caller is a shell that says that it was called, and with what.
func caller(t testing.TB) string {
	path := filepath.Join(t.TempDir(), "mine")
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho \"my shell: $*\"\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestAgentsShell checks which shell runs the command if none is given.
func TestAgentsShell(t *testing.T) {
	mine := caller(t)
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		for _, test := range []struct {
			name string
			env  []string
			want string
		}{
			{"not set", nil, sh.path + " 0"},
			{"empty", []string{"SHELL="}, sh.path + " 0"},
			{"false", []string{"SHELL=/bin/false"}, " 1"},
			{"its own", []string{"SHELL=" + mine}, "my shell: -c echo $0 3"},
			{"in another's text", []string{"A=a\nSHELL=/bin/false\nB=b"}, sh.path + " 0"},
		} {
			job := Spec{Command: "echo $0"}
			output, code := newAgent(t, test.env...).run(sh.job(killable(job), runID()))
			if got := fmt.Sprint(strings.TrimSpace(output), " ", code); got != test.want {
				t.Errorf("%s: %q, want %q", test.name, got, test.want)
			}
		}
	})
}

// TestAgentsBash has commands and scripts that only bash understands.
func TestAgentsBash(t *testing.T) {
	bash := look("bash")
	if bash == "/no/such/bash" {
		t.Skip("bash is not installed")
	}
	text := "[[ a == a ]] && cat <(echo it)"
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		for _, spec := range []Spec{{Command: text}, {Script: []byte(text)}} {
			a := newAgent(t, "SHELL="+bash)
			if output, code := a.run(sh.job(timed(spec, time.Hour), runID())); output != "it\n" || code != 0 {
				t.Errorf("%+v: exit status %d, output %q", spec, code, output)
			}
		}
	})
}

// TestShell checks that the given shell runs commands and scripts.
func TestShell(t *testing.T) {
	mine := caller(t)
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		for _, spec := range []Spec{
			{Command: "echo it"},
			{Script: []byte("echo it")},
			{Script: []byte("#!/no/such/interpreter\necho it"), Args: []string{"a", "b"}},
		} {
			a, id := newAgent(t, "SHELL=/bin/false"), runID()
			spec.Shell = mine
			want := "my shell: -c echo it\n"
			if spec.Script != nil {
				want = "my shell: GUARD/script" + strings.Join(append([]string{""}, spec.Args...), " ") + "\n"
			}
			output, code := a.run(sh.job(killable(spec), id))
			output = strings.ReplaceAll(output, a.guard(id), "GUARD")
			if output != want || code != 3 {
				t.Errorf("exit status %d, output %q, want %q", code, output, want)
			}
			a.nothingLeft()
		}
	})
}

// skipWithoutZeros skips a test that takes env -0.
func skipWithoutZeros(t *testing.T) {
	t.Helper()
	if err := exec.Command("env", "-0").Run(); err != nil {
		t.Skip("this machine has no env -0")
	}
}

// zeroEnv returns the variables that env -0 has printed.
func zeroEnv(output string) map[string]string {
	all := map[string]string{}
	for v := range strings.SplitSeq(output, "\x00") {
		if name, value, ok := strings.Cut(v, "="); ok {
			all[name] = value
		}
	}
	return all
}

// TestEnv sets variables of any value, and such as mean something to a shell.
func TestEnv(t *testing.T) {
	skipWithoutZeros(t)
	env := map[string]string{
		"QUOTES":  `it's "x" 'y''`,
		"TEXT":    "\na\n\nb \n\n",
		"DOLLAR":  "$HOME ${HOME} $(echo no) `echo no` $$ $",
		"SLASHES": `\ \\ \n \' \`,
		"UTF8":    "äöü€😀",
		"EMPTY":   "",
		"STARS":   "* ? [a-z] ~ ~root",
		"PATH":    "/my/bin:" + os.Getenv("PATH"),
		"IFS":     ",a",
		"SHELL":   "/bin/false",
		"TMPDIR":  "/no/such/dir",
		"HOME":    "/my home",
		"LC_ALL":  "C",
		"SECONDS": "71",
		"RANDOM":  "72",
		"A":       "the caller's",
	}
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		a := newAgent(t, "A=the agent's", "B=the agent's", "SECONDS=5", "IFS=x")
		output, code := a.run(sh.job(killable(Spec{Args: []string{"env", "-0"}, Env: env}), runID()))
		got := zeroEnv(output)
		if code != 0 || got["B"] != "the agent's" {
			t.Errorf("exit status %d, output %q", code, output)
		}
		for name, want := range env {
			if sh.name == "zsh" && name == "RANDOM" {
				continue // stays random, whatever is set
			}
			if value, ok := got[name]; !ok || value != want {
				t.Errorf("%s is %q, want %q", name, value, want)
			}
		}
		for name := range got {
			if strings.HasPrefix(name, "cx_") {
				t.Errorf("the command sees the runner's %s", name)
			}
		}
		// Neither the shell nor the guard's place depend on Env.
		id := runID()
		command := fmt.Sprintf("ls -d %q/consulexec-*/hold-* | sed 's/-[0-9]*$//'; echo \"$A\"", a.tmp)
		output, code = a.run(sh.job(killable(Spec{Command: command, Env: env}), id))
		if want := a.guard(id) + "/hold\nthe caller's\n"; output != want || code != 0 {
			t.Errorf("exit status %d, output %q, want %q", code, output, want)
		}
		a.nothingLeft()
	})
}

// TestEnvReadOnly sets names that some shells don't let anybody set.
func TestEnvReadOnly(t *testing.T) {
	skipWithoutZeros(t)
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		for _, name := range []string{"UID", "PPID"} {
			a := newAgent(t)
			able := exec.Command(sh.path, "-c", "unset "+name+"; export "+name+"=7; :").Run() == nil
			if sh.name == "bash" && able {
				t.Errorf("bash sets %s", name)
			}
			spec := Spec{Args: []string{"env", "-0"}, Env: map[string]string{"A": "a", name: "7"}}
			output, code := a.run(sh.job(killable(spec), runID()))
			switch {
			case able && (zeroEnv(output)[name] != "7" || code != 0):
				t.Errorf("%s: exit status %d, output %q", name, code, output)
			case !able && (code != 125 || !strings.HasPrefix(output, "consulexec: not run: its environment") || !strings.Contains(output, name) || strings.Contains(output, "A=a")):
				t.Errorf("%s can't be set: exit status %d, output %q", name, code, output)
			}
			a.nothingLeft()
		}
	})
}

// TestDir runs commands in directories.
func TestDir(t *testing.T) {
	skipWithoutZeros(t)
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		a := newAgent(t)
		parent, err := filepath.EvalSymlinks(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"plain", ` a  b'c"d$HOME\n*`, "-ü\nü "} {
			dir := filepath.Join(parent, name)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			output, code := a.run(sh.job(killable(Spec{Args: []string{look("pwd"), "-P"}, Dir: dir}), runID()))
			if output != dir+"\n" || code != 0 {
				t.Errorf("%q: exit status %d, output %q", dir, code, output)
			}
			output, _ = a.run(sh.job(killable(Spec{Args: []string{"env", "-0"}, Dir: dir}), runID()))
			env := zeroEnv(output)
			if _, old := env["OLDPWD"]; env["PWD"] != dir || old && sh.name != "zsh" { // which exports one
				t.Errorf("%q: environment %q", dir, env)
			}
		}
		a.file("file", nil)
		for _, dir := range []string{filepath.Join(parent, "no such"), filepath.Join(a.tmp, "file")} {
			output, code := a.run(sh.job(killable(Spec{Command: "echo ran", Dir: dir}), runID()))
			if code != 125 || !strings.HasPrefix(output, "consulexec: not run: its directory: ") || !strings.Contains(output, dir) || strings.Contains(output, "ran\n") {
				t.Errorf("no directory: exit status %d, output %q", code, output)
			}
		}
		os.Remove(filepath.Join(a.tmp, "file"))
		a.nothingLeft()
	})
}

// TestStdin gives commands input of any length.
func TestStdin(t *testing.T) {
	long := make([]byte, 300<<10)
	random := rand.NewChaCha8([32]byte{1})
	random.Read(long)
	long[len(long)-1] = '!'
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		for _, test := range []struct {
			name, command string
			input         []byte
			want          string
		}{
			{"none", "wc -c | tr -d ' '; cat", []byte{}, "0\n"},
			{"a byte", "cat", []byte("\n"), "\n"},
			{"every byte", "cat", everyByte(), string(everyByte())},
			{"long", "cat", long, string(long)},
			{"regular", "[ ! -f /dev/stdin ] || echo regular; wc -c | tr -d ' '", long, "regular\n307200\n"},
			{"its end", "tail -c 1", long, "!"},
			{"in parts", "head -n 1 >/dev/null; read -r b; echo \"$b\"", []byte("a\nb\nc\n"), "b\n"},
		} {
			a := newAgent(t)
			output, code := a.run(sh.job(killable(Spec{Command: test.command, Stdin: test.input}), runID()))
			if output != test.want || code != 0 {
				t.Errorf("%s: exit status %d, %d bytes of output, %.40q", test.name, code, len(output), output)
			}
			a.nothingLeft()
		}
	})
}

// TestScriptArguments gives scripts arguments.
func TestScriptArguments(t *testing.T) {
	words := []string{"", "a b", "x\ny\n", "*", "-e", "--", "$HOME", "'", ""}
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		for _, head := range []string{"", "#!/bin/sh\n", "#! /bin/sh -e\n"} {
			spec := Spec{Script: []byte(head + `printf '%s|' $# "$@"`), Args: words}
			output, code := newAgent(t).run(sh.job(killable(spec), runID()))
			if want := fmt.Sprint(len(words)) + "|" + strings.Join(words, "|") + "|"; output != want || code != 0 {
				t.Errorf("%q: exit status %d, output %q", head, code, output)
			}
		}
	})
}

// TestInterpreters runs scripts by what their first line says.
func TestInterpreters(t *testing.T) {
	echo := look("echo")
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		a, id := newAgent(t), runID()
		spec := Spec{Script: []byte("#!" + echo + "  a  b  \n"), Args: []string{"c  d"}}
		output, code := a.run(sh.job(killable(spec), id))
		if want := "a  b " + a.guard(id) + "/script c  d\n"; output != want || code != 0 {
			t.Errorf("an argument: exit status %d, output %q, want %q", code, output, want)
		}
		output, code = a.run(sh.job(killable(Spec{Script: []byte("#!/no/such/interpreter\n")}), runID()))
		if code != 127 || !strings.Contains(output, "/no/such/interpreter") {
			t.Errorf("no interpreter: exit status %d, output %q", code, output)
		}
		if exec.Command("/usr/bin/env", "python3", "-c", "").Run() != nil {
			t.Skip("python3 is not installed")
		}
		spec = Spec{Script: []byte("#!/usr/bin/env python3\nimport sys\nprint(sys.argv[1:], sys.stdin.read())\nsys.exit(3)\n"), Args: []string{"", "é"}, Stdin: []byte("in")}
		if output, code = a.run(sh.job(killable(spec), runID())); output != "['', 'é'] in\n" || code != 3 {
			t.Errorf("python3: exit status %d, output %q", code, output)
		}
	})
}

// TestAllOptions gives a job all that it can have.
func TestAllOptions(t *testing.T) {
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		a := newAgent(t)
		dir := t.TempDir()
		spec := Spec{
			Script:    []byte("#!/bin/sh -u\necho \"$A $1 $PWD\"; cat; exit 3\n\x00\n"),
			Args:      []string{"arg"},
			Env:       map[string]string{"A": "env\n", "A_B": "c"},
			Dir:       dir,
			Stdin:     []byte("input\nunset A\n"),
			MaxOutput: 1000,
			Timeout:   time.Hour,
			Killable:  true,
		}
		if output, code := a.run(sh.job(spec, runID())); output != "env\n arg "+dir+"\ninput\nunset A\n" || code != 3 {
			t.Errorf("exit status %d, output %q", code, output)
		}
		a.nothingLeft()
	})
}

// TestMaxOutput passes on one byte more than the limit, to tell, and not one
// more than that.
func TestMaxOutput(t *testing.T) {
	data := make([]byte, 1<<20+70_000)
	random := rand.NewChaCha8([32]byte{2})
	random.Read(data)
	file := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		a := newAgent(t)
		limits := []int{0, 4097, 1 << 20}
		if sh.name == "sh" {
			limits = append(limits, 1, 4095, 4096)
		}
		for _, limit := range limits {
			for _, length := range []int{limit, limit + 1, limit + 70_000} {
				spec := Spec{Args: []string{"head", "-c", fmt.Sprint(length), file}, MaxOutput: int64(limit)}
				output, code := a.run(sh.job(spec, runID()))
				if output != string(data[:min(length, limit+1)]) || code != 0 {
					t.Errorf("%d bytes, limit %d: exit status %d, %d bytes", length, limit, code, len(output))
				}
			}
		}
		a.nothingLeft()
	})
}

// TestMaxOutputPieces has a command print in many small pieces. GNU's dd warns of
// each read that is shorter than it asked for.
func TestMaxOutputPieces(t *testing.T) {
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		const command = "i=0; while [ $i -lt 100 ]; do printf abcdefghijk; sleep 0.01; i=$((i + 1)); done; exit 3"
		for limit, want := range map[int64]int{20_000: 1100, 1100: 1100, 1000: 1001} {
			a := newAgent(t)
			if output, code := a.run(sh.job(Spec{Command: command, MaxOutput: limit}, runID())); len(output) != want || code != 3 {
				t.Errorf("limit %d: exit status %d, %d bytes, want %d", limit, code, len(output), want)
			}
		}
	})
}

// TestMaxOutputCountless takes a dd that does not say how many bytes it copied,
// as POSIX's need not.
func TestMaxOutputCountless(t *testing.T) {
	bin := t.TempDir()
	text := "#!/bin/sh\n{ " + look("dd") + " \"$@\" 2>&1 >&3 3>&- | sed -n 1,2p >&2; } 3>&1\n"
	if err := os.WriteFile(filepath.Join(bin, "dd"), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		a := newAgent(t)
		a.env = append(a.without("PATH"), "PATH="+bin+":"+os.Getenv("PATH"))
		for _, length := range []int{4999, 5000, 5001, 10_000} {
			command := fmt.Sprintf("i=0; while [ $i -lt 4 ]; do printf x; sleep 0.1; i=$((i + 1)); done; head -c %d /dev/zero | tr '\\0' x", length-4)
			output, code := a.run(sh.job(Spec{Command: command, MaxOutput: 5000}, runID()))
			if output != strings.Repeat("x", min(length, 5001)) || code != 0 {
				t.Errorf("%d bytes: exit status %d, %d bytes", length, code, len(output))
			}
		}
		a.nothingLeft()
	})
}

// TestOutputLive checks that output arrives at once, and that writes of any size
// are counted right.
func TestOutputLive(t *testing.T) {
	command := "echo first; until [ -e go ]; do sleep 0.1; done; " +
		"i=100; while [ $i -lt 160 ]; do printf %0100d $i; sleep 0.01; i=$((i + 1)); done; exit 3"
	want := "first\n"
	for i := 100; i < 160; i++ {
		want += fmt.Sprintf("%0100d", i)
	}
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		for _, limit := range []int64{NoLimit, 1 << 20, 5000, 300, 5} {
			a := newAgent(t)
			s := a.start(sh.job(Spec{Command: command, MaxOutput: limit, Killable: true}, runID()))
			part := want
			if limit >= 0 {
				part = want[:min(int64(len(want)), limit+1)]
			}
			s.untilTrue("the first line", func() bool { return s.output.String() == "first\n" })
			a.file("go", nil)
			if output, code := s.wait(); output != part || code != 3 {
				t.Errorf("limit %d: exit status %d, %d bytes, want %d: %q", limit, code, len(output), len(part), output)
			}
		}
	})
}

// TestOutputTooLong checks that a command does not notice the limit.
func TestOutputTooLong(t *testing.T) {
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		a := newAgent(t)
		for _, command := range []string{
			"head -c 5000000 /dev/zero; echo $? >status; exit 3",
			onLinux("yes | head -c 5000000 >/dev/stdout; echo $? >status; exit 3"),
		} {
			output, code := a.run(sh.job(Spec{Command: command, MaxOutput: 10}, runID()))
			status, err := os.ReadFile(filepath.Join(a.tmp, "status"))
			if command == "true" {
				continue
			}
			if err != nil || string(status) != "0\n" || len(output) != 11 || code != 3 {
				t.Errorf("exit status %d, %d bytes; the command saw %q, error %v", code, len(output), status, err)
			}
			os.Remove(filepath.Join(a.tmp, "status"))
		}
		a.nothingLeft()
	})
}
