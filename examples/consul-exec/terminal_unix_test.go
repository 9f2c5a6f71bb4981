//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/consulexec/consulexec/exectest"
)

// patience is how long a test waits for an expected text or event.
const patience = 30 * time.Second

// A watch keeps what is written to it. A test can wait for a text in it.
type watch struct {
	mu   sync.Mutex // guards the fields below
	text string
	more chan struct{} // closed at the next write
}

func newWatch() *watch { return &watch{more: make(chan struct{})} }

func (w *watch) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text += string(p)
	close(w.more)
	w.more = make(chan struct{})
	return len(p), nil
}

func (w *watch) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text
}

// await waits until the text has a match that begins at or after the offset
// from, and returns the offset at which the match ends.
func (w *watch) await(t *testing.T, from int, pattern string) (end int) {
	t.Helper()
	re := regexp.MustCompile(pattern)
	deadline := time.After(patience)
	for {
		w.mu.Lock()
		text, more := w.text, w.more
		w.mu.Unlock()
		if at := re.FindStringIndex(text[from:]); at != nil {
			return from + at[1]
		}
		select {
		case <-more:
		case <-deadline:
			t.Fatalf("no match for %q in %q", pattern, text[from:])
		}
	}
}

// A session is the program running in a terminal.
type session struct {
	cmd      *exec.Cmd
	terminal *os.File
	text     *watch
	ended    chan struct{} // closed when all output has been read
}

func startInTerminal(t *testing.T, cmd *exec.Cmd, columns uint16) *session {
	t.Helper()
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: columns})
	if err != nil {
		t.Fatal(err)
	}
	s := &session{cmd, terminal, newWatch(), make(chan struct{})}
	go func() {
		defer close(s.ended)
		io.Copy(s.text, terminal) // returns an error when the program ends
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		<-s.ended
		terminal.Close()
	})
	return s
}

// wait waits for the end of the program and returns its exit status.
func (s *session) wait() int {
	s.cmd.Wait()
	<-s.ended
	return s.cmd.ProcessState.ExitCode()
}

var colour = regexp.MustCompile("\x1b\\[[0-9;]*m")

// show renders the text as a terminal does, except that it does not wrap lines.
// It returns the lines visible at the end, and those that were erased.
func show(t *testing.T, text string) (standing string, erased []string) {
	t.Helper()
	var all []string
	line, column := "", 0
	for rest := colour.ReplaceAllString(text, ""); rest != ""; {
		switch {
		case strings.HasPrefix(rest, "\x1b[K"):
			erased = append(erased, line[column:])
			line, rest = line[:column], rest[3:]
			continue
		case rest[0] == '\x1b':
			t.Fatalf("unknown control sequence in %q", rest)
		case rest[0] == '\r':
			column = 0
		case rest[0] == '\n':
			all = append(all, line)
			line, column = "", 0
		default:
			line = line[:column] + rest[:1] + line[min(column+1, len(line)):]
			column++
		}
		rest = rest[1:]
	}
	return strings.Join(append(all, line), "\n"), erased
}

