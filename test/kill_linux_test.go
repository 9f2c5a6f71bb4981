package test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
	"github.com/consulexec/consulexec/internal/devcluster"
	"github.com/consulexec/consulexec/internal/runtest"
)

// The tests in this file look for processes, on exectest and on real agents.

var lastSleeper atomic.Int64

// A sleeper is a command with sleeping processes. They are known by how long
// they sleep, which differs between sleepers.
type sleeper struct {
	t       *testing.T
	seconds string
	command string
	each    int // how many processes sleep on each node
}

// newSleeper returns a sleeper with three processes.
func newSleeper(t *testing.T) sleeper {
	return newSleeperOf(t, "sleep N & sleep N | cat & echo $0; sleep N; :", 3)
}

// newSleeperOf returns a sleeper with that many processes, each "sleep N" in the
// command. What is left of them is killed when the test ends.
func newSleeperOf(t *testing.T, command string, each int) sleeper {
	n := fmt.Sprintf("4321%06d", os.Getpid()*1000%1000000+int(lastSleeper.Add(1)))
	s := sleeper{t, n, strings.ReplaceAll(command, "sleep N", "sleep "+n), each}
	t.Cleanup(func() {
		for _, pid := range s.processes() {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				t.Error(err)
			}
		}
	})
	return s
}

// forms are the ways to run a command.
var forms = []string{"command", "script", "args"}

// form returns the sleeper in one of the forms: a command and options for New.
func (s sleeper) form(name string) (command string, options []consulexec.Option) {
	switch name {
	case "script":
		return "", []consulexec.Option{consulexec.WithScript([]byte("#!/bin/sh\n" + s.command + "\n"))}
	case "args":
		return "", []consulexec.Option{consulexec.WithArgs("/bin/sh", "-c", s.command)}
	}
	return s.command, nil
}

// processes returns the IDs of the sleeping processes.
func (s sleeper) processes() (pids []int) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		if args, _ := os.ReadFile(file); string(args) == "sleep\x00"+s.seconds+"\x00" {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if err != nil {
				s.t.Error(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// running returns how many of the processes run.
func (s sleeper) running() int { return len(s.processes()) }

// await waits until that many processes run.
func (s sleeper) await(want int) {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); s.running() != want; pause(s.t.Context(), 50*time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Errorf("%d processes run after a minute, want %d", s.running(), want)
			return
		}
	}
}

// A file of an agent, in its temporary directory, has the script and what else
// the runner needs.
const agentFile = "rexec*"

// checkFiles checks the files of a script that has ended. The script has printed
// its name. It was in the guard, the directory that the runner makes for a run,
// which goes within a minute. The agent's own file goes at once, but an agent may
// take a moment for that.
func checkFiles(t *testing.T, id string, result *consulexec.Result) {
	t.Helper()
	guard := regexp.MustCompile("^(/.+)/consulexec-" + regexp.QuoteMeta(id) + `-[0-9]+(-[1-9])?/script\n$`)
	for _, n := range result.Nodes {
		name := guard.FindSubmatch(n.Output)
		if name == nil {
			t.Errorf("the script of %s is %q", n.Node, n.Output)
			continue
		}
		for deadline := time.Now().Add(20 * time.Second); ; pause(t.Context(), 10*time.Millisecond) {
			left := filesOf(id, string(name[1]))
			if len(left) == 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Errorf("%s has left %q", n.Node, left)
				break
			}
		}
	}
}

// filesOf returns the files of agents in a temporary directory that have the
// script of a run.
func filesOf(id, tmp string) (left []string) {
	files, _ := filepath.Glob(filepath.Join(tmp, agentFile))
	for _, file := range files {
		if text, _ := os.ReadFile(file); strings.HasPrefix(string(text), "consulexec-"+id+"\n") {
			left = append(left, file)
		}
	}
	return left
}

// cancelled runs a form of the sleeper. It cancels the run once the sleeper
// runs on that many nodes.
func (s sleeper) cancelled(client *api.Client, nodes int, form string, options ...consulexec.Option) (id string, result *consulexec.Result, err error) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	defer cancel()
	rec := runtest.NewRecorder(s.t, client)
	waiting := make(chan struct{})
	outputs := 0
	rec.Hook = func(call string) {
		if strings.HasPrefix(call, "output ") {
			if outputs++; outputs == nodes {
				go func() {
					defer close(waiting)
					s.await(s.each * nodes)
					cancel()
				}()
			}
		}
	}
	command, as := s.form(form)
	e := rec.New(command, append(as, options...)...)
	result, err = e.Run(ctx)
	rec.Check(e, result, err)
	if !errors.Is(err, context.Canceled) {
		s.t.Fatalf("error %v, states %s", err, runtest.States(result))
	}
	<-waiting
	return e.ID(), result, err
}

