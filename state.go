package consulexec

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/consulexec/consulexec/internal/runner"
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
	timeout     time.Duration // of the command; none if 0
	notes       [][]byte      // that the runner may end the output with, in noteOrder; nil if it writes none
	recovery    time.Duration // how long a node may be out of reach; none if 0
	maxOutput   int64         // how much output of a node counts; no limit if negative
	agentShell  bool          // whether the agent's own shell runs the command
	concurrency int           // how many nodes may have the job at once; no limit if 0
	percent     int           // the same, in percent of the nodes
	maxFailures int           // how many failures stop the dispatching; no limit if 0
	limit       int           // how many nodes take the job; no limit if 0

	nodes        map[string]*node
	aliases      map[string]string // how agents spell names of nodes, and how the catalog does
	known        bool              // whether the expected nodes are known
	reach        reach
	quietUntil   time.Time      // nothing is due before, or zero if that is not known
	waiting      []string       // expected nodes that are in no dispatch yet, in order
	queue        []firing       // events that have not gone out yet, in order
	open         map[string]int // the nodes of each dispatch that may take the job from it
	ended        []string       // dispatches that have none any more
	repeats      map[repeat]int // how many events have repeated others
	skipped      int            // expected nodes that won't get the job because of failures
	failedAtStop int            // how many failures that were
	dispatchErr  error          // why an event may not have gone out, or nil
	lastNews     time.Time      // when the last record came or an event went out

	queued   int // nodes whose event has not gone out yet
	unacked  int // nodes that may still acknowledge
	taken    int // nodes that took the job
	unsure   int // nodes that count as taken and running, but of which nobody is sure
	running  int
	exited   int
	lost     int
	failures int // nodes that exited with another status than 0, are lost, or did not respond
}

// node is what a run knows of one node.
type node struct {
	NodeResult
	dispatch     string       // the last one that it is in
	first        string       // the first one that it was in
	round        int          // how often it was due to be dispatched to again
	queued       bool         // its event has not gone out yet
	unfenceable  bool         // its ack has no key of its own
	unacked      bool         // its event went out, and it may still acknowledge
	expected     bool         // it is one of the nodes that should answer
	twice        bool         // it seems to have run the command twice
	turnedAway   bool         // the runner turned a second copy of the job away
	dispatchedAt time.Time    // when its ack time began, or zero
	reason       error        // what is known of its outcome besides the state, or nil
	nologin      nologinMatch // whether its output is nologin's
	seen         time.Time    // its last sign of life
	unreachable  error        // why gossip does not reach its agent, or nil
	delivered    int64        // how many bytes of its output have been delivered
	streams      []*stream    // what brings its output: its dispatch, and those that asked it
	recovery
}

// A repeat is a time at which nodes are dispatched to again: those that were
// first in one dispatch, for the same time.
type repeat struct {
	first string
	round int
}

const (
	// repeatRounds is how often a silent node is dispatched to again: after each
	// further fifth of the ack timeout.
	repeatRounds = 2
	repeatParts  = 5

	// minRepeatTimeout is the shortest ack timeout with which that is done.
	minRepeatTimeout = 2 * time.Second

	// maxRepeats bounds the events of each round. Thousands of silent nodes are
	// a matter of configuration, not of bad luck.
	maxRepeats = 10
)

func newState(c *config) *state {
	return &state{
		minNodes:    c.minNodes,
		wait:        c.wait,
		ackTimeout:  c.ackTimeout,
		lostTimeout: c.lostTimeout,
		capture:     c.capture,
		maxOutput:   c.job.MaxOutput,
		agentShell:  c.byAgentShell(),
		timeout:     c.job.Timeout,
		recovery:    c.recovery,
		concurrency: c.concurrency,
		percent:     c.percent,
		maxFailures: c.maxFailures,
		limit:       c.limit,
		nodes:       make(map[string]*node),
		aliases:     make(map[string]string),
		open:        make(map[string]int),
		repeats:     make(map[repeat]int),
	}
}

