package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec/exectest"
)

// build builds the program, as `go run` does, and returns its path.
func build(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "uptime")
	if runtime.GOOS == "windows" {
		program += ".exe"
	}
	if output, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	return program
}

// runProgram runs the program with CONSUL_HTTP_ADDR set to address.
func runProgram(t *testing.T, program, address string, args ...string) (output string, err error) {
	t.Helper()
	command, out := startProgram(t, address, program, args...)
	err = command.Wait()
	return out.String(), err
}

// startProgram starts a command with CONSUL_HTTP_ADDR set to address.
func startProgram(t *testing.T, address, name string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	command := exec.CommandContext(t.Context(), name, args...)
	command.Env = append(os.Environ(), "CONSUL_HTTP_ADDR="+address)
	output := new(bytes.Buffer)
	command.Stdout, command.Stderr = output, output
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	return command, output
}

// checkOutput checks that each node has all its events in the output, in order.
func checkOutput(t *testing.T, output string, nodes ...string) {
	t.Helper()
	if embedded := strings.Contains(output, "three embedded nodes"); embedded != slices.Contains(nodes, "web-1") {
		t.Errorf("ran on embedded nodes: %v, want %v\n%s", embedded, !embedded, output)
	}
	for _, node := range nodes {
		rest := output
		for _, want := range []string{"submitted\n", node + ": ack\n", node + ": output: ", "load average", node + ": exit 0\n", "done\n"} {
			_, after, found := strings.Cut(rest, want)
			if !found {
				t.Fatalf("%q is missing or out of order in:\n%s", want, output)
			}
			rest = after
		}
	}
}

func TestEmbedded(t *testing.T) {
	t.Setenv(api.HTTPAddrEnvName, "")
	output, err := runProgram(t, build(t), "")
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	if listens(api.DefaultConfig().Address) { // this machine has an agent: the program ran there
		checkOutput(t, output)
	} else {
		checkOutput(t, output, "web-1", "web-2", "web-3")
	}
}

// TestListens has an agent that accepts connections and never answers, and one
// that has gone. Only without an agent may the program run on this machine.
func TestListens(t *testing.T) {
	agent, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	if !listens(agent.Addr().String()) {
		t.Error("an agent that is slow counts as none")
	}
	agent.Close()
	if listens(agent.Addr().String()) {
		t.Error("no agent counts as one")
	}
}

func TestAddress(t *testing.T) {
	srv := exectest.NewServer(exectest.Node("a"), exectest.Node("b"))
	defer srv.Close()
	program := build(t)
	output, err := runProgram(t, program, srv.URL)
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	checkOutput(t, output, "a", "b")

	srv.Close()
	output, err = runProgram(t, program, srv.URL)
	if err == nil || !strings.Contains(output, strings.TrimPrefix(srv.URL, "http://")) {
		t.Errorf("without Consul: error %v, output %s", err, output)
	}
}

func TestCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: starts a real Consul")
	}
	output, err := runProgram(t, build(t), "", "-cluster")
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	checkOutput(t, output, "server-1", "client-1", "client-2")
}

// TestArgument gives the program a command, which it does not take.
func TestArgument(t *testing.T) {
	srv := exectest.NewServer(exectest.Node("a"))
	defer srv.Close()
	output, err := runProgram(t, build(t), srv.URL, "web-1")
	if err == nil || !strings.Contains(output, `unexpected argument "web-1"`) || srv.Executions("a") > 0 {
		t.Errorf("error %v, %d executions, output %s", err, srv.Executions("a"), output)
	}
}

// TestInterrupt ends the program during a run, by Ctrl-C, SIGTERM or SIGHUP.
func TestInterrupt(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("os.Process.Signal can't send Ctrl-C on Windows")
	}
	program := build(t)
	for _, signal := range endSignals() {
		t.Run(signal.String(), func(t *testing.T) { interrupt(t, program, signal) })
	}
}

func interrupt(t *testing.T, program string, signal os.Signal) {
	acked := make(chan struct{})
	srv := exectest.NewServer(exectest.Node("a", exectest.Run(func(ctx context.Context, j *exectest.Job) int {
		close(acked)
		<-ctx.Done()
		return 0
	})))
	defer srv.Close()
	command, output := startProgram(t, srv.URL, program)
	<-acked
	if err := command.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	var exit *exec.ExitError
	if err := command.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 || strings.Contains(output.String(), "done") {
		t.Errorf("error %v, output %s", err, output)
	}
	if took := time.Since(began); took > 6*time.Second {
		t.Errorf("the program ended %v after the signal, want at most 6s", took)
	}
	if keys, sessions := srv.Keys(""), srv.Sessions(); len(keys)+len(sessions) > 0 {
		t.Errorf("left behind: %v %v", keys, sessions)
	}
}

