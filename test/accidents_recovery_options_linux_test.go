package test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/internal/devcluster"
	"github.com/consulexec/consulexec/internal/runtest"
)

// TestRecoveryCombines destroys the sessions of runs that have other options
// beside WithRecovery, kills runners, and fills a disk for a moment.
func TestRecoveryCombines(t *testing.T) {
	needsConsul(t)
	tmp, full := t.TempDir(), t.TempDir()
	nodes := devcluster.Nodes(1, 2)
	for i := range nodes {
		nodes[i].Env = []string{"TMPDIR=" + tmp}
	}
	mounted := syscall.Mount("tmpfs", full, "tmpfs", 0, "size=64k,nr_inodes=100")
	if mounted == nil {
		t.Cleanup(func() {
			if err := syscall.Unmount(full, syscall.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
	}
	nodes = append(nodes, devcluster.Node{Name: "full", Env: []string{"TMPDIR=" + full}})
	cluster := devcluster.Start(t, devcluster.Config{Nodes: nodes})
	t.Run("tests", func(t *testing.T) {
		parallel(t, "a timeout", func(t *testing.T) { recoveryTimeout(t, cluster) })
		parallel(t, "limited output", func(t *testing.T) { recoveryMaxOutput(t, cluster) })
		parallel(t, "a cancel", func(t *testing.T) { recoveryCancel(t, cluster) })
		parallel(t, "a limit of nodes", func(t *testing.T) { recoveryLimit(t, cluster) })
		parallel(t, "one at a time", func(t *testing.T) { recoveryRolling(t, cluster) })
		parallel(t, "a runner is killed", func(t *testing.T) { recoveryKilled(t, cluster) })
		parallel(t, "a full disk", func(t *testing.T) {
			if mounted != nil {
				t.Skip("mount a tmpfs: ", mounted)
			}
			recoveryFull(t, cluster, full)
		})
	})
	// Everything is kept for 20 s and the lost timeout, at most.
	checkSwept(t, cluster, 20*time.Second+15*time.Second, tmp, full)
}

// A shaken run has its session destroyed.
type shaken struct {
	*runtest.Recorder
	t       *testing.T
	cluster *devcluster.Cluster
	prefix  string
	options []consulexec.Option
	shaking sync.WaitGroup
}

// newShaken returns a run on the plain nodes whose keys have a prefix of their
// own.
func newShaken(t *testing.T, cluster *devcluster.Cluster, options ...consulexec.Option) *shaken {
	s := &shaken{
		Recorder: runtest.NewRecorder(t, cluster.Client("client-1")), t: t, cluster: cluster,
		prefix: strings.ReplaceAll(strings.ToLower(filepath.Base(t.Name())), "_", "-"),
	}
	s.options = append([]consulexec.Option{onPlain, consulexec.WithRecovery(20 * time.Second), consulexec.WithPrefix(s.prefix)}, options...)
	t.Cleanup(s.shaking.Wait)
	return s
}

// after runs f a second after a call was recorded for the nth time. "ack" stands
// for all calls that begin so.
func (s *shaken) after(call string, n int, f func()) {
	s.Hook = func(got string) {
		if strings.HasPrefix(got, call) {
			if n--; n == 0 {
				s.shaking.Go(func() {
					time.Sleep(time.Second)
					f()
				})
			}
		}
	}
}

// destroy destroys the run's session.
func (s *shaken) destroy() {
	client := s.cluster.Client("server-1")
	keys, _, err := client.KV().Keys(s.prefix+"/", "", nil)
	if err != nil || len(keys) == 0 {
		s.t.Errorf("keys %q, error %v", keys, err)
		return
	}
	session := strings.Split(strings.TrimPrefix(keys[0], s.prefix+"/"), "/")[0]
	if _, err := client.Session().Destroy(session, nil); err != nil {
		s.t.Error(err)
	}
}

// run runs a command and checks that at least one node is reached again.
func (s *shaken) run(ctx context.Context, command string) (*consulexec.Result, error) {
	s.t.Helper()
	result, err := s.Run(ctx, command, s.options...)
	recovered := 0
	for _, n := range result.Nodes {
		recovered += n.Recovered
	}
	s.t.Logf("recovered %d, error %v: %s", recovered, err, runtest.States(result))
	if recovered == 0 {
		s.t.Error("no node was reached again")
	}
	return result, err
}

// recoveryTimeout has a timeout end a command of whose session nothing is left.
func recoveryTimeout(t *testing.T, cluster *devcluster.Cluster) {
	sleeps := newSleeper(t)
	s := newShaken(t, cluster, consulexec.WithTimeout(6*time.Second))
	s.after("ack ", plainNodes, s.destroy)
	result, err := s.run(t.Context(), sleeps.command)
	if err != nil || len(result.Nodes) != plainNodes {
		t.Errorf("%d nodes, error %v", len(result.Nodes), err)
	}
	for _, n := range result.Nodes {
		if n.State != consulexec.StateExited || !n.TimedOut || n.ExitCode != 124 || !strings.Contains(string(n.Output), "sh\n") {
			t.Errorf("%s: %v, code %d, timed out %v, output %q", n.Node, n.State, n.ExitCode, n.TimedOut, n.Output)
		}
	}
	if n := sleeps.running(); n != 0 {
		t.Errorf("%d processes run", n)
	}
}

// recoveryMaxOutput limits the output of which a part was lost.
func recoveryMaxOutput(t *testing.T, cluster *devcluster.Cluster) {
	count := newSlowCount(t, false)
	const most = 75
	s := newShaken(t, cluster, consulexec.WithMaxOutput(most))
	s.after("ack ", plainNodes, s.destroy)
	result, err := s.run(t.Context(), count.Text)
	if err != nil || len(result.Nodes) != plainNodes {
		t.Errorf("%d nodes, error %v", len(result.Nodes), err)
	}
	for _, n := range result.Nodes {
		if n.ExitCode != 7 || !n.Truncated || string(n.Output) != count.Want[:most] {
			t.Errorf("%s: code %d, truncated %v, output %q", n.Node, n.ExitCode, n.Truncated, n.Output)
		}
	}
}

// recoveryCancel cancels a run after its nodes were reached again.
func recoveryCancel(t *testing.T, cluster *devcluster.Cluster) {
	sleeps := newSleeper(t)
	s := newShaken(t, cluster, consulexec.WithKillOnCancel())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s.after("ack ", plainNodes, func() {
		s.destroy()
		time.Sleep(4 * time.Second)
		cancel()
	})
	result, err := s.run(ctx, sleeps.command)
	if !errors.Is(err, context.Canceled) || len(result.Nodes) != plainNodes {
		t.Errorf("%d nodes, error %v", len(result.Nodes), err)
	}
	for _, n := range result.Nodes {
		if n.State != consulexec.StateKilled {
			t.Errorf("%s: %v, error %v", n.Node, n.State, n.Err)
		}
	}
	if n := sleeps.running(); n != 0 {
		t.Errorf("%d processes run", n)
	}
}

// recoveryLimit has two of three nodes run the command.
func recoveryLimit(t *testing.T, cluster *devcluster.Cluster) {
	count := newSlowCount(t, false)
	s := newShaken(t, cluster, consulexec.WithLimit(2), consulexec.WithMinNodes(2))
	s.after("ack ", 2, s.destroy)
	result, err := s.run(t.Context(), count.Text)
	if err != nil || count.whole(result) != 2 || count.ran(t) != 2 {
		t.Errorf("%d nodes ran the command, error %v: %s", count.ran(t), err, runtest.States(result))
	}
}

// recoveryRolling loses the session while the second of three nodes runs. That
// node keeps its place and is no failure.
func recoveryRolling(t *testing.T, cluster *devcluster.Cluster) {
	s := newShaken(t, cluster, consulexec.WithConcurrency(1), consulexec.WithMaxFailures(1))
	s.after("ack ", 2, s.destroy)
	command, most := busy(t, 1)
	result, err := s.run(t.Context(), "sleep 3;"+command)
	if err != nil || result.Err() != nil || len(result.Nodes) != plainNodes {
		t.Errorf("error %v, %v", err, result.Err())
	}
	if n := most(); n != 1 {
		t.Errorf("%d nodes ran the command at once, want 1", n)
	}
}

// recoveryKilled kills all shells of the runner on one node. Nobody can ever know
// its command's status.
func recoveryKilled(t *testing.T, cluster *devcluster.Cluster) {
	count := newSlowCount(t, false)
	s := newShaken(t, cluster)
	e := s.New(count.Text, s.options...)
	s.after("ack ", plainNodes, func() {
		processes, err := cluster.Processes()
		if err != nil {
			t.Error(err)
		}
		killed := 0
		for _, p := range processes {
			if p.Node == "client-2" && strings.Contains(strings.Join(p.Args, " "), ": consulexec-"+e.ID()+" start") {
				killed++
				if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
					t.Error(err)
				}
			}
		}
		if killed == 0 {
			t.Error("no shell of the runner was found")
		}
	})
	result, err := e.Run(t.Context())
	s.Check(e, result, err)
	if err != nil || count.whole(result) != plainNodes-1 {
		t.Errorf("error %v, states %s", err, runtest.States(result))
	}
	n, _ := result.Node("client-2")
	if n.State != consulexec.StateLost || !strings.Contains(fmt.Sprint(n.Err), "was killed") || !strings.HasPrefix(count.Want, string(n.Output)) {
		t.Errorf("%v, error %v, output %q", n.State, n.Err, n.Output)
	}
}

// recoveryFull fills the disk of a node for two seconds. That costs nothing but
// the recovery, and the result says so.
func recoveryFull(t *testing.T, cluster *devcluster.Cluster, tmp string) {
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprintf("lost=%v", lost), func(t *testing.T) {
			count := newSlowCount(t, false)
			line := strings.Repeat("x", 1000) + " line" // more than a page that the file has already
			command, want := strings.ReplaceAll(count.Text, "line", line), strings.ReplaceAll(count.Want, "line", line)
			s := newShaken(t, cluster)
			s.options[0] = consulexec.WithNode("^full$")
			s.after("ack ", 1, func() {
				fill(t, tmp, 0)
				time.Sleep(2 * time.Second)
				if err := os.Remove(filepath.Join(tmp, "filler")); err != nil {
					t.Error(err)
				}
				if lost {
					s.destroy()
				}
			})
			result, err := s.Run(t.Context(), command, s.options...)
			n, _ := result.Node("full")
			output := string(n.Output)
			t.Logf("error %v, %v, %d of %d bytes of output, %v", err, n.State, len(output), len(want), n.Err)
			if err != nil || n.State != consulexec.StateExited || n.ExitCode != 7 {
				t.Errorf("error %v, %v, code %d", err, n.State, n.ExitCode)
			}
			if lost {
				if !strings.HasPrefix(want, output) || output == want || !strings.Contains(fmt.Sprint(n.Err), "output may be missing") {
					t.Errorf("output %q, error %v", output, n.Err)
				}
			} else if output != want {
				t.Errorf("output %q", output)
			}
		})
	}
}