// expect sets the nodes that should answer, in the order in which they get the
// job.
func (s *state) expect(names []string) {
	s.known = true
	s.waiting = names
	for _, name := range names {
		s.add(name).expected = true
	}
	for _, name := range names {
		below := nodePath(name)
		s.nodes[name].unfenceable = below == "" || below != name && s.nodes[below] != nil
	}
	if s.percent > 0 {
		s.concurrency = max(1, len(names)*s.percent/100)
	}
}

// addAbsent adds a node that should answer and can't.
func (s *state) addAbsent(name string, reason error) {
	n := s.add(name)
	n.State, n.reason = StateNoResponse, reason
	s.passOver()
}

// passOver counts a node that did not take the job. With a limit that is no
// failure: the job goes to the next one.
func (s *state) passOver() {
	if s.limit == 0 {
		s.failures++
	}
}

func (s *state) add(name string) *node {
	n := &node{NodeResult: NodeResult{Node: name, State: StateSkipped, ExitCode: -1}}
	s.nodes[name] = n
	return n
}

// next removes the nodes that get the job now from those that wait, and returns
// them. After too many failures it drops the rest.
func (s *state) next() []string {
	if s.stopped() {
		s.skip()
	}
	// A node that waits may run already, by a stranger's doing.
	s.waiting = slices.DeleteFunc(s.waiting, func(name string) bool { return s.nodes[name].State != StateSkipped })
	n := len(s.waiting)
	if s.concurrency > 0 {
		n = min(n, max(0, s.concurrency-s.running-s.unacked-s.queued))
	}
	if s.limit > 0 {
		n = min(n, max(0, s.limit-s.taken-s.unacked-s.queued))
	}
	if s.enough() {
		s.waiting = nil // they are not needed
	}
	names := s.waiting[:n]
	s.waiting = s.waiting[n:]
	return names
}

// putBack returns nodes of next, which got into no dispatch, to those that wait.
func (s *state) putBack(names []string) { s.waiting = slices.Concat(names, s.waiting) }

// stopped reports whether too many nodes have failed for further dispatches.
func (s *state) stopped() bool { return s.maxFailures > 0 && s.failures >= s.maxFailures }

// enough reports whether as many nodes have taken the job as the limit allows.
func (s *state) enough() bool { return s.limit > 0 && s.taken-s.unsure >= s.limit }

// skip drops the nodes to which nothing was dispatched yet.
func (s *state) skip() {
	dropped := len(s.waiting)
	s.waiting = nil
	s.queue = slices.DeleteFunc(s.queue, func(f firing) bool {
		started := slices.ContainsFunc(f.names, func(name string) bool { return s.nodes[name].State != StateSkipped })
		if started || len(f.names) == 0 {
			return false
		}
		for _, name := range f.names {
			s.leave(s.nodes[name])
		}
		dropped += len(f.names)
		return true
	})
	if dropped > 0 {
		s.skipped += dropped
		s.failedAtStop = s.failures
	}
}

// enqueue adds events, whose nodes are in a new dispatch from now on.
func (s *state) enqueue(firings []firing) {
	for _, f := range firings {
		for _, name := range f.names {
			n := s.nodes[name]
			if s.open[f.dispatch]++; n.dispatchedAt.IsZero() {
				n.first = f.dispatch
			}
			n.dispatch, n.queued = f.dispatch, true
			s.queued++
		}
	}
	s.queue = append(s.queue, firings...)
}

// nextEvent removes the next event from the queue.
func (s *state) nextEvent() firing {
	next := s.queue[0]
	s.queue = s.queue[1:]
	return next
}

// dispatched records that an event for expected nodes went out. A non-nil err
// says why it may not have.
func (s *state) dispatched(f firing, at time.Time, err error) {
	s.lastNews = at
	s.stir()
	if err != nil {
		s.dispatchErr = err
	}
	if f.asks {
		s.asked(f.names, at)
		return
	}
	for _, name := range f.names {
		n := s.nodes[name]
		if !n.queued {
			continue // it runs by a stranger's doing
		}
		n.queued, n.unacked = false, true
		s.queued--
		s.unacked++
		n.State, n.reason = StateNoResponse, err
		// Its ack time goes on as if the event had gone out when it was due.
		n.dispatchedAt = at.Add(-s.repeatAfter(n.round))
	}
}

