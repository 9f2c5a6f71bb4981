package consulexec

import (
	"slices"
	"strings"
	"time"
)

// state is what a run knows of its nodes, and decides when a node is given up
// and when the run is done. It has no clock and no I/O: each method is told the
// time.
type state struct {
	minNodes    int
	wait        time.Duration
	ackTimeout  time.Duration
	lostTimeout time.Duration
	capture     int
	concurrency int // how many nodes may run at once, or 0
	percent     int // the same in percent, or 0
	maxFailures int // how many nodes may fail until no other is told, or 0

	nodes   map[string]*node
	known   bool      // whether the expected nodes are
	waiting []string  // expected nodes that were not told yet, in their order
	skipped int       // expected nodes that will not be told for the failures of others
	enough  int       // how many those were
	doubt   error     // why it is not certain that an event went out, or nil
	news    time.Time // when the last record came, or an event went out

	pending int // nodes that may still acknowledge
	running int
	exited  int
	failed  int // nodes that exited with another status than 0, are lost, or did not respond
}

// node is what a run knows of one node.
type node struct {
	NodeResult
	told     time.Time // when its event went out, or zero
	why      error     // why it may not have taken the job, where that is known
	pending  bool      // was told and may still acknowledge
	seen     time.Time // its last sign of life
	critical bool      // its agent has failed, by the word of the others
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

// expect says which nodes should answer, in the order in which to tell them.
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

// absent says that a node should answer and can't.
func (s *state) absent(name string, why error) {
	n := s.add(name)
	n.State, n.why = StateNoResponse, why
	s.failed++
}

func (s *state) add(name string) *node {
	n := &node{NodeResult: NodeResult{Node: name, State: StateSkipped, ExitCode: -1}}
	s.nodes[name] = n
	return n
}

// next takes the nodes that are to be told now off those that wait. Once too many
// have failed it drops the rest.
func (s *state) next() []string {
	if s.maxFailures > 0 && s.failed >= s.maxFailures {
		if len(s.waiting) > 0 {
			s.skipped, s.enough = len(s.waiting), s.failed
		}
		s.waiting = nil
	}
	// A stranger's key may have made one of them run.
	s.waiting = slices.DeleteFunc(s.waiting, func(name string) bool { return s.nodes[name].State != StateSkipped })
	n := len(s.waiting)
	if s.concurrency > 0 {
		n = min(n, max(0, s.concurrency-s.running-s.pending))
	}
	names := s.waiting[:n]
	s.waiting = s.waiting[n:]
	return names
}

// tell says that an event went out at a time, for expected nodes of these names;
// or, where there is a doubt, that it may not have.
func (s *state) tell(names []string, at time.Time, doubt error) {
	s.news = at
	if doubt != nil {
		s.doubt = doubt
	}
	for _, name := range names {
		n := s.nodes[name]
		n.State, n.told, n.why, n.pending = StateNoResponse, at, doubt, true
		s.pending++
	}
}

// ack says that a node took the job. It returns false where that is no news.
func (s *state) ack(name string, now time.Time) bool {
	n := s.nodes[name]
	if n == nil {
		n = s.add(name)
	}
	switch {
	case n.State != StateNoResponse && n.State != StateSkipped:
		return false
	case n.pending:
		n.pending = false
		s.pending--
	case n.State == StateNoResponse:
		s.failed-- // it was given up
	}
	s.news, n.seen, n.Acked = now, now, now
	n.State, n.why = StateRunning, nil
	s.running++
	return true
}

// output says that a running node sent a chunk, which may be empty.
func (s *state) output(name string, chunk []byte, now time.Time) bool {
	n := s.nodes[name]
	if n == nil || n.State != StateRunning {
		return false
	}
	s.news, n.seen = now, now
	n.OutputBytes += int64(len(chunk))
	if room := s.capture - len(n.Output); room > 0 {
		n.Output = append(n.Output, chunk[:min(len(chunk), room)]...)
	}
	return true
}

// exit says that a running node ended the command.
func (s *state) exit(name string, code int, now time.Time) bool {
	n := s.nodes[name]
	if n == nil || n.State != StateRunning {
		return false
	}
	s.news, n.seen, n.Exited = now, now, now
	n.State, n.ExitCode = StateExited, code
	s.running--
	s.exited++
	if code != 0 {
		s.failed++
	}
	return true
}

// lose gives a running node up. It returns the error that says so, or nil where
// the node is not running.
func (s *state) lose(name string, why error) error {
	n := s.nodes[name]
	if n == nil || n.State != StateRunning {
		return nil
	}
	n.State = StateLost
	n.Err = &NodeError{Node: name, State: StateLost, ExitCode: -1, Err: why}
	s.running--
	s.failed++
	return n.Err
}

// A node whose agent has failed by the word of the others may stay silent for the
// wait and a bit more, so that an agent they are wrong about gives a sign of life;
// but where the wait is long, their word counts before that.
const (
	maxAgentWait = 10 * time.Second
	agentGrace   = time.Second
)

// fail says which agents have failed by the word of the others, and that all
// others have not.
func (s *state) fail(names []string) {
	for _, n := range s.nodes {
		n.critical = false
	}
	for _, name := range names {
		if n := s.nodes[name]; n != nil {
			n.critical = true
		}
	}
}

// due is when a running node has been silent for too long.
func (s *state) due(n *node) time.Time {
	timeout := s.lostTimeout
	if n.critical {
		timeout = min(timeout, min(s.wait, maxAgentWait)+agentGrace)
	}
	return n.seen.Add(timeout)
}

// pause takes an outage that ended now out of account: nobody could be heard, so
// nobody was silent.
func (s *state) pause(outage time.Duration, now time.Time) {
	shift := func(t *time.Time) {
		if t.IsZero() || t.After(now) {
			return // never, or not yet: the event's turn in gossip
		}
		if *t = t.Add(outage); t.After(now) {
			*t = now
		}
	}
	shift(&s.news)
	for _, n := range s.nodes {
		shift(&n.told)
		shift(&n.seen)
	}
}

// overdue returns the nodes that had been silent for too long at the time of a
// listing, by name: those that did not acknowledge, which it gives up, and those
// that run the command.
func (s *state) overdue(listed time.Time) (noResponse []string, silent []*node) {
	for name, n := range s.nodes {
		switch {
		case n.pending && !listed.Before(n.told.Add(s.ackTimeout)):
			n.pending = false
			s.pending--
			s.failed++
			noResponse = append(noResponse, name)
		case n.State == StateRunning && !listed.Before(s.due(n)):
			silent = append(silent, n)
		}
	}
	slices.Sort(noResponse)
	slices.SortFunc(silent, func(a, b *node) int { return strings.Compare(a.Node, b.Node) })
	return noResponse, silent
}

// done tells whether the run had come to its end at the time of a listing.
func (s *state) done(listed time.Time) bool {
	if s.running > 0 || s.pending > 0 || len(s.waiting) > 0 {
		return false
	}
	if (s.exited >= s.minNodes || s.skipped > 0) && (s.known || s.minNodes > 0) {
		return true
	}
	return !listed.Before(s.news.Add(s.quiet()))
}

// quiet is how long nothing new may come before a run with no node running is
// done. Where only silence ends it, that is the wait; where nodes are missing
// from the least number, as long as any node may take to acknowledge.
func (s *state) quiet() time.Duration {
	if !s.known && s.minNodes == 0 {
		return s.wait
	}
	return s.ackTimeout
}

// deadline returns when overdue or done will next say something new if no
// record comes.
func (s *state) deadline() time.Time {
	if s.running == 0 && s.pending == 0 {
		return s.news.Add(s.quiet())
	}
	var next time.Time
	for _, n := range s.nodes {
		var due time.Time
		switch {
		case n.pending:
			due = n.told.Add(s.ackTimeout)
		case n.State == StateRunning:
			due = s.due(n)
		default:
			continue
		}
		if next.IsZero() || due.Before(next) {
			next = due
		}
	}
	return next
}

// missing returns how many exits there are less than there should be.
func (s *state) missing() int { return max(0, s.minNodes-s.exited) }

// results returns what became of each node, by name.
func (s *state) results() []NodeResult {
	results := make([]NodeResult, 0, len(s.nodes))
	for _, n := range s.nodes {
		if n.Err == nil && (n.State != StateExited || n.ExitCode != 0) {
			n.Err = &NodeError{Node: n.Node, State: n.State, ExitCode: n.ExitCode, Err: n.why}
		}
		results = append(results, n.NodeResult)
	}
	slices.SortFunc(results, func(a, b NodeResult) int { return strings.Compare(a.Node, b.Node) })
	return results
}