// TestProgress leads a run through every state of a node. After each change it
// waits for the progress line that shows it.
func TestProgress(t *testing.T) {
	t.Parallel()
	for columns, layout := range map[uint16]string{
		120: `done %d  running %d  failed %d  lost %d  total 5  elapsed \d+:\d\d`,
		40:  `done %d run %d fail %d lost %d of 5 \d+:\d\d`,
		20:  `D%d R%d F%d L%d /5 \d+:\d\d`,
	} {
		t.Run(fmt.Sprint(columns), func(t *testing.T) {
			t.Parallel()
			type step struct {
				node   string
				output string
				end    func(*exectest.Job)
			}
			steps := make(map[string]chan step)
			var options []exectest.Option
			for _, name := range []string{"web-1", "web-2", "web-3"} {
				steps[name] = make(chan step)
				options = append(options, exectest.Node(name, exectest.Run(func(ctx context.Context, j *exectest.Job) int {
					for {
						select {
						case s := <-steps[name]:
							io.WriteString(j.Output, s.output)
							if s.end != nil {
								s.end(j)
								return len(s.output)
							}
						case <-ctx.Done():
							return 0
						}
					}
				})))
			}
			options = append(options, exectest.Node("web-4", exectest.ExecDisabled()))
			srv := newServer(t, options...)
			s := startInTerminal(t, command(t, srv.URL, "-nodes=web-1,web-2,web-3,web-4,web-5", "-wait=1s", "true"), columns)

			seen := 0
			progress := func(done, running, failed, lost int) {
				t.Helper()
				seen = s.text.await(t, seen, fmt.Sprintf(layout, done, running, failed, lost))
			}
			say := func(node, output string, end func(*exectest.Job)) {
				t.Helper()
				select {
				case steps[node] <- step{node, output, end}:
				case <-time.After(patience):
					t.Fatalf("%s does not take the next step", node)
				}
			}
			end := func(*exectest.Job) {}
			progress(0, 3, 0, 1) // web-5 does not exist
			say("web-1", "first\n", nil)
			seen = s.text.await(t, seen, "first")
			progress(0, 3, 0, 1) // the output has erased the line; it must come back
			say("web-1", "", end)
			progress(1, 2, 0, 1)
			say("web-2", "bad", end)
			progress(2, 1, 1, 1)
			progress(2, 1, 1, 2) // web-4 does not respond
			say("web-3", "", (*exectest.Job).Die)
			if status := s.wait(); status != 3 {
				t.Errorf("status %d", status)
			}

			standing, erased := show(t, s.text.String())
			want := `    web-1: first
    web-1:
==> web-1: finished with exit code 0
    web-2: bad
==> web-2: finished with exit code 3
==> web-3: lost: silent for TIME, and serfHealth is critical
==> web-4: no response: did not take the job, and will not
==> web-5: no response: the catalog has no such agent
2 / 3 node(s) completed / acknowledged
`
			if standing = regexp.MustCompile(`for [0-9.]+m?s`).ReplaceAllString(standing, "for TIME"); standing != want {
				t.Errorf("the terminal shows at the end\n%s", standing)
			}
			line := regexp.MustCompile("^" + strings.NewReplacer("%d", `\d+`, "total 5", `total \d`, "of 5", `of \d`, "/5", `/\d`).Replace(layout) + "$")
			for _, text := range erased {
				if !line.MatchString(text) || len(text) >= int(columns) {
					t.Errorf("erased: %q", text)
				}
			}
			if len(erased) < 5 {
				t.Errorf("erased: %q", erased)
			}
			for _, code := range []string{"\x1b[32m==> web-1: finished", "\x1b[31m==> web-2: finished", "\x1b[33m==> web-3: lost"} {
				if !strings.Contains(s.text.String(), code) {
					t.Errorf("the output lacks the colour of %q", code)
				}
			}
		})
	}
}

// TestPlainTerminal wants neither colours nor progress with NO_COLOR or
// TERM=dumb, or if only one of the outputs is the terminal.
func TestPlainTerminal(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(cmd *exec.Cmd, elsewhere io.Writer){
		"NO_COLOR":     func(cmd *exec.Cmd, _ io.Writer) { cmd.Env = append(cmd.Env, "NO_COLOR=1") },
		"TERM=dumb":    func(cmd *exec.Cmd, _ io.Writer) { cmd.Env = append(cmd.Env, "TERM=dumb") },
		"stdout piped": func(cmd *exec.Cmd, elsewhere io.Writer) { cmd.Stdout = elsewhere },
		"stderr piped": func(cmd *exec.Cmd, elsewhere io.Writer) { cmd.Stderr = elsewhere },
	} {
		srv := newServer(t, exectest.Node("a", exectest.Run(func(_ context.Context, j *exectest.Job) int {
			io.WriteString(j.Output, "here\n")
			time.Sleep(5 * redraw)
			return 4
		})))
		cmd, elsewhere := command(t, srv.URL, "-node=.", "true"), newWatch()
		set(cmd, elsewhere)
		s := startInTerminal(t, cmd, 80)
		status := s.wait()
		text := strings.ReplaceAll(s.text.String(), "\r\n", "\n") + elsewhere.String()
		want := "    a: here\n    a:\n==> a: finished with exit code 4\n1 / 1 node(s) completed / acknowledged\n"
		if status != 2 || text != want {
			t.Errorf("%s: status %d, %q", name, status, text)
		}
	}
}

