package consulexec

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// state is what a run knows of its nodes. It decides who gets the job next,
// when a node is given up and when the run is done. It has no clock and does no
// I/O: its methods get the time.
type state struct {
	minNodes    int
	wait        time.Duration
	ackTimeout  time.Duration
	lostTimeout time.Duration
	capture     int
	concurrency int // how many nodes may have the job at once; no limit if 0
	percent     int // the same, in percent of the nodes
	maxFailures int // how many failures stop the dispatching; no limit if 0

	nodes        map[string]*node
	known        bool      // whether the expected nodes are known
	waiting      []string  // expected nodes that the job was not dispatched to, in order
	skipped      int       // expected nodes that won't get the job because of failures
	failedAtStop int       // how many failures that were
	dispatchErr  error     // why an event may not have gone out, or nil
	lastNews     time.Time // when the last record came or an event went out

	unacked  int // nodes that may still acknowledge
	running  int
	exited   int
	failures int // nodes that exited with another status than 0, are lost, or did not respond
}

// node is what a run knows of one node.
type node struct {
	NodeResult
	dispatchedAt time.Time // when the event for it went out, or zero
	reason       error     // why it may not have taken the job, if that is known
	unacked      bool      // the job was dispatched to it, and it may still acknowledge
	seen         time.Time // its last sign of life
	critical     bool      // gossip reports that its agent has failed
}

func newState(c *config) *state {
	return &state{
		minNodes:    c.minNodes,
		wait:        c.wait,
		ackTimeout:  c.ackTimeout,
		lostTimeout: c.lostTimeout,
		capture:     c.capture,
		concurrency: c.concurrency,
		percent:     c.percent,
		maxFailures: c.maxFailures,
		nodes:       make(map[string]*node),
	}
}

// expect sets the nodes that should answer, in the order in which they get the
// job.
func (s *state) expect(names []string) {
	s.known = true
	s.waiting = names
	for _, name := range names {
		s.add(name)
	}
	if s.percent > 0 {
		s.concurrency = max(1, len(names)*s.percent/100)
	}
}

// addAbsent adds a node that should answer and can't.
func (s *state) addAbsent(name string, reason error) {
	n := s.add(name)
	n.State, n.reason = StateNoResponse, reason
	s.failures++
}

func (s *state) add(name string) *node {
	n := &node{NodeResult: NodeResult{Node: name, State: StateSkipped, ExitCode: -1}}
	s.nodes[name] = n
	return n
}

// next removes the nodes that get the job now from those that wait, and returns
// them. After too many failures it drops the rest.
func (s *state) next() []string {
	if s.maxFailures > 0 && s.failures >= s.maxFailures {
		if len(s.waiting) > 0 {
			s.skipped, s.failedAtStop = len(s.waiting), s.failures
		}
		s.waiting = nil
	}
	// A node that waits may run already, by a stranger's doing.
	s.waiting = slices.DeleteFunc(s.waiting, func(name string) bool { return s.nodes[name].State != StateSkipped })
	n := len(s.waiting)
	if s.concurrency > 0 {
		n = min(n, max(0, s.concurrency-s.running-s.unacked))
	}
	names := s.waiting[:n]
	s.waiting = s.waiting[n:]
	return names
}

// dispatch records that an event for expected nodes went out. A non-nil err
// says why it may not have.
func (s *state) dispatch(names []string, at time.Time, err error) {
	s.lastNews = at
	if err != nil {
		s.dispatchErr = err
	}
	for _, name := range names {
		n := s.nodes[name]
		n.State, n.dispatchedAt, n.reason, n.unacked = StateNoResponse, at, err, true
		s.unacked++
	}
}

// ack records that a node took the job. It reports whether that is news.
func (s *state) ack(name string, now time.Time) bool {
	n := s.nodes[name]
	if n == nil {
		n = s.add(name)
	}
	switch {
	case n.State != StateNoResponse && n.State != StateSkipped:
		return false
	case n.unacked:
		n.unacked = false
		s.unacked--
	case n.State == StateNoResponse:
		s.failures-- // it was given up
	}
	s.lastNews, n.seen, n.Acked = now, now, now
	n.State, n.reason = StateRunning, nil
	s.running++
	return true
}

// output records that a running node sent a chunk, which may be empty.
func (s *state) output(name string, chunk []byte, now time.Time) bool {
	n := s.nodes[name]
	if n == nil || n.State != StateRunning {
		return false
	}
	s.lastNews, n.seen = now, now
	n.OutputBytes += int64(len(chunk))
	if room := s.capture - len(n.Output); room > 0 {
		n.Output = append(n.Output, chunk[:min(len(chunk), room)]...)
	}
	return true
}

// exit records that the command ended on a running node.
func (s *state) exit(name string, code int, now time.Time) bool {
	n := s.nodes[name]
	if n == nil || n.State != StateRunning {
		return false
	}
	s.lastNews, n.seen, n.Exited = now, now, now
	n.State, n.ExitCode = StateExited, code
	s.running--
	s.exited++
	if code != 0 {
		s.failures++
	}
	return true
}

// lose gives a running node up. It returns the node's error, or nil if the node
// is not running.
func (s *state) lose(name string, reason error) error {
	n := s.nodes[name]
	if n == nil || n.State != StateRunning {
		return nil
	}
	n.State = StateLost
	n.Err = &NodeError{Node: name, State: StateLost, ExitCode: -1, Err: reason}
	s.running--
	s.failures++
	return n.Err
}

