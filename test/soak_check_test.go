package test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
	"github.com/consulexec/consulexec/internal/runner"
	"github.com/consulexec/consulexec/internal/runtest"
)

// soakCheck compares the result of a run of TestSoak with the truth.
type soakCheck struct {
	*soaking
	srv    *exectest.Server
	result *consulexec.Result
	err    error
	took   time.Duration

	failedAfter time.Duration // its submission
}

func (c *soakCheck) check(t *testing.T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ran, ended := 0, 0
	for _, name := range c.names {
		if c.truth[name].runs > 0 {
			ran++
		}
	}
	for _, n := range c.result.Nodes {
		switch n.Node {
		case "stranger":
			t.Error("stranger is among the nodes")
		case "nobody":
			c.checkNobody(t, n)
		default:
			c.checkNode(t, n)
		}
		if n.State == consulexec.StateExited {
			ended++
		}
	}
	if c.err == nil && len(c.result.Nodes) == 0 {
		t.Error("done without any node")
	}
	if c.limit > 0 && ran > c.limit && !c.deletes {
		t.Errorf("%d nodes ran the command, the limit is %d", ran, c.limit)
	}
	if c.concurrency > 0 && c.most > c.concurrency+ran-ended {
		t.Errorf("%d nodes ran the command at once, want %d", c.most, c.concurrency)
	}
	if c.err != nil && c.recovery > 0 {
		if excuse := c.excuseError(ran); excuse == "" {
			t.Errorf("failed in spite of recovery for %v: %v", c.recovery, c.err)
		}
	}
	most := 10 * time.Minute
	if c.patience > 0 {
		most = c.patience
	} else if c.recovery > 0 {
		most = time.Hour
	}
	if most += 6 * time.Second; c.kill {
		most += 16 * time.Second // to end commands
	}
	if c.took > most {
		t.Errorf("took %v, want at most %v", c.took, most)
	}
}

// checkNobody checks a node that there is not. It is lost if the catalog can't be
// read and the run ends early.
func (c *soakCheck) checkNobody(t *testing.T, n consulexec.NodeResult) {
	unfenced := n.State == consulexec.StateLost && n.Acked.IsZero() && (c.err != nil || c.recovery > 0)
	if n.State != consulexec.StateNoResponse && n.State != consulexec.StateSkipped && !unfenced {
		t.Errorf("nobody is %v", n.State)
	}
}

// checkNode checks one of the cluster's nodes.
func (c *soakCheck) checkNode(t *testing.T, n consulexec.NodeResult) {
	truth := c.truth[n.Node]
	if executions := c.srv.Executions(n.Node); truth.runs > 1 || truth.runs != executions {
		t.Errorf("%s ran the command %d times, and the agent %d times", n.Node, truth.runs, executions)
	}
	notNeeded := c.limit > 0 && (n.State == consulexec.StateSkipped || n.State == consulexec.StateNoResponse)
	if n.State != consulexec.StateExited && !notNeeded && (n.Err == nil || c.result.Err() == nil) {
		t.Errorf("%s is %v, without an error", n.Node, n.State)
	}
	if n.State == consulexec.StateExited {
		c.checkExited(t, n)
	} else if c.recovery > 0 && !truth.exited.IsZero() && c.excuse(n) == "" {
		t.Errorf("%s is %v, error %v, but its command has ended", n.Node, n.State, n.Err)
	}
	if n.State == consulexec.StateSkipped && truth.runs > 0 {
		t.Errorf("%s is skipped, but ran", n.Node)
	}
	if n.State == consulexec.StateNoResponse && truth.runs > 0 && !c.deletes {
		t.Errorf("%s is not responding, but ran", n.Node)
	}
	if !n.Acked.IsZero() && truth.runs == 0 {
		t.Errorf("%s is %v, but did not run", n.Node, n.State)
	}
}

// checkExited checks a node that is reported as exited.
func (c *soakCheck) checkExited(t *testing.T, n consulexec.NodeResult) {
	truth, code := c.truth[n.Node], c.nodes[n.Node].code
	timedOut := truth.ended && c.timeout > 0
	if timedOut {
		code = runner.TimedOut
	}
	if c.recovery == 0 && n.ExitCode == 255 && (truth.exited.IsZero() || code != 255) {
		return // its agent gave up
	}
	if truth.exited.IsZero() || code != n.ExitCode || timedOut != n.TimedOut {
		t.Errorf("%s exited with %d, timed out %v, but it did %+v", n.Node, n.ExitCode, n.TimedOut, truth)
		return
	}
	output, truncated := truth.output.String(), false
	if c.maxOutput >= 0 && len(output) > c.maxOutput {
		output, truncated = output[:c.maxOutput], true
	}
	if c.recovery == 0 && c.deletes {
		return // nobody can bring what was deleted
	}
	if node := c.nodes[n.Node]; c.recovery == 0 && node.repeats > 0 && node.silentAt >= 0 {
		return // its agent gave up, and a copy of the job that came after the end had the status
	}
	if c.recovery == 0 && n.Err != nil && strings.Contains(n.Err.Error(), "may have run twice") {
		return // a copy that came after the end wrote a heartbeat over the output
	}
	if output != string(n.Output) || truncated != n.Truncated {
		t.Errorf("%s: output of %d bytes, truncated %v, want %d bytes of the %d that it printed", n.Node, len(n.Output), n.Truncated, len(output), truth.output.Len())
	}
}