// TestNohup sends SIGHUP to a program that was started to ignore it.
func TestNohup(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there is no SIGHUP on Windows")
	}
	acked, goOn := make(chan struct{}), make(chan struct{})
	srv := exectest.NewServer(exectest.Node("a", exectest.Run(func(context.Context, *exectest.Job) int {
		close(acked)
		<-goOn
		return 0
	})))
	defer srv.Close()
	command, output := startProgram(t, srv.URL, "sh", "-c", `trap "" HUP; exec "$0"`, build(t))
	<-acked
	if err := command.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	close(goOn)
	if err := command.Wait(); err != nil || !strings.HasSuffix(output.String(), "a: exit 0\ndone\n") {
		t.Errorf("error %v, output %s", err, output)
	}
}

// TestPrintable has a node whose output would rewrite a terminal.
func TestPrintable(t *testing.T) {
	srv := exectest.NewServer(exectest.Node("a", exectest.Run(exectest.Answer("1\tü\r\x1b[2J\x07\nb: exit 0\n\xff", 0))))
	defer srv.Close()
	var out strings.Builder
	if err := uptime(t.Context(), srv.Client(), &out); err != nil {
		t.Error(err)
	}
	want := "submitted\na: ack\na: output: 1\tü\\r\\x1b[2J\\a\na: output: b: exit 0\na: output: \uFFFD\na: exit 0\ndone\n"
	if out.String() != want {
		t.Errorf("got\n%q, want\n%q", out.String(), want)
	}
}

// TestReaderGone closes the pipe that the output goes to, as `| head` does. That
// must end the run.
func TestReaderGone(t *testing.T) {
	gone := make(chan struct{})
	srv := exectest.NewServer(exectest.Node("a", exectest.Run(func(ctx context.Context, j *exectest.Job) int {
		<-gone
		io.WriteString(j.Output, "nobody reads this\n")
		<-ctx.Done()
		return 0
	})))
	defer srv.Close()
	command := exec.CommandContext(t.Context(), build(t))
	command.Env = append(os.Environ(), "CONSUL_HTTP_ADDR="+srv.URL)
	var stderr strings.Builder
	command.Stderr = &stderr
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(stdout); lines.Scan() && lines.Text() != "a: ack"; {
	}
	stdout.Close()
	close(gone)
	if err := command.Wait(); err == nil || command.ProcessState.ExitCode() != 1 || !strings.Contains(stderr.String(), "pipe") {
		t.Errorf("error %v, stderr %s", err, &stderr)
	}
	if keys, sessions := srv.Keys(""), srv.Sessions(); len(keys)+len(sessions) > 0 {
		t.Errorf("left behind: %v %v", keys, sessions)
	}
}

// TestLastWrite has an output that can't take the last line.
func TestLastWrite(t *testing.T) {
	srv := exectest.NewServer(exectest.Node("a", exectest.Run(exectest.Answer("", 0))))
	defer srv.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	full := errors.New("disk full")
	err := uptime(ctx, srv.Client(), writer(func(p []byte) (int, error) {
		if string(p) == "done\n" {
			cancel(full)
			return 0, full
		}
		return len(p), nil
	}))
	if !errors.Is(err, full) {
		t.Errorf("error %v", err)
	}
}

type writer func(p []byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// TestNoLeader has an agent that knows no leader at first. The program must say
// what it waits for.
func TestNoLeader(t *testing.T) {
	srv := exectest.NewServer(exectest.Node("a"))
	defer srv.Close()
	srv.Fault(exectest.Fault{Match: exectest.Path("PUT", "/v1/session/create"), Times: 1, Do: exectest.Respond(http.StatusInternalServerError, "No cluster leader")})
	output, err := runProgram(t, build(t), srv.URL)
	waits := strings.Index(output, "Consul fails, trying again")
	if err != nil || waits < 0 || waits > strings.Index(output, "submitted") || !strings.Contains(output, "No cluster leader") {
		t.Errorf("error %v, output %s", err, output)
	}
	checkOutput(t, output, "a")
}
