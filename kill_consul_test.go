//go:build linux

package consulexec_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
	"github.com/consulexec/consulexec/internal/devcluster"
)

// The tests in this file look for processes, on exectest and on real agents.

var lastSleeper atomic.Int64

// A sleeper is a command that sleeps, and so do two children of it; as no other
// sleeps for just that long, it is known by that.
type sleeper struct {
	t       *testing.T
	seconds string
	command string
}

func newSleeper(t *testing.T) sleeper {
	n := fmt.Sprintf("4321%06d", os.Getpid()*1000%1000000+int(lastSleeper.Add(1)))
	return sleeper{t, n, fmt.Sprintf("sleep %s & sleep %[1]s | cat & echo $0; sleep %[1]s; :", n)}
}

// options returns the sleeper in three forms, each with the command for New.
func (s sleeper) forms() map[string][]consulexec.Option {
	return map[string][]consulexec.Option{
		"command": nil,
		"script":  {consulexec.WithScript([]byte("#!/bin/sh\n" + s.command + "\n"))},
		"args":    {consulexec.WithArgs("/bin/sh", "-c", s.command)},
	}
}

// running returns how many of its processes there are.
func (s sleeper) running() (count int) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		if args, _ := os.ReadFile(file); string(args) == "sleep\x00"+s.seconds+"\x00" {
			count++
		}
	}
	return count
}

// await waits until that many processes run.
func (s sleeper) await(want int) {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); s.running() != want; pause(s.t.Context(), 5*time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("%d processes, want %d", s.running(), want)
		}
	}
}

// checkFiles sees to it that a script's files are gone; the script has printed its
// name. An agent may take a moment to remove its own.
func checkFiles(t *testing.T, result *consulexec.Result) {
	t.Helper()
	for _, n := range result.Nodes {
		script := strings.TrimSpace(string(n.Output))
		own, dir := strings.CutSuffix(script, ".d/script")
		if !dir {
			t.Errorf("the script of %s is %q", n.Node, script)
			continue
		}
		if _, err := os.Stat(own + ".d"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", own+".d", err)
		}
		for deadline := time.Now().Add(time.Minute); ; pause(t.Context(), 10*time.Millisecond) {
			if _, err := os.Stat(own); errors.Is(err, os.ErrNotExist) {
				break
			}
			if time.Now().After(deadline) {
				t.Errorf("%s is left", own)
				break
			}
		}
	}
}

// cancelled runs a sleeper on nodes, and ends the context when it runs on all.
func (s sleeper) cancelled(client *api.Client, nodes int, options ...consulexec.Option) (*consulexec.Result, error) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	defer cancel()
	rec := new(recorder)
	waiting := make(chan struct{})
	outputs := 0
	rec.hook = func(call string) {
		if strings.HasPrefix(call, "output ") {
			if outputs++; outputs == nodes {
				go func() {
					defer close(waiting)
					s.await(3 * nodes)
					cancel()
				}()
			}
		}
	}
	command := s.command
	for _, form := range options[:1] { // nil, or a script or args
		if form != nil {
			command = ""
		}
	}
	if options[0] == nil {
		options = options[1:]
	}
	_, result, err := executeContext(ctx, s.t, client, rec, command, options...)
	if !errors.Is(err, context.Canceled) {
		s.t.Fatalf("error %v, states %s", err, states(result))
	}
	<-waiting
	return result, err
}

// form returns what cancelled takes.
func form(options []consulexec.Option, more ...consulexec.Option) []consulexec.Option {
	if options == nil {
		options = []consulexec.Option{nil}
	}
	return append(options[:len(options):len(options)], more...)
}

// TestEndOnNodes ends commands on their nodes, when the context ends and when their
// time is up.
func TestEndOnNodes(t *testing.T) {
	t.Run("exectest", func(t *testing.T) {
		t.Parallel()
		srv := exectest.NewServer(exectest.Node("server-1"), exectest.Node("client-1"), exectest.Node("client-2"))
		t.Cleanup(srv.Close)
		endOnNodes(t, srv.Client(), srv.Kill)
	})
	if testing.Short() {
		return
	}
	t.Run("consul", func(t *testing.T) {
		t.Parallel()
		cluster := devcluster.Start(t, devcluster.Config{Nodes: devcluster.Nodes(1, 2)})
		endOnNodes(t, cluster.Client("server-1"), func(name string) {
			if err := cluster.Kill(name); err != nil {
				t.Error(err)
			}
		})
		processes, err := cluster.Processes()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range processes {
			args := strings.Join(p.Args, " ")
			for _, ours := range []string{"consulexec-", "cx_", "told=", "kill -TERM", "sleep 3600"} {
				if !p.Agent && strings.Contains(args, ours) {
					t.Errorf("left on %s: %.200q", p.Node, args)
				}
			}
		}
	})
}