// TestEndOnNodes ends commands on their nodes, when the context ends and at
// their timeout.
func TestEndOnNodes(t *testing.T) {
	t.Parallel()
	t.Run("exectest", func(t *testing.T) {
		if testing.Short() {
			t.Skip("waits for hundreds of processes, which -short leaves out")
		}
		t.Parallel()
		srv := exectest.NewServer(exectest.Node("server-1"), exectest.Node("client-1"), exectest.Node("client-2"))
		t.Cleanup(srv.Close)
		endOnNodes(t, srv.Client(), srv.Kill)
	})
	t.Run("consul", func(t *testing.T) {
		needsConsul(t)
		tmp := t.TempDir()
		nodes := devcluster.Nodes(1, 2)
		for i := range nodes {
			nodes[i].Env = []string{"TMPDIR=" + tmp}
		}
		cluster := devcluster.Start(t, devcluster.Config{Nodes: nodes})
		endOnNodes(t, cluster.Client("server-1"), func(name string) {
			if err := cluster.Kill(name); err != nil {
				t.Error(err)
			}
		})
		checkSwept(t, cluster, 0, tmp)
	})
}

// checkSwept checks that nothing is left of what the agents started, and no file
// in their temporary directories. It waits for the sweepers: for up to a minute
// after a command's end, one keeps its guard and then removes it.
func checkSwept(t *testing.T, cluster *devcluster.Cluster, keep time.Duration, tmps ...string) {
	t.Helper()
	for deadline := time.Now().Add(keep + 70*time.Second); ; pause(t.Context(), 50*time.Millisecond) {
		left := leftovers(t, cluster, tmps)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("left:\n%s", strings.Join(left, "\n"))
			return
		}
	}
}

// leftovers returns the processes that the agents started and that still run, and
// the files in their temporary directories.
func leftovers(t *testing.T, cluster *devcluster.Cluster, tmps []string) (left []string) {
	t.Helper()
	processes, err := cluster.Processes()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		if !p.Agent {
			left = append(left, fmt.Sprintf("process %d of %s: %.200q", p.PID, p.Node, p.Args))
		}
	}
	for _, tmp := range tmps {
		files, err := os.ReadDir(tmp)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			left = append(left, filepath.Join(tmp, file.Name()))
		}
	}
	return left
}

// endOnNodes runs the tests of TestEndOnNodes on server-1, client-1 and
// client-2. The last one kills an agent.
func endOnNodes(t *testing.T, client *api.Client, kill func(node string)) {
	t.Run("agents live", func(t *testing.T) { endOnLiveNodes(t, client) })
	t.Run("an agent is dead", func(t *testing.T) { endOnDeadNode(t, client, kill) })
}