// repeatAfter returns which part of its ack time a node has had before a round.
func (s *state) repeatAfter(round int) time.Duration {
	return s.ackTimeout / repeatParts * time.Duration(round)
}

// leave records that a node can no longer take the job from its dispatch.
func (s *state) leave(n *node) {
	switch {
	case n.queued:
		n.queued = false
		s.queued--
	case n.unacked:
		n.unacked = false
		s.unacked--
	default:
		return
	}
	s.stirIfIdle()
	s.leaveDispatch(n.dispatch)
}

// leaveDispatch records that a dispatch has one node less that may take the job
// from it.
func (s *state) leaveDispatch(dispatch string) {
	if s.open[dispatch]--; s.open[dispatch] == 0 {
		delete(s.open, dispatch)
		s.ended = append(s.ended, dispatch)
	}
}

// noResponse records that a node has not taken the job and never will.
func (s *state) noResponse(name string) {
	s.leave(s.nodes[name])
	s.passOver()
}

// takeEnded returns the dispatches that have come to their end since the last
// call.
func (s *state) takeEnded() []string {
	ended := s.ended
	s.ended = nil
	return ended
}

// expectedName returns the name of the expected node that an agent's name
// means: they may differ in case, and in keys a name is a clean path. It returns
// other names as they are.
func (s *state) expectedName(name string) string {
	if s.nodes[name] != nil || !s.known {
		return name
	}
	if expected, ok := s.aliases[name]; ok {
		return expected
	}
	for expected, n := range s.nodes {
		if !n.unfenceable && strings.EqualFold(nodePath(expected), name) {
			s.aliases[name] = expected
			return expected
		}
	}
	return name
}

// ack records that a node took the job from a dispatch. It reports whether that
// is news.
func (s *state) ack(name, dispatch string, now time.Time) bool {
	n := s.nodes[name]
	if n == nil {
		n = s.add(name)
	}
	final := n.State == StateNoResponse && !n.queued && !n.unacked
	if final || n.State != StateNoResponse && n.State != StateSkipped {
		return false
	}
	s.leave(n)
	s.lastNews, n.seen, n.Acked = now, now, now
	n.State, n.reason = StateRunning, nil
	n.unreachable, n.wasUnreachable = nil, false
	n.streams = []*stream{s.newStream(dispatch)}
	s.running++
	s.taken++
	if due := now.Add(min(s.lostTimeout, s.agentWait())); due.Before(s.quietUntil) {
		s.quietUntil = due
	}
	return true
}

// output records that a running node sent a chunk, which may be empty. It
// returns the output that is surely the command's and has not been delivered:
// what was held back before, and the chunk's. ok is false if the node is not
// running or the dispatch is not its own.
func (s *state) output(name, dispatch string, chunk []byte, now time.Time) (before, output []byte, ok bool) {
	n, from := s.stream(name, dispatch)
	if from == nil {
		return nil, nil, false
	}
	s.lives(n, now)
	before, output = from.notes.add(chunk)
	return s.deliver(n, from, before), s.deliver(n, from, output), true
}

// keep adds output to a node's result. It returns what is within the limit.
func (s *state) keep(n *node, output []byte) []byte {
	if room := s.maxOutput - n.OutputBytes; s.maxOutput >= 0 && int64(len(output)) > room {
		output, n.Truncated = output[:room], true
	}
	n.OutputBytes += int64(len(output))
	if room := s.capture - len(n.Output); room > 0 {
		n.Output = append(n.Output, output[:min(len(output), room)]...)
	}
	n.nologin.add(output)
	return output
}

// endOutput records that no more output of a node counts. It returns what was
// held back and is the command's.
func (s *state) endOutput(name string) (rest []byte) {
	n := s.nodes[name]
	if n == nil {
		return nil
	}
	for _, from := range n.streams {
		held, _ := from.notes.end()
		rest = append(rest, s.deliver(n, from, held)...)
	}
	return rest
}