func endOnNodes(t *testing.T, client *api.Client, kill func(node string)) {
	const nodes = 3
	all := newSleeper(t).forms()
	for name := range all {
		t.Run("cancelled/"+name, func(t *testing.T) {
			s := newSleeper(t)
			result, err := s.cancelled(client, nodes, form(s.forms()[name], consulexec.WithKillOnCancel())...)
			if n := s.running(); n > 0 {
				t.Errorf("%d processes left", n)
			}
			if nodeError := new(consulexec.NodeError); errors.As(err, &nodeError) {
				t.Error(err)
			}
			if got, want := states(result), "client-1: killed, client-2: killed, server-1: killed"; got != want {
				t.Errorf("states %s", got)
			}
			if name == "script" {
				checkFiles(t, result)
			}
		})
		t.Run("timed out/"+name, func(t *testing.T) {
			s := newSleeper(t)
			command := ""
			if name == "command" {
				command = s.command
			}
			options := append(s.forms()[name], consulexec.WithTimeout(1500*time.Millisecond))
			start := time.Now()
			_, result, err := execute(t, client, command, options...)
			if got, want := states(result), "client-1: exit 143, client-2: exit 143, server-1: exit 143"; err != nil || got != want {
				t.Errorf("error %v, states %s", err, got)
			}
			if took := time.Since(start); took < 1500*time.Millisecond {
				t.Errorf("took only %v", took)
			}
			s.await(0)
			if name == "script" {
				checkFiles(t, result)
			}
		})
		t.Run("without the options/"+name, func(t *testing.T) {
			s := newSleeper(t)
			result, _ := s.cancelled(client, nodes, form(s.forms()[name])...)
			if n := s.running(); n != 3*nodes {
				t.Errorf("%d processes left", n)
			}
			if got, want := states(result), "client-1: running, client-2: running, server-1: running"; got != want {
				t.Errorf("states %s", got)
			}
		})
	}
	t.Run("in time", func(t *testing.T) {
		_, result, err := execute(t, client, "echo a; echo b >&2; exit 3", consulexec.WithTimeout(time.Hour), consulexec.WithKillOnCancel())
		if got, want := states(result), "client-1: exit 3, client-2: exit 3, server-1: exit 3"; err != nil || got != want {
			t.Errorf("error %v, states %s", err, got)
		}
		for _, n := range result.Nodes {
			if string(n.Output) != "a\nb\n" {
				t.Errorf("%s: output %q", n.Node, n.Output)
			}
		}
	})
	t.Run("own status", func(t *testing.T) {
		_, result, err := execute(t, client, "exec 2>/dev/null; trap 'echo bye; exit 7' TERM; while :; do sleep 0.1; done", consulexec.WithTimeout(time.Second))
		if got, want := states(result), "client-1: exit 7, client-2: exit 7, server-1: exit 7"; err != nil || got != want {
			t.Errorf("error %v, states %s", err, got)
		}
		for _, n := range result.Nodes {
			if string(n.Output) != "bye\n" {
				t.Errorf("%s: output %q", n.Node, n.Output)
			}
		}
	})
	t.Run("the client is gone", func(t *testing.T) {
		s := newSleeper(t)
		s.cancelled(client, nodes, nil, consulexec.WithTimeout(10*time.Second))
		if n := s.running(); n != 3*nodes {
			t.Errorf("%d processes left before the time", n)
		}
		s.await(0)
	})
	t.Run("takes no TERM", func(t *testing.T) {
		s := newSleeper(t)
		s.command = "trap '' TERM; " + s.command
		s.cancelled(client, nodes, nil, consulexec.WithKillOnCancel())
		if n := s.running(); n > 0 {
			t.Errorf("%d processes left", n)
		}
	})
	t.Run("nobody is expected", func(t *testing.T) {
		s := newSleeper(t)
		_, err := s.cancelled(client, nodes, nil, consulexec.WithKillOnCancel(), consulexec.WithoutDiscovery())
		if n := s.running(); n > 0 {
			t.Errorf("%d processes left: %v", n, err)
		}
	})
	t.Run("some at a time", func(t *testing.T) {
		s := newSleeper(t)
		s.cancelled(client, 2, nil, consulexec.WithKillOnCancel(), consulexec.WithConcurrency(2))
		if n := s.running(); n > 0 {
			t.Errorf("%d processes left", n)
		}
	})
	t.Run("two at once", func(t *testing.T) {
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
		s.cancelled(client, nodes, nil, consulexec.WithKillOnCancel())
		if a, b := s.running(), other.running(); a > 0 || b != 3*nodes {
			t.Errorf("%d processes left, and %d of the other run", a, b)
		}
		cancel()
		if _, err := e.Wait(); !errors.Is(err, context.Canceled) || other.running() > 0 {
			t.Errorf("%d processes left: %v", other.running(), err)
		}
	})
	t.Run("an agent is dead", func(t *testing.T) {
		s := newSleeper(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		e, err := consulexec.New(s.command, consulexec.WithClient(client), consulexec.WithKillOnCancel())
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Start(ctx); err != nil {
			t.Fatal(err)
		}
		s.await(3 * nodes)
		pause(t.Context(), time.Second) // until the acks are known
		kill("client-2")
		cancel()
		start := time.Now()
		_, err = e.Wait()
		var nodeError *consulexec.NodeError
		if !errors.Is(err, context.Canceled) || !errors.As(err, &nodeError) || nodeError.Node != "client-2" || strings.Contains(err.Error(), "client-1") || strings.Contains(err.Error(), "server-1") {
			t.Errorf("error %v", err)
		}
		if took := time.Since(start); took > 25*time.Second {
			t.Errorf("took %v", took)
		}
		t.Log(err)
	})
}