// endOnLiveNodes runs tests that leave the agents alone, in parallel.
func endOnLiveNodes(t *testing.T, client *api.Client) {
	const nodes = 3
	parallel := func(name string, test func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
	// The longest tests come first.
	parallel("the client is gone", func(t *testing.T) {
		s := newSleeper(t)
		s.cancelled(client, nodes, "command", consulexec.WithTimeout(10*time.Second))
		if n := s.running(); n != 3*nodes {
			t.Errorf("%d processes run before the timeout", n)
		}
		s.await(0)
	})
	parallel("takes no TERM", func(t *testing.T) {
		s := newSleeper(t)
		s.command = "trap '' TERM; " + s.command
		s.cancelled(client, nodes, "command", consulexec.WithKillOnCancel())
		if n := s.running(); n > 0 {
			t.Errorf("%d processes are left", n)
		}
	})
	for _, form := range forms {
		parallel("cancelled/"+form, func(t *testing.T) {
			s := newSleeper(t)
			id, result, err := s.cancelled(client, nodes, form, consulexec.WithKillOnCancel())
			if n := s.running(); n > 0 {
				t.Errorf("%d processes are left", n)
			}
			if nodeError := new(consulexec.NodeError); errors.As(err, &nodeError) {
				t.Error(err)
			}
			if got, want := runtest.States(result), "client-1: killed, client-2: killed, server-1: killed"; got != want {
				t.Errorf("states %s, want %s", got, want)
			}
			if form == "script" {
				checkFiles(t, id, result)
			}
		})
		parallel("timed out/"+form, func(t *testing.T) {
			s := newSleeper(t)
			command, options := s.form(form)
			start := time.Now()
			rec := runtest.NewRecorder(t, client)
			e := rec.New(command, append(options, consulexec.WithTimeout(1500*time.Millisecond))...)
			result, err := e.Run(t.Context())
			rec.Check(e, result, err)
			checkTimedOut(t, result, err)
			if took := time.Since(start); took < 2*time.Second {
				t.Errorf("took %v, want at least 2s", took)
			}
			if n := s.running(); n > 0 {
				t.Errorf("%d processes are left", n)
			}
			if form == "script" {
				checkFiles(t, e.ID(), result)
			}
		})
		parallel("without the options/"+form, func(t *testing.T) {
			s := newSleeper(t)
			_, result, _ := s.cancelled(client, nodes, form)
			if n := s.running(); n != 3*nodes {
				t.Errorf("%d processes are left, want all %d", n, 3*nodes)
			}
			if got, want := runtest.States(result), "client-1: running, client-2: running, server-1: running"; got != want {
				t.Errorf("states %s, want %s", got, want)
			}
		})
	}
	parallel("in time", func(t *testing.T) {
		_, result, err := runtest.Execute(t, client, "echo a; echo b >&2; exit 3", consulexec.WithTimeout(time.Hour), consulexec.WithKillOnCancel())
		if got, want := runtest.States(result), "client-1: exit 3, client-2: exit 3, server-1: exit 3"; err != nil || got != want {
			t.Errorf("error %v, states %s", err, got)
		}
		for _, n := range result.Nodes {
			if string(n.Output) != "a\nb\n" {
				t.Errorf("%s: output %q", n.Node, n.Output)
			}
		}
	})
	for _, status := range []string{"0", "7"} {
		parallel("exits itself with "+status, func(t *testing.T) {
			command := "exec 2>/dev/null; trap 'echo bye; exit " + status + "' TERM; while :; do sleep 0.1; done"
			_, result, err := runtest.Execute(t, client, command, consulexec.WithTimeout(time.Second))
			checkTimedOut(t, result, err)
			for _, n := range result.Nodes {
				if string(n.Output) != "bye\n" {
					t.Errorf("%s: output %q", n.Node, n.Output)
				}
			}
		})
	}
	parallel("nobody is expected", func(t *testing.T) {
		s := newSleeper(t)
		_, _, err := s.cancelled(client, nodes, "command", consulexec.WithKillOnCancel(), consulexec.WithoutDiscovery())
		if n := s.running(); n > 0 {
			t.Errorf("%d processes are left: %v", n, err)
		}
	})
	parallel("some at a time", func(t *testing.T) {
		s := newSleeper(t)
		s.cancelled(client, 2, "command", consulexec.WithKillOnCancel(), consulexec.WithConcurrency(2))
		if n := s.running(); n > 0 {
			t.Errorf("%d processes are left", n)
		}
	})
	parallel("two at once", func(t *testing.T) {
		s, other := newSleeper(t), newSleeper(t)
		e, err := consulexec.New(other.command, consulexec.WithClient(client), consulexec.WithKillOnCancel())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if err := e.Start(ctx); err != nil {
			t.Fatal(err)
		}
		other.await(3 * nodes)
		s.cancelled(client, nodes, "command", consulexec.WithKillOnCancel())
		if a, b := s.running(), other.running(); a > 0 || b != 3*nodes {
			t.Errorf("%d processes are left, and %d of the other run", a, b)
		}
		cancel()
		if _, err := e.Wait(); !errors.Is(err, context.Canceled) || other.running() > 0 {
			t.Errorf("%d processes are left: %v", other.running(), err)
		}
	})
}

// checkTimedOut checks that the timeout ended the command on three nodes.
func checkTimedOut(t *testing.T, result *consulexec.Result, err error) {
	t.Helper()
	if got, want := runtest.States(result), "client-1: exit 124, client-2: exit 124, server-1: exit 124"; err != nil || got != want {
		t.Errorf("error %v, states %s, want %s", err, got, want)
	}
	for _, n := range result.Nodes {
		if !n.TimedOut {
			t.Errorf("%s did not time out: %v", n.Node, n.Err)
		}
	}
}

// endOnDeadNode kills the agent of client-2 before it cancels the run. Only the
// command on client-2 cannot be ended.
func endOnDeadNode(t *testing.T, client *api.Client, kill func(node string)) {
	const nodes = 3
	s := newSleeper(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	acks := make(chan string, nodes)
	e, err := consulexec.New(s.command, consulexec.WithClient(client), consulexec.WithKillOnCancel(),
		consulexec.OnAck(func(node string) { acks <- node }))
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(ctx); err != nil {
		t.Fatal(err)
	}
	for range nodes {
		select {
		case <-acks:
		case <-time.After(time.Minute):
			t.Fatal("a node did not acknowledge within a minute")
		}
	}
	s.await(3 * nodes)
	kill("client-2")
	cancel()
	start := time.Now()
	_, err = e.Wait()
	var nodeError *consulexec.NodeError
	if !errors.Is(err, context.Canceled) || !errors.As(err, &nodeError) || nodeError.Node != "client-2" || strings.Contains(err.Error(), "client-1") || strings.Contains(err.Error(), "server-1") {
		t.Errorf("error %v, want one of client-2 only", err)
	}
	if took := time.Since(start); took > 25*time.Second {
		t.Errorf("the run ends %v after the context, want at most 25s", took)
	}
	t.Log(err)
}