// TestCloseScreen checks that close erases the progress line.
func TestCloseScreen(t *testing.T) {
	var stderr strings.Builder
	s := &screen{stderr: &stderr, shown: "done 1", stop: make(chan struct{}), stopped: make(chan struct{})}
	go s.live(false)
	s.close()
	if stderr.String() != "\r\x1b[K" {
		t.Errorf("%q", &stderr)
	}
}

// forever is a node whose command runs until the test ends.
func forever(name string) exectest.Option {
	return exectest.Node(name, exectest.Run(exectest.NeverExit))
}

// TestInterrupt ends a run by each signal and, in a terminal, by Ctrl-C.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP} {
		srv := newServer(t, forever("web-1"), forever("web-2"), answer("db", "", 0))
		cmd, stdout, stderr := command(t, srv.URL, "-verbose", "true"), newWatch(), newWatch()
		cmd.Stdout, cmd.Stderr = stdout, stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		stdout.await(t, 0, "web-1: acknowledged")
		stdout.await(t, 0, "web-2: acknowledged")
		stdout.await(t, 0, "db: finished")
		cmd.Process.Signal(signal)
		cmd.Wait()
		checkLines(t, "stderr", stderr.String(), "ending the run; interrupt again to exit at once\n"+
			"consulexec: context canceled: "+signal.String()+"\n==> web-[1-2]: still running\n")
		if status := cmd.ProcessState.ExitCode(); status != 1 || !strings.Contains(stdout.String(), "\n1 / 3 node(s) completed / acknowledged\n") {
			t.Errorf("status %d, stdout %s", status, stdout)
		}
	}

	srv := newServer(t, forever("web-1"))
	s := startInTerminal(t, command(t, srv.URL, "-format=group", "true"), 80)
	s.text.await(t, 0, "running 1 ")
	s.terminal.Write([]byte{3}) // Ctrl-C
	if status := s.wait(); status != 1 {
		t.Errorf("status %d", status)
	}
	if standing, _ := show(t, s.text.String()); !strings.Contains(standing, "\n==> web-1 (1): still running\n") {
		t.Errorf("the terminal shows at the end\n%s", standing)
	}
}

// TestUnfenced ends a run while Consul is gone, so that nobody knows whether a
// silent node has taken the job. There is no event for such a node.
func TestUnfenced(t *testing.T) {
	t.Parallel()
	srv := exectest.NewServer(exectest.Node("a", exectest.ExecDisabled()))
	defer srv.Close()
	cmd, stdout, stderr := command(t, srv.URL, "-verbose", "true"), newWatch(), newWatch()
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stdout.await(t, 0, "Fired remote execution event")
	srv.Fault(exectest.Fault{Do: exectest.Refuse})
	cmd.Process.Signal(os.Interrupt)
	cmd.Wait()
	if status := cmd.ProcessState.ExitCode(); status != 1 || !strings.Contains(stderr.String(), "\n==> a: lost: ") {
		t.Errorf("status %d, stderr %s", status, stderr)
	}
}

// TestNohup sends SIGHUP during a run to a program that was started with the
// signal ignored.
func TestNohup(t *testing.T) {
	t.Parallel()
	srv := newServer(t, answer("a", "", 0))
	cmd, stdout := command(t, srv.URL, "true"), newWatch()
	cmd.Args = append([]string{"sh", "-c", `trap "" HUP; exec "$0" "$@"`}, cmd.Args...)
	cmd.Path, cmd.Stdout = "/bin/sh", stdout
	started := make(chan struct{})
	srv.Fault(exectest.Fault{Match: exectest.Path("PUT", "/v1/event/fire/"), Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		<-started
		cmd.Process.Signal(syscall.SIGHUP)
		next.ServeHTTP(w, r)
	}})
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	close(started)
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v, %s", err, stdout)
	}
}

