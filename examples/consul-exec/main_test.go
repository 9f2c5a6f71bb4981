package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/consulexec/consulexec/exectest"
)

// asProgram is the environment variable that makes the test binary run main.
const asProgram = "CONSUL_EXEC_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// command returns the program, ready to start. Of Consul's variables, its
// environment has only the address, and not even that if address is empty.
func command(t *testing.T, address string, args ...string) *exec.Cmd {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Error(err)
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "CONSUL_HTTP_") && !strings.HasPrefix(variable, "NO_COLOR=") && !strings.HasPrefix(variable, "TERM=") {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	cmd.Env = append(cmd.Env, asProgram+"=1", "TERM=xterm")
	if address != "" {
		cmd.Env = append(cmd.Env, "CONSUL_HTTP_ADDR="+address)
	}
	return cmd
}

// consulExec runs the program to its end.
func consulExec(t *testing.T, address string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	return finish(t, command(t, address, args...))
}

func finish(t *testing.T, cmd *exec.Cmd) (stdout, stderr string, status int) {
	t.Helper()
	var out, err bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &err
	if failed := cmd.Run(); failed != nil && cmd.ProcessState == nil {
		t.Error(failed)
		return "", "", -1
	}
	return out.String(), err.String(), cmd.ProcessState.ExitCode()
}

// newServer starts a cluster. At the end of the test it checks that no key or
// session is left there.
func newServer(t *testing.T, options ...exectest.Option) *exectest.Server {
	srv := exectest.NewServer(options...)
	t.Cleanup(func() {
		if keys, sessions := srv.Keys(""), srv.Sessions(); len(keys)+len(sessions) > 0 {
			t.Errorf("left behind: %v %v", keys, sessions)
		}
		srv.Close()
	})
	return srv
}

func answer(name, output string, code int) exectest.Option {
	return exectest.Node(name, exectest.Run(exectest.Answer(output, code)))
}

// lines returns the lines of a text, sorted.
func lines(text string) []string {
	return slices.Sorted(strings.Lines(text))
}

func checkLines(t *testing.T, what, got, want string) {
	t.Helper()
	if !slices.Equal(lines(got), lines(want)) {
		t.Errorf("%s:\n%swant, in any order:\n%s", what, got, want)
	}
}

// dies is a command in the middle of which the agent dies.
func dies(_ context.Context, j *exectest.Job) int {
	j.Die()
	return 0
}

func TestStatus(t *testing.T) {
	silence := exectest.Run(dies)
	for _, test := range []struct {
		name           string
		nodes          []exectest.Option
		args           []string
		status         int
		stdout, stderr string
	}{
		{
			name:   "good",
			nodes:  []exectest.Option{answer("a", "x\n", 0), answer("b", "", 0)},
			status: 0,
			stdout: "    a: x\n    a:\n==> a: finished with exit code 0\n==> b: finished with exit code 0\n2 / 2 node(s) completed / acknowledged\n",
		},
		{
			name:   "command failed",
			nodes:  []exectest.Option{answer("a", "x", 0), answer("b", "", 7)},
			status: 2,
			stdout: "    a: x\n==> a: finished with exit code 0\n==> b: finished with exit code 7\n2 / 2 node(s) completed / acknowledged\n",
		},
		{
			name:   "lost",
			nodes:  []exectest.Option{answer("a", "", 5), exectest.Node("b", silence)},
			status: 3,
			stdout: "==> a: finished with exit code 5\n1 / 2 node(s) completed / acknowledged\n",
			stderr: "==> b: lost: silent for .*, and serfHealth is critical\n",
		},
		{
			name:   "silent",
			nodes:  []exectest.Option{answer("a", "", 0), exectest.Node("b-1", exectest.ExecDisabled()), exectest.Node("b-2", exectest.ExecDisabled())},
			status: 3,
			stdout: "==> a: finished with exit code 0\n1 / 1 node(s) completed / acknowledged\n",
			stderr: `==> b-\[1-2\]: no response: did not take the job, and will not\n`,
		},
		{
			name:   "not there",
			nodes:  []exectest.Option{answer("a", "", 0)},
			args:   []string{"-nodes=a,z"},
			status: 3,
			stdout: "==> a: finished with exit code 0\n1 / 1 node(s) completed / acknowledged\n",
			stderr: "==> z: no response: the catalog has no such agent\n",
		},
		{
			name:   "nobody matches",
			nodes:  []exectest.Option{answer("a", "", 0)},
			args:   []string{"-node=z"},
			status: 1,
			stdout: "0 / 0 node(s) completed / acknowledged\n",
			stderr: `consulexec: no matching node .*\n`,
		},
		{
			name:   "skipped",
			nodes:  []exectest.Option{answer("a", "", 1), answer("b-1", "", 0), answer("b-2", "", 0)},
			args:   []string{"-concurrency=1", "-max-failures=1"},
			status: 2,
			stdout: "==> a: finished with exit code 1\n1 / 1 node(s) completed / acknowledged\n",
			stderr: `==> a: finished with exit code 1: .* may be nologin .* -shell-path\n==> b-\[1-2\]: skipped: never got the job\n`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			srv := newServer(t, test.nodes...)
			stdout, stderr, status := consulExec(t, srv.URL, append(test.args, "-wait=1s", "true")...)
			checkLines(t, "stdout", stdout, test.stdout)
			if !regexp.MustCompile("^(?:" + test.stderr + ")$").MatchString(stderr) {
				t.Errorf("stderr %q, want %q", stderr, test.stderr)
			}
			if status != test.status {
				t.Errorf("status %d, want %d", status, test.status)
			}
		})
	}
}

