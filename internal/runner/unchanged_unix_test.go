//go:build unix

package runner

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

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
		a := newAgent(t, "SHELL=/bin/sh", "told=a", "pid=b", "kind=c", "code=d", "timer=e", "found=f", "sh=g", "HOME=/", "IFS=,", "ENV=/dev/tty", "OTHERS="+sh.adds())
		for i, name := range slices.Sorted(maps.Keys(jobs)) {
			job := jobs[name]
			if strings.Contains(name, " by ") && (i+len(sh.name))%3 > 0 {
				continue // one kind of each command, as the names are sorted; see nodeShell.kinds
			}
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
		}
		a.nothingLeft()
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

// TestWrapSignal shows how the status differs. Without the wrapper an agent
// reports a status of -1 for any signal.
func TestWrapSignal(t *testing.T) {
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		a := newAgent(t, "SHELL=/bin/sh") // zsh exits with 1 after HUP
		signals := map[string]int{"KILL": 137, "TERM": 143, "HUP": 129, "INT": 130, "PIPE": 141}
		for i, signal := range slices.Sorted(maps.Keys(signals)) {
			want := signals[signal]
			for kind, job := range sh.kinds("echo a; kill -s "+signal+" $$; sleep 10", i) {
				if output, code := a.run(sh.job(killable(job), runID())); output != "a\n" || code != want {
					t.Errorf("%s of %s: exit status %d, output %q", signal, kind, code, output)
				}
			}
		}
		job := Spec{Args: []string{"/no/such/program"}}
		if output, code := a.run(sh.job(killable(job), runID())); code != 127 || !strings.Contains(output, "/no/such/program") {
			t.Errorf("no such program: exit status %d, output %q", code, output)
		}
		a.nothingLeft()
	})
}

// TestManyShort checks that nothing stays behind however soon a command ends.
func TestManyShort(t *testing.T) {
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		a := newAgent(t)
		for i := range upTo(20) {
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
		t.Parallel()
		a := newAgent(t)
		sh := nodeShell{"sh", "/bin/sh"}
		var checks []func()
		check := func(what string, spec Spec, want string) {
			s := a.start(sh.job(killable(spec), runID()))
			checks = append(checks, func() {
				if output, code := s.wait(); output != want || code != 0 {
					t.Errorf("%s: exit status %d, output %q", what, code, output)
				}
			})
		}
		script := "#!" + cat + "\n" + text
		check("script", Spec{Script: []byte(script)}, script)
		check("input", Spec{Command: "cat", Stdin: []byte(text)}, text)
		if !strings.Contains(text, "\x00") {
			check("args", Spec{Args: []string{"printf", "%s", text}}, text)
			check("command", Spec{Command: "printf %s " + quote(text)}, text)
			check("environment", Spec{Command: `printf %s "$A"`, Env: map[string]string{"A": text}}, text)
			check("script's arguments", Spec{Script: []byte(`printf '%s|' "$@"`), Args: []string{text, "", text}}, text+"||"+text+"|")
		}
		for _, check := range checks {
			check()
		}
		a.nothingLeft()
	})
}