// TestBrokenPipe has a command that writes to a pipe which nobody reads. It
// must end by SIGPIPE and say nothing, also if this program was started with
// SIGPIPE ignored.
func TestBrokenPipe(t *testing.T) {
	t.Parallel()
	cmd := command(t, "", "-demo", "-format=group", "yes | head -n1")
	cmd.Args = append([]string{"sh", "-c", `trap "" PIPE; exec "$0" "$@"`}, cmd.Args...)
	cmd.Path = "/bin/sh"
	stdout, stderr, status := finish(t, cmd)
	if want := "==> web-[1-3] (3): finished with exit code 0\n    y\n3 / 3 node(s) completed / acknowledged\n"; status != 0 || stdout != want {
		t.Errorf("status %d, stdout %q, stderr %q", status, stdout, stderr)
	}
}

// TestInterruptTwice makes Consul hang, so that the run can't end cleanly.
func TestInterruptTwice(t *testing.T) {
	t.Parallel()
	srv := exectest.NewServer(forever("a"))
	defer srv.Close()
	s := startInTerminal(t, command(t, srv.URL, "-verbose", "true"), 80)
	s.text.await(t, 0, "a: acknowledged")
	s.text.await(t, 0, "running 1")
	srv.Fault(exectest.Fault{Match: exectest.Path("PUT", "/v1/session/destroy/"), Do: exectest.Hang})
	s.cmd.Process.Signal(os.Interrupt)
	seen := s.text.await(t, 0, "again to exit at once\r\n")
	s.text.await(t, seen, "running 1")
	s.cmd.Process.Signal(os.Interrupt)
	status := s.wait()
	standing, _ := show(t, s.text.String())
	if status != 1 || !strings.HasSuffix(standing, "again to exit at once\n") || len(srv.Sessions()) == 0 {
		t.Errorf("status %d, the terminal shows at the end\n%s", status, standing)
	}
}