// reachTime is how long it may take until a node is reached when nothing is in the
// way any more.
const reachTime = 15 * time.Second

// excuseError returns why a run with recovery may have failed, or nothing.
func (c *soakCheck) excuseError(ran int) string {
	switch {
	case errors.Is(c.err, context.DeadlineExceeded) && c.patience > 0:
		return "its context has ended"
	case ran == 0:
		return "no node has run the command"
	case c.unknown && c.failedAfter < c.ackTimeout+5*time.Second: // which the clean-up takes
		return "the nodes are not known"
	case c.longest("")+reachTime > max(c.recovery, 40*time.Second):
		return "Consul was out of reach"
	}
	return ""
}

// excuse returns why a node with recovery whose command has ended may be in
// another state, or nothing.
func (c *soakCheck) excuse(n consulexec.NodeResult) string {
	switch {
	case c.err != nil:
		return "the run failed"
	case c.truth[n.Node].ended && c.timeout == 0:
		return "its command was killed"
	case slices.ContainsFunc(c.outages, func(o outage) bool { return o.node == n.Node && o.group }):
		return "its commands were killed"
	case c.outOfReach(n.Node):
		return "it was out of reach"
	case n.State == consulexec.StateNoResponse && c.deletes:
		return "its fence was deleted"
	}
	return ""
}

// outOfReach reports whether a node may have been out of reach for the time of
// recovery. Without an outage it may be if it does not hear of an ask in time.
func (c *soakCheck) outOfReach(name string) bool {
	n, longest := c.nodes[name], c.longest(name)
	if longest == 0 && n.misses == 0 && n.ackAfter+time.Second < c.ackTimeout {
		return false
	}
	return longest+n.ackAfter+time.Duration(n.misses)*reachTime+reachTime > c.recovery
}

// longest returns the longest time for which a node may have been out of reach,
// or Consul if there is no name. Between two outages there has to be time to
// reach it.
func (c *soakCheck) longest(node string) (longest time.Duration) {
	outages := slices.DeleteFunc(slices.Clone(c.outages), func(o outage) bool { return o.node != "" && o.node != node })
	slices.SortFunc(outages, func(a, b outage) int { return int(a.begin - b.begin) })
	var begin, end time.Duration
	for _, o := range outages {
		if o.begin > end+reachTime {
			begin = o.begin
		}
		if o.end == 0 {
			o.end = time.Hour
		}
		end = max(end, o.end)
		longest = max(longest, end-begin)
	}
	return longest
}

// checkNothingLeft checks what the run has left in Consul, and on the nodes when
// they have no need to keep anything any more.
func (c *soakCheck) checkNothingLeft(t *testing.T, id string) {
	// If Consul could not be reached at the end, it removes the rest after twice
	// the TTL, which is a minute for fences.
	time.Sleep(125 * time.Second)
	if left := c.srv.Sessions(); len(left) > 0 {
		t.Errorf("sessions %v are left", left)
	}
	for _, key := range c.srv.Keys("") {
		if strings.HasSuffix(key, "/job") && !strings.HasSuffix(key, "/job/job") {
			t.Errorf("key %s is left", key)
		}
	}
	if !c.underRunner() {
		return
	}
	var names []string
	c.mu.Lock()
	for _, name := range c.names {
		runs := c.truth[name].runs > 0 && c.truth[name].exited.IsZero()
		if n := c.nodes[name]; !n.disabled && n.misses+n.repeats == 0 && !runs {
			c.srv.Start(name)
			names = append(names, name)
		}
	}
	c.mu.Unlock()
	if len(names) == 0 {
		return
	}
	time.Sleep(c.recovery + c.lostTimeout + 4*time.Minute) // a minute, and three more if the commands were killed
	rec := runtest.NewRecorder(t, c.srv.Client())
	job := runner.Ask(id, "left", 0, time.Second)
	result, err := rec.New("", consulexec.WithArgs(job.Args...), consulexec.WithNodes(names...), consulexec.WithAckTimeout(time.Minute)).Run(t.Context())
	if err != nil {
		t.Error(err)
		return
	}
	for _, n := range result.Nodes {
		if !strings.HasSuffix(string(n.Output), string(runner.NoteNoTrace.Text(id))) {
			t.Errorf("%s still has the run: %v, output %.100q", n.Node, n.State, n.Output)
		}
	}
}