// TestJobFailed checks the report of a job that Consul refuses.
func TestJobFailed(t *testing.T) {
	t.Parallel()
	srv := newServer(t, answer("a", "", 0))
	srv.Fault(exectest.Fault{Match: exectest.Path("PUT", "/v1/session/create"), Do: exectest.Denied})
	stdout, stderr, status := consulExec(t, srv.URL, "true")
	if status != 1 || stdout != "" || !strings.Contains(stderr, "permission denied") {
		t.Errorf("status %d, stdout %q, stderr %q", status, stdout, stderr)
	}
}

func TestBadFlags(t *testing.T) {
	t.Parallel()
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("\n # nobody\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(t.TempDir(), "broken")
	if err := os.WriteFile(broken, []byte("secret\nb[1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	badName := filepath.Join(t.TempDir(), "name")
	if err := os.WriteFile(badName, []byte("A=1\n# a key\nsecret+/==\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	badValue := filepath.Join(t.TempDir(), "value")
	if err := os.WriteFile(badValue, []byte("A=1\nB=secret\x00\nB=2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args string
		want []string // besides the usage
	}{
		{"", []string{"Must specify a command to execute"}},
		{"-", []string{"Must specify a command to execute"}}, // stdin is empty
		{"-shell=false -", []string{"false", "-shell", "Cannot configure -shell=false when reading from stdin"}},
		{"-nonsense x", []string{"flag provided but not defined: -nonsense"}},
		{"-node=( x", []string{`"("`, "-node", "missing closing )"}},
		{"-service=( x", []string{`"("`, "-service", "missing closing )"}},
		{"-service=x -tag=[ x", []string{`"["`, "-tag", "missing closing ]"}},
		{"-tag=blue x", []string{`"blue"`, "-tag", "Cannot provide tag filter without service filter"}},
		{"-prefix= x", []string{`""`, "-prefix"}},
		{"-prefix=../x x", []string{`"../x"`, "-prefix"}},
		{"-shell=2 x", []string{`"2"`, "-shell"}},
		{"-stale=2 x", []string{`"2"`, "-stale"}},
		{"-verbose=2 x", []string{`"2"`, "-verbose"}},
		{"-kill=2 x", []string{`"2"`, "-kill"}},
		{"-wait=soon x", []string{`"soon"`, "-wait"}},
		{"-wait=99ms x", []string{`"99ms"`, "-wait", "under 100ms"}},
		{"-wait-repl=-1s x", []string{`"-1s"`, "-wait-repl"}},
		{"-nodes=, x", []string{`","`, "-nodes", "no node named"}},
		{"-nodes-file=" + empty + " x", []string{`"` + empty + `"`, "-nodes-file", "no node named"}},
		{"-nodes-file=/nowhere/at/all x", []string{`"/nowhere/at/all"`, "-nodes-file"}},
		{"-concurrency=0 x", []string{`"0"`, "-concurrency"}},
		{"-concurrency=some x", []string{`"some"`, "-concurrency"}},
		{"-concurrency=101% x", []string{`"101%"`, "-concurrency"}},
		{"-max-failures=0 x", []string{`"0"`, "-max-failures"}},
		{"-max-failures=10% x", []string{`"10%"`, "-max-failures"}},
		{"-recover=-1s x", []string{`"-1s"`, "-recover", "not positive"}},
		{"-timeout=-1s x", []string{`"-1s"`, "-timeout"}},
		{"-timeout=10 x", []string{`"10"`, "-timeout"}},
		{"-format=xml x", []string{`"xml"`, "-format"}},
		{"-node= x", []string{"-node", "is empty"}},
		{"-node=a -node=b x", []string{`"b"`, "-node", "given twice"}},
		{"-service= x", []string{"-service", "is empty"}},
		{"-service=a -tag= x", []string{"-tag", "is empty"}},
		{"-service=a -service=b x", []string{`"b"`, "-service", "given twice"}},
		{"-filter= x", []string{"-filter", "is empty"}},
		{"-filter=a -filter=b x", []string{"-filter", "given twice"}},
		{"-healthy-service= x", []string{"-healthy-service", "is empty"}},
		{"-healthy-service=a/../b x", []string{`"a/../b"`, "-healthy-service"}},
		{"-datacenter= x", []string{"-datacenter", "is empty"}},
		{"-nodes= x", []string{"-nodes", "is empty"}},
		{"-nodes=web-[1 x", []string{"-nodes", "out of place"}},
		{"-nodes-file= x", []string{"-nodes-file", "is empty"}},
		{"-nodes-file=- x", []string{"-nodes-file", "no node named"}}, // stdin is empty
		{"-nodes-file=" + broken + " x", []string{"-nodes-file", "line 2"}},
		{"-limit=0 x", []string{`"0"`, "-limit"}},
		{"-limit= x", []string{"-limit", "is empty"}},
		{"-limit=1 -limit=2 x", []string{`"2"`, "-limit", "given twice"}},
		{"-datacenter=a -datacenter=b x", []string{`"b"`, "-datacenter", "given twice"}},
		{"-service=a -tag=b -tag=c x", []string{`"c"`, "-tag", "given twice"}},
		{"-healthy-service=a -healthy-service=b x", []string{`"b"`, "-healthy-service", "given twice"}},
		{"-shell-path= x", []string{"-shell-path", "is empty"}},
		{"-shell-path=bash -shell=false x", []string{"-shell-path", "-shell=false"}},
		{"-env= x", []string{"-env", "is empty"}},
		{"-env=secret x", []string{"-env", "name=value"}},
		{"-env=a-b=secret x", []string{"-env", `"a-b"`}},
		{"-env-file=" + badName + " x", []string{"-env-file", "line 3", "digit first"}},
		{"-env-file=" + badValue + " x", []string{"-env-file", "line 2", "variable B", "NUL"}},
		{"-env-file=" + broken + " x", []string{"-env-file", "line 1", "name=value"}},
		{"-dir=tmp x", []string{`"tmp"`, "-dir"}},
		{"-stdin-file=/nowhere/at/all x", []string{`"/nowhere/at/all"`, "-stdin-file"}},
		{"-stdin-file=- -env-file=- x", []string{"-env-file", "twice"}},
		{"-stdin-file=- -", []string{"twice"}},
		{"-max-output=-1 x", []string{`"-1"`, "-max-output"}},
		{"-max-output=1k x", []string{`"1k"`, "-max-output"}},
		{"-format= x", []string{"-format", "is empty"}},
		{"-failed-file=" + empty + " -failed-file=x x", []string{"-failed-file", "given twice"}},
		{"-failed-file= x", []string{"-failed-file", "is empty"}},
		{"-failed-file=" + filepath.Dir(empty) + " x", []string{"-failed-file", "regular file"}},
		{"-failed-file=/nowhere/at/all x", []string{"-failed-file", "/nowhere/at"}},
		{"x -node=y", []string{"-node", "after the command", "--"}},
		{"-node -- x -node=y", []string{"-node", "after the command"}},
		{"-kill -node a -filter -- x -kill", []string{"-kill", "after the command"}},
		{"x y --list z", []string{"-list", "after the command"}},
		{"- -kill", []string{"-kill", "after the command"}},
		{"-shell=false x -token y", []string{"-token", "after the command"}},
		{"-demo=2 x", []string{`"2"`, "-demo"}},
		{"-demo -http-addr=127.0.0.1:1 x", []string{"-demo", "-http-addr"}},
		{"-http-addr=127.0.0.1:1 -demo x", []string{"-demo", "-http-addr"}},
		{"-demo -token=t x", []string{"-demo", "-token"}},
		{"-demo -token-file=f x", []string{"-demo", "-token-file"}},
		{"-demo -ca-file=f x", []string{"-demo", "-ca-file"}},
		{"-demo -ca-path=f x", []string{"-demo", "-ca-path"}},
		{"-demo -client-cert=f x", []string{"-demo", "-client-cert"}},
		{"-demo -client-key=f x", []string{"-demo", "-client-key"}},
		{"-demo -tls-server-name=n x", []string{"-demo", "-tls-server-name"}},
		{"-demo -datacenter=dc1 x", []string{"-demo", "-datacenter"}},
	} {
		stdout, stderr, status := consulExec(t, "127.0.0.1:1", strings.Fields(test.args)...)
		first, rest, _ := strings.Cut(stderr, "\n\n")
		for _, want := range test.want {
			if !strings.Contains(first, want) {
				t.Errorf("%s: %q lacks %q", test.args, first, want)
			}
		}
		if strings.Contains(stderr, "With") {
			t.Errorf("%s: the error names an option of the library: %s", test.args, stderr)
		}
		if strings.Contains(stderr, "secret") {
			t.Errorf("%s: the error tells a secret: %s", test.args, stderr)
		}
		if status != 1 || stdout != "" || !strings.HasPrefix(rest, usage) {
			t.Errorf("%s: status %d, stdout %q, after the error %q", test.args, status, stdout, rest)
		}
	}
}

// TestHelp looks in -h and in the documentation for every flag.
func TestHelp(t *testing.T) {
	t.Parallel()
	stdout, stderr, status := consulExec(t, "", "-h")
	if status != 0 || stderr != "" || !strings.HasPrefix(stdout, usage) {
		t.Errorf("status %d, stderr %q, stdout %q", status, stderr, stdout)
	}
	documented := documentation(t)
	if _, listed, _ := strings.Cut(stdout, "Examples:"); strings.Count(listed, "\n  consul-exec ") != 3 {
		t.Errorf("-h has not three examples: %s", listed)
	}
	if _, input, _ := strings.Cut(stdout, "\n  -stdin-file "); !strings.Contains(strings.SplitAfterN(input, "\n  -", 2)[0], "380 KiB") {
		t.Error("-h lacks the limit of -stdin-file")
	}
	for _, s := range subjects {
		if !strings.Contains(stdout, "\n\n"+s.title+":\n") {
			t.Errorf("-h lacks the subject %q", s.title)
		}
	}
	for _, name := range []string{
		"http-addr", "token", "token-file", "ca-file", "ca-path", "client-cert", "client-key", "tls-server-name", "datacenter", "stale",
		"node", "service", "tag", "prefix", "shell", "wait", "wait-repl", "verbose",
		"nodes", "nodes-file", "limit", "filter", "healthy-service", "list",
		"shell-path", "env", "env-file", "dir", "stdin-file", "max-output",
		"concurrency", "max-failures", "timeout", "recover", "kill", "format", "lines", "failed-file", "blind-ok", "demo",
	} {
		if !regexp.MustCompile(`(?m)^  -` + name + `( |$)`).MatchString(stdout) {
			t.Errorf("-h lacks -%s:\n%s", name, stdout)
		}
		if !regexp.MustCompile(`//\t.*-` + name + `\b[^-]`).MatchString(documented) {
			t.Errorf("the documentation lacks -%s", name)
		}
	}
}

// documentation returns the comment at the top of main.go.
func documentation(t *testing.T) string {
	t.Helper()
	source, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	comment, _, _ := strings.Cut(string(source), "\npackage main")
	return comment
}

// TestWhatRuns checks the job that a node gets.
func TestWhatRuns(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		stdin, command, script string
		args                   []string
		flags                  []string
	}{
		{flags: []string{"echo", "a", "b  c"}, command: "echo a b  c"},
		{flags: []string{"--", "-x"}, command: "-x"},
		{flags: []string{"--shell=false", "echo", "a", "b  c"}, args: []string{"echo", "a", "b  c"}},
		{flags: []string{"-"}, stdin: "#!/bin/sh\necho \x00\n", script: "#!/bin/sh\necho \x00\n"},
		{flags: []string{"-", "x"}, stdin: "not read", command: "- x"},
		{flags: []string{"df", "-h", "-i"}, command: "df -h -i"},
		{flags: []string{"--", "x", "-node=y"}, command: "x -node=y"},
		{flags: []string{"-kill", "-node", "a", "--lines=false", "-env=A=--", "--", "x", "-node=y"}, command: "x -node=y"},
		{flags: []string{"x", "--", "-node=y"}, command: "x -- -node=y"},
	} {
		jobs := make(chan *exectest.Job, 1)
		srv := newServer(t, exectest.Node("a", exectest.Run(func(_ context.Context, j *exectest.Job) int {
			jobs <- j
			return 0
		})))
		cmd := command(t, srv.URL, append([]string{"-prefix=other/place", "-wait=3s", "-wait-repl=1ms", "-stale", "-datacenter=dc1"}, test.flags...)...)
		cmd.Stdin = strings.NewReader(test.stdin)
		if stdout, stderr, status := finish(t, cmd); status != 0 {
			t.Fatalf("%q: status %d, %s%s", test.flags, status, stdout, stderr)
		}
		j := <-jobs
		if j.Command != test.command || string(j.Script) != test.script || !slices.Equal(j.Args, test.args) {
			t.Errorf("%q: command %q, script %q, args %q", test.flags, j.Command, j.Script, j.Args)
		}
		if j.Prefix != "other/place" || j.Wait != 3*time.Second {
			t.Errorf("prefix %q, wait %v", j.Prefix, j.Wait)
		}
	}
}

func TestWhere(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "nodes")
	if err := os.WriteFile(file, []byte("# all that matter\nb-1\n\n  c  # the third\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run := exectest.Run(exectest.Answer("", 0))
	srv := newServer(t,
		exectest.Node("a-1", run, exectest.WithService("web", "blue"), exectest.WithMeta(map[string]string{"rack": "b"})),
		exectest.Node("b-1", run, exectest.WithService("web", "green")),
		exectest.Node("c", run, exectest.WithService("db", "blue")),
	)
	for _, test := range []struct {
		args []string
		want string
	}{
		{nil, "a-1 b-1 c"},
		{[]string{"-node=1$"}, "a-1 b-1"},
		{[]string{"-service=web"}, "a-1 b-1"},
		{[]string{"-tag=blue", "-service=web"}, "a-1"},
		{[]string{"-nodes=a-1,c"}, "a-1 c"},
		{[]string{"-nodes=a-1", "-nodes", "c"}, "a-1 c"},
		{[]string{"-nodes-file=" + file}, "b-1 c"},
		{[]string{"-nodes= a-1 ", "-nodes-file", file}, "a-1 b-1 c"},
		{[]string{"-nodes=a-1,c", "-node=^a"}, "a-1"},
		{[]string{`-filter=Meta.rack == "b"`}, "a-1"},
		{[]string{"-healthy-service=web"}, "a-1 b-1"},
		{[]string{"-limit=2"}, "a-1 b-1"},
	} {
		stdout, stderr, status := consulExec(t, srv.URL, append(test.args, "true")...)
		var got []string
		for _, match := range regexp.MustCompile(`(?m)^==> (.*): finished`).FindAllStringSubmatch(stdout, -1) {
			got = append(got, match[1])
		}
		slices.Sort(got)
		if status != 0 || strings.Join(got, " ") != test.want {
			t.Errorf("%q: status %d, ran on %q, %s", test.args, status, got, stderr)
		}
	}
}

func TestConcurrency(t *testing.T) {
	t.Parallel()
	for flag, limit := range map[string]int32{"3": 3, "25%": 2} {
		var now, most atomic.Int32
		var options []exectest.Option
		full := make(chan struct{})
		for i := range 8 {
			options = append(options, exectest.Node(fmt.Sprintf("n%d", i), exectest.Run(func(ctx context.Context, _ *exectest.Job) int {
				n := now.Add(1)
				defer now.Add(-1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				if n == limit {
					select {
					case <-full:
					default:
						close(full)
					}
				}
				select { // nobody ends before as many run as the limit allows
				case <-full:
				case <-ctx.Done():
				}
				return 0
			})))
		}
		srv := newServer(t, options...)
		stdout, stderr, status := consulExec(t, srv.URL, "-concurrency="+flag, "true")
		if status != 0 || !strings.Contains(stdout, "8 / 8 node(s)") || most.Load() != limit {
			t.Errorf("-concurrency=%s: status %d, %d at once, %s%s", flag, status, most.Load(), stdout, stderr)
		}
	}
}

func TestVerbose(t *testing.T) {
	t.Parallel()
	beat := make(chan struct{})
	srv := newServer(t, exectest.Node("a", exectest.Run(func(ctx context.Context, j *exectest.Job) int {
		select {
		case <-beat:
		case <-ctx.Done():
		}
		return 0
	})))
	done := make(chan struct{})
	defer func() { <-done }()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { // ends the command when its heartbeat is in the KV store
		defer close(done)
		for ctx.Err() == nil {
			if slices.ContainsFunc(srv.Keys("_rexec"), func(key string) bool { return strings.HasSuffix(key, "/a/out/00000") }) {
				close(beat)
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	stdout, stderr, status := consulExec(t, srv.URL, "-verbose", "-wait=100ms", "true")
	if want := regexp.MustCompile(`^Created remote execution session: [0-9a-f-]{36}
Uploaded remote execution spec
Fired remote execution event: [0-9a-f-]{36}
==> a: acknowledged
(==> a: heartbeat received
)+==> a: finished with exit code 0
1 / 1 node\(s\) completed / acknowledged
Completed in [0-9]+\.[0-9]{2} seconds
$`); status != 0 || stderr != "" || !want.MatchString(stdout) {
		t.Errorf("status %d, stderr %q, stdout\n%s", status, stderr, stdout)
	}
}

func TestGroup(t *testing.T) {
	t.Parallel()
	options := []exectest.Option{answer("db", "oops\n\nno end", 1), exectest.Node("off", exectest.ExecDisabled()), answer("mute", "", 0)}
	for i := range 12 {
		options = append(options, answer(fmt.Sprintf("web-%02d", i+1), "all well\n", 0))
	}
	big := strings.Repeat("x", maxGrouped) + "and so on"
	options = append(options, answer("zoo", big, 0))
	srv := newServer(t, options...)
	stdout, stderr, status := consulExec(t, srv.URL, "-format=group", "true")
	want := `==> web-[01-12] (12): finished with exit code 0
    all well
==> db (1): finished with exit code 1
    oops
    
    no end
==> mute (1): finished with exit code 0
==> off (1): no response: did not take the job, and will not
==> zoo (1): finished with exit code 0
    ` + big[:maxGrouped] + `
    ... and 9 more bytes
15 / 15 node(s) completed / acknowledged
`
	if status != 3 || stderr != "" || stdout != want {
		stdout = strings.ReplaceAll(stdout, big[:maxGrouped], "(1 MiB)")
		t.Errorf("status %d, stderr %q, stdout\n%s", status, stderr, stdout)
	}
}

// TestGroupApart has outputs that differ only after what is kept of them, and
// nodes that did not respond for different reasons.
func TestGroupApart(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", maxGrouped)
	srv := newServer(t,
		answer("a-1", long+"1", 0), answer("a-2", long+"2", 0), answer("a-3", long+"1", 0),
		exectest.Node("b", exectest.Run(dies)), answer("c", "", 3), answer("d", "", 3),
		exectest.Node("x", exectest.Down()),
	)
	stdout, _, status := consulExec(t, srv.URL, "-format=group", "-wait=1s", "-nodes=a-[1-3],b,c,d,x,y,z", "true")
	stdout = regexp.MustCompile(`for [0-9.]+m?s`).ReplaceAllString(strings.ReplaceAll(stdout, long, "long"), "for TIME")
	want := `==> a-[1,3] (2): finished with exit code 0
    long
    ... and 1 more bytes
==> c,d (2): finished with exit code 3
==> y,z (2): no response: the catalog has no such agent
==> a-2 (1): finished with exit code 0
    long
    ... and 1 more bytes
==> b (1): lost: silent for TIME, and serfHealth is critical
==> x (1): no response: is not alive: serfHealth is critical
5 / 6 node(s) completed / acknowledged
`
	if status != 3 || stdout != want {
		t.Errorf("status %d, stdout\n%s", status, stdout)
	}
}

// The objects of -format=json.
type jsonEvent struct {
	Type         string    `json:"type"`
	Time         time.Time `json:"time"`
	Node         string    `json:"node"`
	Output       string    `json:"output"`
	OutputBase64 []byte    `json:"output_base64"`
	ExitCode     *int      `json:"exit_code"`
	Error        string    `json:"error"`
}

type decodedSummary struct {
	jsonSummary
	Nodes []jsonNode `json:"nodes"`
}

type jsonNode struct {
	Node         string     `json:"node"`
	State        string     `json:"state"`
	ExitCode     *int       `json:"exit_code"`
	TimedOut     bool       `json:"timed_out"`
	OutputBytes  int64      `json:"output_bytes"`
	Truncated    bool       `json:"truncated"`
	Recovered    int        `json:"recovered"`
	Acknowledged *time.Time `json:"acknowledged"`
	Exited       *time.Time `json:"exited"`
	Error        string     `json:"error"`
}

// decode parses the output of -format=json. It accepts no field outside the
// schema.
func decode(t *testing.T, stdout string) (events []jsonEvent, summary decodedSummary) {
	t.Helper()
	all := strings.SplitAfter(strings.TrimSuffix(stdout, "\n"), "\n")
	for i, line := range all {
		var into any = &summary
		if i < len(all)-1 {
			events = append(events, jsonEvent{})
			into = &events[i]
		}
		decoder := json.NewDecoder(strings.NewReader(line))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(into); err != nil {
			t.Fatalf("line %d: %v\n%s", i+1, err, line)
		}
	}
	if summary.Type != "summary" {
		t.Fatalf("the last line is not a summary:\n%s", stdout)
	}
	return events, summary
}

func TestJSON(t *testing.T) {
	t.Parallel()
	binary := "\xff\xfe<&>\x00"
	long := strings.Repeat("ä€😀", 3000) + "\n" // agents cut it within a character
	srv := newServer(t,
		answer("a", "hi <&>\n", 0),
		answer("b", binary, 3),
		answer("c", long, 0),
		exectest.Node("d", exectest.Run(func(_ context.Context, j *exectest.Job) int {
			fmt.Fprint(j.Output, "half \xe2\x82") // the last byte of the character is missing
			j.Die()
			return 0
		})),
		answer("e", "ends within \xe2\x82", 0),
		exectest.Node("off", exectest.ExecDisabled()),
	)
	stdout, stderr, status := consulExec(t, srv.URL, "-format=json", "-verbose", "-wait=1s", "true")
	if status != 3 || strings.Contains(stdout, "\x1b") {
		t.Errorf("status %d, stderr %q", status, stderr)
	}
	events, summary := decode(t, stdout)

	output, kinds := make(map[string]string), make(map[string][]string)
	for _, e := range events {
		if e.Time.IsZero() || e.Time.Location() != time.UTC {
			t.Errorf("the %s of %s has the time %v", e.Type, e.Node, e.Time)
		}
		if e.Output != "" && e.OutputBase64 != nil {
			t.Errorf("both fields for output in %v", e)
		}
		if (e.ExitCode != nil) != (e.Type == "exit") || (e.Error != "") != (e.Type == "lost" || e.Type == "no_response" || e.ExitCode != nil && *e.ExitCode != 0) {
			t.Errorf("exit code or error missing or misplaced in %v", e)
		}
		if k := kinds[e.Node]; len(k) > 0 && (k[len(k)-1] == "exit" || k[len(k)-1] == "lost") {
			t.Errorf("%s: %s comes after %s", e.Node, e.Type, k)
		}
		output[e.Node] += e.Output + string(e.OutputBase64)
		if e.Type != "heartbeat" && (e.Type != "output" || !slices.Contains(kinds[e.Node], "output")) {
			kinds[e.Node] = append(kinds[e.Node], e.Type)
		}
		if e.Node == "c" && e.OutputBase64 != nil {
			t.Errorf("a character was cut: %q", e.OutputBase64)
		}
	}
	for node, want := range map[string]string{"a": "hi <&>\n", "b": binary, "c": long, "e": "ends within \xe2\x82"} {
		if output[node] != want {
			t.Errorf("output of %s: %q", node, output[node])
		}
	}
	for node, want := range map[string]string{"": "submit", "a": "ack output exit", "b": "ack output exit", "c": "ack output exit", "e": "ack output exit", "off": "no_response"} {
		if got := strings.Join(kinds[node], " "); got != want {
			t.Errorf("events of %s: %s", node, got)
		}
	}
	if d := kinds["d"]; d[0] != "ack" || d[len(d)-1] != "lost" {
		t.Errorf("events of d: %s", d)
	}
	if !strings.Contains(stdout, `"hi <&>\n"`) {
		t.Error("output is escaped for HTML")
	}

	var states []string
	for _, n := range summary.Nodes {
		states = append(states, n.Node+" "+n.State)
		if exited := n.State == "exited"; (n.ExitCode != nil) != exited || (n.Exited != nil) != (exited || n.State == "lost") || (n.Error == "") != (exited && *n.ExitCode == 0) {
			t.Errorf("%+v", n)
		}
		if (n.Acknowledged == nil) != (n.Node == "off") {
			t.Errorf("%+v", n)
		}
	}
	if got := strings.Join(states, ", "); got != "a exited, b exited, c exited, d lost, e exited, off no_response" {
		t.Error(got)
	}
	if *summary.Nodes[1].ExitCode != 3 || summary.Nodes[2].OutputBytes != int64(len(long)) {
		t.Errorf("%+v", summary.Nodes)
	}
	if summary.Status != 3 || summary.Error != "" || summary.Session == "" || summary.Acknowledged != 5 || summary.Completed != 4 || summary.Seconds <= 0 {
		t.Errorf("%+v", summary)
	}
}

// TestJSONFailed checks the summary of a run that failed, and of one that could
// not find out which nodes to expect.
func TestJSONFailed(t *testing.T) {
	t.Parallel()
	srv := newServer(t, answer("a", "", 0))
	stdout, _, status := consulExec(t, srv.URL, "-format=json", "-datacenter=dc1", "-node=z", "true")
	events, summary := decode(t, stdout)
	if status != 1 || len(events) > 0 || summary.Status != 1 || !strings.Contains(summary.Error, "no matching node") || summary.Datacenter != "dc1" {
		t.Errorf("status %d, %v, %+v", status, events, summary)
	}
	if !strings.Contains(stdout, `"nodes":[]`) {
		t.Errorf("without nodes, the summary lacks an empty array: %s", stdout)
	}
	srv.Fault(exectest.Fault{Match: exectest.Path("GET", "/v1/health/"), Do: exectest.Denied})
	srv.Fault(exectest.Fault{Match: exectest.Path("GET", "/v1/catalog/"), Do: exectest.Denied})
	stdout, stderr, status := consulExec(t, srv.URL, "-format=json", "-wait=100ms", "true")
	if _, summary = decode(t, stdout); status != 3 || !strings.Contains(summary.DiscoveryError, "permission denied") || !strings.Contains(stderr, "nobody knows") {
		t.Errorf("status %d, stderr %q, %+v", status, stderr, summary)
	}
}

// TestSchema compares the fields in the documentation with those of the JSON
// objects, in order.
func TestSchema(t *testing.T) {
	_, schema, _ := strings.Cut(documentation(t), "# JSON")
	var documented []string
	for _, match := range regexp.MustCompile(`(?m)^//\t *([a-z0-9_]+)  `).FindAllStringSubmatch(schema, -1) {
		documented = append(documented, match[1])
	}
	var fields []string
	for _, object := range []any{jsonEvent{}, jsonSummary{}, jsonNode{}} {
		for _, field := range reflect.VisibleFields(reflect.TypeOf(object)) {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			fields = append(fields, name)
		}
	}
	if !slices.Equal(documented, fields) {
		t.Errorf("documented: %q\nprinted: %q", documented, fields)
	}
	for _, word := range []string{"submit", "ack", "output", "heartbeat", "exit", "lost", "no_response", "summary", "exited", "running", "killed", "skipped"} {
		if !regexp.MustCompile(`\b` + word + `\b`).MatchString(schema) {
			t.Errorf("the value %s is not documented", word)
		}
	}
}

// TestHTTP reaches Consul by TLS, with tokens and client certificates from
// flags and from the environment.
func TestHTTP(t *testing.T) {
	t.Parallel()
	srv := newServer(t, answer("a", "", 0))
	var token atomic.Value
	var certified atomic.Bool
	tlsServer := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token.Store(r.Header.Get("X-Consul-Token"))
		certified.Store(len(r.TLS.PeerCertificates) > 0)
		srv.ServeHTTP(w, r)
	}))
	tlsServer.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	tlsServer.Config.ErrorLog = log.New(io.Discard, "", 0)
	tlsServer.StartTLS()
	defer tlsServer.Close()

	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	certificate := write("ca/cert.pem", "CERTIFICATE", tlsServer.Certificate().Raw)
	der, err := x509.MarshalPKCS8PrivateKey(tlsServer.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	key := write("key.pem", "PRIVATE KEY", der)
	tokenFile := filepath.Join(dir, "token")
	if err := os.WriteFile(tokenFile, []byte("from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}

	var failures sync.WaitGroup
	caFile, client := "-ca-file="+certificate, []string{"-client-cert=" + certificate, "-client-key=" + key}
	for _, test := range []struct {
		args      []string
		env       []string
		token     string
		certified bool
		failure   string
	}{
		{args: nil, failure: "certificate"},
		{args: []string{caFile}},
		{args: []string{"-ca-path=" + filepath.Dir(certificate)}},
		{args: []string{caFile, "-tls-server-name=example.com"}},
		{args: []string{caFile, "-tls-server-name=example.org"}, failure: "example.org"},
		{args: append(client, caFile), certified: true},
		{args: []string{caFile, "-token=given"}, token: "given"},
		{args: []string{caFile, "-token=given", "-token-file=" + tokenFile}, token: "from-file"},
		{args: []string{caFile}, env: []string{"CONSUL_HTTP_TOKEN=variable"}, token: "variable"},
		{args: []string{caFile, "-token="}, env: []string{"CONSUL_HTTP_TOKEN=variable"}, token: "variable"},
		{args: []string{caFile, "-token=given"}, env: []string{"CONSUL_HTTP_TOKEN=variable"}, token: "given"},
		{args: []string{caFile}, env: []string{"CONSUL_HTTP_TOKEN_FILE=" + tokenFile}, token: "from-file"},
		{args: []string{caFile, "-token=given"}, env: []string{"CONSUL_HTTP_TOKEN_FILE=" + tokenFile}, token: "given"},
		{args: []string{caFile, "-token-file=/nowhere/at/all"}, failure: "/nowhere/at/all"},
		{args: nil, env: []string{"CONSUL_CACERT=" + certificate}},
	} {
		run := func() (stdout, stderr string, status int) {
			cmd := command(t, "127.0.0.1:1", append(test.args, "-http-addr="+tlsServer.URL, "true")...)
			cmd.Env = append(cmd.Env, test.env...)
			return finish(t, cmd)
		}
		if test.failure != "" {
			failures.Go(func() {
				if stdout, stderr, status := run(); status != 1 || !strings.Contains(stderr, test.failure) {
					t.Errorf("%q: status %d, %s%s", test.args, status, stdout, stderr)
				}
			})
			continue
		}
		token.Store("")
		stdout, stderr, status := run()
		if status != 0 || token.Load() != test.token || certified.Load() != test.certified {
			t.Errorf("%q %q: status %d, token %q, certified %v\n%s%s", test.args, test.env, status, token.Load(), certified.Load(), stdout, stderr)
		}
	}
	failures.Wait()
}

// TestPlain wants no control characters in a pipe, even after the time of
// several redraws.
func TestPlain(t *testing.T) {
	t.Parallel()
	srv := newServer(t, exectest.Node("a", exectest.Run(func(context.Context, *exectest.Job) int {
		time.Sleep(5 * redraw)
		return 4
	})))
	for _, format := range []string{"text", "json", "group"} {
		stdout, stderr, _ := consulExec(t, srv.URL, "-verbose", "-format="+format, "true")
		if strings.ContainsAny(stdout+stderr, "\x1b\r") || stderr != "" {
			t.Errorf("-format=%s: stderr %q, stdout %q", format, stderr, stdout)
		}
	}
}