// TestStuck does not read the output of the program. The second signal must end
// the program all the same.
func TestStuck(t *testing.T) {
	t.Parallel()
	srv := exectest.NewServer(answer("a", strings.Repeat("x", 1<<20), 0))
	defer srv.Close()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	cmd := command(t, srv.URL, "true")
	cmd.Stdout = writer
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	writer.Close()
	if _, err := reader.Read(make([]byte, 1)); err != nil { // the program has begun to print
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(patience)
	for range 2 { // two signals in quick succession may be delivered as one
		select {
		case <-ended:
		case <-ticker.C:
			cmd.Process.Signal(os.Interrupt)
		}
	}
	select {
	case <-ended:
	case <-deadline:
		cmd.Process.Kill()
		<-ended
		t.Fatal("the program did not end")
	}
	if status := cmd.ProcessState.ExitCode(); status != 1 {
		t.Errorf("status %d", status)
	}
}

// TestReaderGone closes the pipe that the output goes to. That must end the
// run.
func TestReaderGone(t *testing.T) {
	t.Parallel()
	srv := newServer(t, exectest.Node("a", exectest.Run(func(ctx context.Context, j *exectest.Job) int {
		for ctx.Err() == nil {
			io.WriteString(j.Output, strings.Repeat("x", 4096))
		}
		return 0
	})))
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd, stderr := command(t, srv.URL, "true"), newWatch()
	cmd.Stdout, cmd.Stderr = writer, stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	writer.Close()
	reader.Read(make([]byte, 1))
	reader.Close()
	cmd.Wait()
	if status := cmd.ProcessState.ExitCode(); status != 1 || !strings.Contains(stderr.String(), "broken pipe") || !strings.Contains(stderr.String(), "a: still running") {
		t.Errorf("status %d, stderr %q", status, stderr)
	}
}

// TestKill ends real commands, by -kill and by -timeout.
func TestKill(t *testing.T) {
	t.Parallel()
	for _, kill := range []bool{true, false} {
		srv := newServer(t, exectest.Node("a"))
		cmd, stdout, stderr := command(t, srv.URL, "-verbose", fmt.Sprintf("-kill=%v", kill), "echo pid $$; exec sleep 1000"), newWatch(), newWatch()
		cmd.Stdout, cmd.Stderr = stdout, stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		end := stdout.await(t, 0, `    a: pid \d+\n`)
		var pid int
		if _, err := fmt.Sscanf(stdout.String()[strings.Index(stdout.String(), " pid "):end], " pid %d\n", &pid); err != nil {
			t.Fatal(err)
		}
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
		lives := !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
		want := "==> a: still running\n"
		if kill {
			want = "==> a: killed: ended by -kill\n"
		}
		if status := cmd.ProcessState.ExitCode(); lives == kill || status != 1 || !strings.HasSuffix(stderr.String(), want) {
			t.Errorf("-kill=%v: the command lives: %v, status %d, stderr %q", kill, lives, status, stderr)
		}
		if n := strings.Count(stdout.String(), "Created remote execution session"); n != 1 { // -verbose must not show the run that kills the command
			t.Errorf("%d sessions in %s", n, stdout)
		}
	}

	srv := newServer(t, exectest.Node("a"))
	stdout, stderr, status := consulExec(t, srv.URL, "-timeout=1s", "sleep 1000")
	if status != 2 || !strings.HasPrefix(stdout, "==> a: finished with exit code ") {
		t.Errorf("-timeout: status %d, %s%s", status, stdout, stderr)
	}
}

// TestForged has a node that prints control characters. On a terminal they do
// nothing; in a pipe they are as they were.
func TestForged(t *testing.T) {
	t.Parallel()
	const forged = "x\r==> b: finished with exit code 0\x1b[K\x1b]0;title\x07\u009b2J\u202e\tend\n"
	const seen = `x\r==> b: finished with exit code 0\x1b[K\x1b]0;title\x07\u009b2J\u202e` + "\tend"
	srv := newServer(t, answer("a", forged, 0))
	for format, want := range map[string]string{
		"text":  "    a: " + seen + "\n    a:\n==> a: finished",
		"group": "==> a (1): finished with exit code 0\n    " + seen + "\n",
		"json":  `"output":"` + strings.NewReplacer(`\x1b`, `\u001b`, `\x07`, `\u0007`, "\t", `\t`).Replace(seen) + `\n"`,
	} {
		s := startInTerminal(t, command(t, srv.URL, "-node=.", "-format="+format, "true"), 80)
		s.wait()
		if standing, _ := show(t, s.text.String()); !strings.Contains(standing, want) {
			t.Errorf("-format=%s: %q, want %q", format, standing, want)
		}
	}
	stdout, _, _ := consulExec(t, srv.URL, "true")
	if !strings.Contains(stdout, "    a: "+forged) {
		t.Errorf("in a pipe: %q", stdout)
	}
	srv.Fault(exectest.Fault{Match: exectest.Path("PUT", "/v1/session/create"), Do: exectest.Respond(http.StatusForbidden, "\x1b[2Jno")})
	s := startInTerminal(t, command(t, srv.URL, "true"), 80)
	if s.wait(); !strings.Contains(s.text.String(), `\x1b[2Jno`) {
		t.Errorf("an error of Consul: %q", s.text)
	}
}

// TestEverywhere wants the number of nodes on a terminal, unless nodes were
// selected.
func TestEverywhere(t *testing.T) {
	t.Parallel()
	srv := newServer(t, answer("a", "", 0), answer("b", "", 0))
	for selection, want := range map[string]string{
		"-wait=1s":     "no selection: running on every node (2)\n",
		"-node=.":      "",
		"-nodes=a":     "",
		"-limit=1":     "",
		"-format=json": "no selection: running on every node (2)\n",
	} {
		s := startInTerminal(t, command(t, srv.URL, selection, "true"), 80)
		s.wait()
		if standing, _ := show(t, s.text.String()); strings.Contains(standing, "selection") != (want != "") || !strings.HasPrefix(standing, want) {
			t.Errorf("%s: %q", selection, standing)
		}
	}
	denyCatalog(srv)
	s := startInTerminal(t, command(t, srv.URL, "-wait=1s", "true"), 80)
	s.wait()
	if standing, _ := show(t, s.text.String()); !strings.HasPrefix(standing, "no selection: running on every node; the token may not see how many\n") {
		t.Errorf("%q", standing)
	}
}