// If gossip reports that an agent has failed, its node is lost after one
// heartbeat interval plus agentGrace, in case gossip is wrong. maxAgentWait
// bounds that interval.
const (
	maxAgentWait = 10 * time.Second
	agentGrace   = time.Second
)

// setCritical records which agents have failed. All others have not.
func (s *state) setCritical(names []string) {
	for _, n := range s.nodes {
		n.critical = false
	}
	for _, name := range names {
		if n := s.nodes[name]; n != nil {
			n.critical = true
		}
	}
}

// lostAt returns when a running node will have been silent for too long.
func (s *state) lostAt(n *node) time.Time {
	timeout := s.lostTimeout
	if n.critical {
		timeout = min(timeout, min(s.wait, maxAgentWait)+agentGrace)
	}
	return n.seen.Add(timeout)
}

// pause moves all times on by an outage that ended now. Nothing could be read
// meanwhile, so no node counts as silent.
func (s *state) pause(outage time.Duration, now time.Time) {
	shift := func(t *time.Time) {
		if t.IsZero() || t.After(now) {
			return // not dispatched, or its event still waits for its turn in gossip
		}
		if *t = t.Add(outage); t.After(now) {
			*t = now
		}
	}
	shift(&s.lastNews)
	for _, n := range s.nodes {
		shift(&n.dispatchedAt)
		shift(&n.seen)
	}
}

// overdue returns the nodes that had been silent for too long at the time of a
// listing, sorted by name. It gives up those that did not acknowledge. The
// others run the command.
func (s *state) overdue(listed time.Time) (noResponse []string, silent []*node) {
	for name, n := range s.nodes {
		switch {
		case n.unacked && !listed.Before(n.dispatchedAt.Add(s.ackTimeout)):
			n.unacked = false
			s.unacked--
			s.failures++
			noResponse = append(noResponse, name)
		case n.State == StateRunning && !listed.Before(s.lostAt(n)):
			silent = append(silent, n)
		}
	}
	slices.Sort(noResponse)
	slices.SortFunc(silent, func(a, b *node) int { return strings.Compare(a.Node, b.Node) })
	return noResponse, silent
}

// done reports whether the run had come to its end at the time of a listing.
func (s *state) done(listed time.Time) bool {
	if s.running > 0 || s.unacked > 0 || len(s.waiting) > 0 {
		return false
	}
	if (s.exited >= s.minNodes || s.skipped > 0) && (s.known || s.minNodes > 0) {
		return true
	}
	return !listed.Before(s.lastNews.Add(s.silenceLimit()))
}

// silenceLimit returns how long a run without a running node waits for news. If
// only silence ends the run, it is the wait. If exits are missing from the
// minimum, it is as long as any node may take to acknowledge.
func (s *state) silenceLimit() time.Duration {
	if !s.known && s.minNodes == 0 {
		return s.wait
	}
	return s.ackTimeout
}

// deadline returns when overdue or done will next change if no record comes.
func (s *state) deadline() time.Time {
	if s.running == 0 && s.unacked == 0 {
		return s.lastNews.Add(s.silenceLimit())
	}
	var next time.Time
	for _, n := range s.nodes {
		var due time.Time
		switch {
		case n.unacked:
			due = n.dispatchedAt.Add(s.ackTimeout)
		case n.State == StateRunning:
			due = s.lostAt(n)
		default:
			continue
		}
		if next.IsZero() || due.Before(next) {
			next = due
		}
	}
	return next
}

// mayRun returns the nodes on which the command may still run, by name: those
// that acknowledged, and those that were dispatched to and have said nothing.
func (s *state) mayRun() (acked, unacked []string) {
	for name, n := range s.nodes {
		switch {
		case n.State == StateExited:
		case !n.Acked.IsZero():
			acked = append(acked, name)
		case !n.dispatchedAt.IsZero():
			unacked = append(unacked, name)
		}
	}
	slices.Sort(acked)
	slices.Sort(unacked)
	return acked, unacked
}

// shortfall returns why a run that came to its end is no success, besides its
// nodes.
func (s *state) shortfall() error {
	var errs []error
	if s.skipped > 0 {
		errs = append(errs, fmt.Errorf("consulexec: %d failed, and %d skipped: WithMaxFailures(%d)", s.failedAtStop, s.skipped, s.maxFailures))
	}
	if missing := s.minNodes - s.exited; missing > 0 {
		errs = append(errs, fmt.Errorf("consulexec: %d nodes exited and %d are missing: WithMinNodes(%d)", s.exited, missing, s.minNodes))
	}
	return errors.Join(errs...)
}

// results returns the outcome of each node, sorted by name.
func (s *state) results() []NodeResult {
	results := make([]NodeResult, 0, len(s.nodes))
	for _, n := range s.nodes {
		if n.Err == nil && (n.State != StateExited || n.ExitCode != 0) {
			n.Err = &NodeError{Node: n.Node, State: n.State, ExitCode: n.ExitCode, Err: n.reason}
		}
		results = append(results, n.NodeResult)
	}
	slices.SortFunc(results, func(a, b NodeResult) int { return strings.Compare(a.Node, b.Node) })
	return results
}