// holding returns the nodes whose output is held back in part, sorted by name.
func (s *state) holding() []string {
	var names []string
	for name, n := range s.nodes {
		if slices.ContainsFunc(n.streams, func(from *stream) bool { return len(from.notes.held) > 0 }) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// ranTwice records that a node seems to have run the command twice.
func (s *state) ranTwice(name string) {
	if n := s.nodes[name]; n != nil {
		n.twice, n.reason = true, also(n.reason, errRanTwice)
	}
}

// errRanTwice is the reason of a node whose keys show that its agent got the
// event twice.
var errRanTwice = errors.New("the command may have run twice: what the node wrote was written again")

// turnedAway records that the runner turned a second copy of the job away on a
// node.
func (s *state) turnedAway(name string) {
	if n := s.nodes[name]; n != nil {
		n.turnedAway = true
	}
}

// errTurnedAway is in the reason of a lost node if it has reported only the end
// of a second copy.
var errTurnedAway = errors.New("a second copy of the job was turned away, and the first one has not reported its end")

// also returns a node's reason, which may be nil, with a further one.
func also(reason, further error) error {
	if reason == nil {
		return further
	}
	return fmt.Errorf("%w; %w", reason, further)
}

// exit records that the command ended on a running node, after its output and
// the runner's note, if there was one.
func (s *state) exit(name string, code int, note runner.Note, now time.Time) bool {
	n := s.nodes[name]
	if n == nil || n.State != StateRunning {
		return false
	}
	s.lives(n, now)
	n.Exited = now
	n.State, n.ExitCode = StateExited, code
	s.leaveAsk(n)
	n.streams = nil
	if note == runner.NoteTimedOut || note == runner.NoteIncompleteTimedOut {
		n.TimedOut = true
		n.reason = also(n.reason, fmt.Errorf("%w after %v", ErrTimedOut, s.timeout))
	}
	if note == runner.NoteIncomplete || note == runner.NoteIncompleteTimedOut {
		n.incomplete = true
		n.reason = also(n.reason, errIncomplete)
	}
	s.running--
	s.stirIfIdle()
	s.exited++
	if code != 0 || n.TimedOut {
		s.failures++
	}
	if code != 0 && n.reason == nil {
		n.reason = s.shellHint(n)
	}
	return true
}

// lose gives a running node up. It returns the node's error, or nil if the node
// is not running.
func (s *state) lose(name string, reason error, now time.Time) error {
	n := s.nodes[name]
	if n == nil || n.State != StateRunning {
		return nil
	}
	n.State, n.reason, n.Exited = StateLost, also(n.reason, reason), now
	s.leaveAsk(n)
	n.streams = nil
	s.lost++
	s.running--
	s.stirIfIdle()
	s.failures++
	return s.failure(name)
}

// failure returns why a node that has ended is no success, or nil.
func (s *state) failure(name string) error {
	n := s.nodes[name]
	if n.State == StateExited && n.ExitCode == 0 && !n.TimedOut && !n.twice && !n.incomplete {
		return nil
	}
	return &NodeError{Node: name, State: n.State, ExitCode: n.ExitCode, Err: n.reason}
}

// lostAt returns when a running node will have been silent for too long.
func (s *state) lostAt(n *node) time.Time {
	timeout := s.lostTimeout
	if s.recovery > 0 {
		return s.givenUpAt(n)
	}
	if n.unreachable != nil {
		timeout = min(timeout, s.agentWait())
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
		shift(&n.answeredAt)
	}
}

// overdue returns the nodes that had been silent for too long at the time of a
// listing: those that may be dispatched to again, those whose ack time is over,
// and those that run the command.
func (s *state) overdue(listed time.Time) (again, final, silent []*node) {
	for _, n := range s.nodes {
		switch {
		case n.unacked && listed.Before(s.unackedUntil(n)):
		case n.unacked && n.round < s.rounds():
			again = append(again, n)
		case n.unacked:
			final = append(final, n)
		case n.State == StateRunning && !n.toBeAsked() && !listed.Before(s.lostAt(n)):
			silent = append(silent, n)
		}
	}
	for _, nodes := range [][]*node{again, final, silent} {
		slices.SortFunc(nodes, func(a, b *node) int { return strings.Compare(a.Node, b.Node) })
	}
	return again, final, silent
}

// repeat chooses the silent nodes that are dispatched to again now, and counts
// the round for all of them. plan returns the events that nodes need. The others
// stay in their dispatch.
func (s *state) repeat(silent []*node, plan func(names []string) [][]string) (chosen []string) {
	groups := make(map[repeat][]string)
	for _, n := range silent {
		if n.round++; n.unfenceable {
			continue
		}
		of := repeat{n.first, n.round}
		groups[of] = append(groups[of], n.Node)
	}
	for of, names := range groups {
		for _, group := range plan(names) {
			if s.repeats[of] == maxRepeats {
				break
			}
			s.repeats[of]++
			chosen = append(chosen, group...)
		}
	}
	return chosen
}

// leaveAll records that nodes can no longer take the job from their dispatch. It
// returns the nodes.
func (s *state) leaveAll(names []string) []string {
	for _, name := range names {
		s.leave(s.nodes[name])
	}
	return names
}

// byDispatch groups nodes by the dispatch that they are in, but for those that
// can't be fenced.
func (s *state) byDispatch(names []string) (groups map[string][]string, unfenceable []string) {
	groups = make(map[string][]string)
	for _, name := range names {
		if n := s.nodes[name]; n.unfenceable {
			unfenceable = append(unfenceable, name)
		} else {
			groups[n.dispatch] = append(groups[n.dispatch], name)
		}
	}
	return groups, unfenceable
}

// silent returns the nodes that may still acknowledge, sorted by name.
func (s *state) silent() []string {
	var names []string
	for name, n := range s.nodes {
		if n.unacked {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// unackedOf returns those of the nodes that may still acknowledge.
func (s *state) unackedOf(names []string) []string {
	var unacked []string
	for _, name := range names {
		if s.nodes[name].unacked {
			unacked = append(unacked, name)
		}
	}
	return unacked
}

// mayHaveTaken records that nobody knows whether a silent node has taken the
// job. It counts as if it had: no other node may take its place.
func (s *state) mayHaveTaken(name string, reason error, now time.Time) {
	n := s.nodes[name]
	s.leave(n)
	n.State, n.reason, n.Exited = StateLost, fmt.Errorf("%w: %w", errMayHaveTaken, reason), now
	s.taken++
	s.lost++
	s.failures++
}

// settle records what became of silent nodes when the run ended early. Those
// that are fenced did not take the job. The others did, unless err says why that
// is not known.
func (s *state) settle(silent, fenced []string, err error, now time.Time) {
	for _, name := range fenced {
		s.leave(s.nodes[name])
	}
	for _, name := range silent {
		n := s.nodes[name]
		switch {
		case !n.unacked:
			continue // it is fenced
		case err == nil:
			n.State, n.reason, n.Acked = StateRunning, nil, now
			s.taken++
			s.leave(n)
		default:
			s.mayHaveTaken(name, err, now)
		}
	}
}

// namesOf returns the names of nodes.
func namesOf(nodes []*node) []string {
	var names []string
	for _, n := range nodes {
		names = append(names, n.Node)
	}
	return names
}

// rounds returns how often a silent node is dispatched to again.
func (s *state) rounds() int {
	if s.ackTimeout < minRepeatTimeout || s.stopped() {
		return 0
	}
	return repeatRounds
}

// unackedUntil returns until when nothing is done about a silent node.
func (s *state) unackedUntil(n *node) time.Time {
	if n.round < s.rounds() {
		return n.dispatchedAt.Add(s.repeatAfter(n.round + 1))
	}
	return n.dispatchedAt.Add(s.ackTimeout)
}

// done reports whether the run had come to its end at the time of a listing.
func (s *state) done(listed time.Time) bool {
	if s.running > 0 || s.unacked > 0 || s.eventWaits() || len(s.waiting) > 0 {
		return false
	}
	if (s.exited >= s.minNodes || s.skipped > 0) && (s.known || s.minNodes > 0) {
		return true
	}
	return !listed.Before(s.lastNews.Add(s.silenceLimit()))
}

// eventWaits reports whether an event that nodes need has not gone out yet.
func (s *state) eventWaits() bool { return s.queued > 0 || !s.known && len(s.queue) > 0 }

// silenceLimit returns how long a run without a running node waits for news. If
// only silence ends the run, it is the wait. If exits are missing from the
// minimum, it is as long as any node may take to acknowledge.
func (s *state) silenceLimit() time.Duration {
	if !s.known && s.minNodes == 0 {
		return s.wait
	}
	return s.ackTimeout
}

// deadline returns when overdue or done will next change if no record comes, or
// zero if that depends on the queue.
func (s *state) deadline() time.Time {
	if s.running == 0 && s.unacked == 0 && !s.eventWaits() {
		return s.lastNews.Add(s.silenceLimit())
	}
	var next time.Time
	for _, n := range s.nodes {
		var due time.Time
		switch {
		case n.unacked:
			due = s.unackedUntil(n)
		case n.State == StateRunning && (n.unreachable != nil || !n.askQueued):
			due = s.runningDue(n)
		default:
			continue
		}
		if next.IsZero() || due.Before(next) {
			next = due
		}
	}
	return next
}

// due returns when to look at the nodes again if no record comes, or zero if that
// depends on the queue: at the deadline, or when silent nodes are looked up. It may
// be too early, as it looks at all nodes only when that time has come.
func (s *state) due(now time.Time) time.Time {
	if s.recovery > 0 || !now.Before(s.quietUntil) {
		s.quietUntil = s.deadline()
		if lookUp := s.nextLookUp(); s.quietUntil.IsZero() || !lookUp.IsZero() && lookUp.Before(s.quietUntil) {
			s.quietUntil = lookUp
		}
	}
	return s.quietUntil
}

// isQuiet reports whether no node can have been silent for too long at the time of
// a listing.
func (s *state) isQuiet(listed time.Time) bool { return s.recovery == 0 && listed.Before(s.quietUntil) }

// stir records that something may be due earlier than was known.
func (s *state) stir() { s.quietUntil = time.Time{} }

// stirIfIdle does that if only silence can end the run from now on.
func (s *state) stirIfIdle() {
	if s.running == 0 && s.unacked == 0 {
		s.stir()
	}
}

// sent reports whether an event went out, or may have.
func (s *state) sent() bool { return !s.lastNews.IsZero() }

// mayRun returns the nodes on which the command may still run, by name: those
// that took the job, and those that may have.
func (s *state) mayRun() (acked, unacked []string) {
	for name, n := range s.nodes {
		switch {
		case n.State == StateRunning, n.State == StateLost && !n.Acked.IsZero():
			acked = append(acked, name)
		case n.State == StateLost, n.unacked:
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
	if s.limit > 0 && !s.enough() {
		errs = append(errs, fmt.Errorf("consulexec: %w: %d took the job: WithLimit(%d)", ErrTooFewNodes, s.taken, s.limit))
	}
	if missing := s.minNodes - s.exited; missing > 0 {
		errs = append(errs, fmt.Errorf("consulexec: %w: %d exited and %d are missing: WithMinNodes(%d)", ErrTooFewNodes, s.exited, missing, s.minNodes))
	}
	return errors.Join(errs...)
}

// results returns the outcome of each node, sorted by name.
func (s *state) results() []NodeResult {
	results := make([]NodeResult, 0, len(s.nodes))
	for name, n := range s.nodes {
		s.endOutput(name) // if a callback panicked
		passedOver := s.enough() && (n.State == StateNoResponse || n.State == StateSkipped)
		if n.Err == nil && !passedOver {
			n.Err = s.failure(name)
		}
		results = append(results, n.NodeResult)
	}
	slices.SortFunc(results, func(a, b NodeResult) int { return strings.Compare(a.Node, b.Node) })
	return results
}
