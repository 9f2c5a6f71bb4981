package consulexec

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"time"

	"github.com/consulexec/consulexec/internal/runner"
)

// recovery is what a run with WithRecovery knows of a node beyond the rest. A
// running node in doubt is asked: a further job prints what the runner has kept
// of its output, waits for the status and exits with it.
type recovery struct {
	doubt       error     // why it has to be asked, or nil
	unsure      bool      // it counts as running, but nobody knows whether it took the job
	askDispatch string    // that asked it last
	askQueued   bool      // the event of that dispatch has not gone out yet
	asked       bool      // that event went out, and the node has not answered
	asks        int       // how often it was asked since its last sign of life
	askedAt     time.Time // when it was asked last
	askPause    time.Duration
	answeredAt  time.Time // when it took a job that asks it last
	incomplete  bool      // a full disk cost some of its output

	wasUnreachable bool // gossip did not reach its agent since its last sign of life
}

// A stream is the output of a node as one dispatch brings it: all of it by the
// node's own dispatch, and the part from some byte on by one that asks.
type stream struct {
	dispatch string
	next     int64 // the position of its next byte in the node's output
	notes    noteFilter
	ask      bool
}

const (
	// A node that does not answer is asked again after askPause at first, and
	// later after maxAskPause.
	askPause    = 5 * time.Second
	maxAskPause = 15 * time.Second

	// keepMargin is how long a node keeps output and status beyond the time for
	// which it may be out of reach and the lost timeout.
	keepMargin = time.Minute
)

// noteOrder has the notes of the runner in the order of state.notes. The job that
// runs the command writes one of the first startNotes at most; what looks like
// another one is the command's output.
var noteOrder = []runner.Note{
	runner.NoteTimedOut, runner.NoteEnded, runner.NoteNoTrace, runner.NoteKilled, runner.NoteIncomplete, runner.NoteIncompleteTimedOut,
}

const startNotes = 2

var (
	errGaveUp     = errors.New("its agent gave up reporting")
	errMissing    = errors.New("output is missing in what it wrote")
	errCameBack   = errors.New("its agent came back")
	errNoTrace    = errors.New("acknowledged the job, but has no trace of the run")
	errKilled     = errors.New("the shell program that ran the command was killed")
	errIncomplete = errors.New("output may be missing at the end: the node's disk was full")
)

// newStream returns what a node's own dispatch brings of its output.
func (s *state) newStream(dispatch string) *stream {
	return &stream{dispatch: dispatch, notes: noteFilter{notes: s.notes[:min(len(s.notes), startNotes)]}}
}

// newAnswer returns what a dispatch that asks brings of it, from a byte on.
func (s *state) newAnswer(dispatch string, from int64) *stream {
	return &stream{dispatch: dispatch, next: from, notes: noteFilter{notes: s.notes}, ask: true}
}

// stream returns a running node and what a dispatch brings of its output, or nil
// if that does not count.
func (s *state) stream(name, dispatch string) (*node, *stream) {
	n := s.nodes[name]
	if n == nil || n.State != StateRunning {
		return n, nil
	}
	for _, from := range n.streams {
		if from.dispatch == dispatch {
			return n, from
		}
	}
	return n, nil
}

// deliver returns the part of a stream's next bytes that no other stream has
// brought, within the limit.
func (s *state) deliver(n *node, from *stream, output []byte) []byte {
	known := min(int64(len(output)), max(0, n.delivered-from.next))
	from.next += int64(len(output))
	n.delivered = max(n.delivered, from.next)
	return s.keep(n, output[known:])
}

// lives records a sign of life of a running node.
func (s *state) lives(n *node, now time.Time) {
	s.lastNews, n.seen = now, now
	n.asks, n.askPause = 0, 0
	n.unreachable, n.wasUnreachable = nil, false
}

// drop records that a stream brings nothing more that counts, and that the node
// has to be asked.
func (s *state) drop(name, dispatch string, reason error) {
	n, from := s.stream(name, dispatch)
	n.streams = slices.DeleteFunc(n.streams, func(other *stream) bool { return other == from })
	s.suspect(n, reason)
}

// suspect records why a running node has to be asked.
func (s *state) suspect(n *node, reason error) {
	if n.doubt == nil {
		n.doubt = reason
	}
}

// isBack records that the agent of a node has come back.
func (s *state) isBack(n *node) {
	n.wasUnreachable = false
	if s.recovery > 0 && n.State == StateRunning {
		s.suspect(n, errCameBack)
		n.askPause, n.askedAt = 0, time.Time{} // now
	}
}

// suspectSilent suspects the nodes whose agents seem to be alive and that had
// been silent for too long at the time of a listing.
func (s *state) suspectSilent(listed time.Time) {
	for _, n := range s.nodes {
		if silence := listed.Sub(later(n.seen, n.answeredAt)); n.State == StateRunning && n.unreachable == nil && silence >= s.lostTimeout {
			s.suspect(n, fmt.Errorf("silent for %v", silence.Round(time.Millisecond)))
		}
	}
}

// toBeAsked reports whether a running node is asked before anything else, however
// long it was out of reach: once at least if its agent seems to be alive.
func (n *node) toBeAsked() bool {
	return n.unreachable == nil && (n.askQueued || n.doubt != nil && n.asks == 0)
}

// givenUpAt returns when a node that is not to be asked first will have been out
// of reach for too long.
func (s *state) givenUpAt(n *node) time.Time {
	at := n.seen.Add(max(s.recovery, s.lostTimeout))
	if n.unreachable != nil {
		return at
	}
	if n.doubt == nil {
		at = later(at, n.answeredAt.Add(s.lostTimeout))
	}
	if n.asked {
		at = later(at, n.askedAt.Add(s.ackTimeout))
	}
	return at
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// askDue returns when a node in doubt may be asked.
func (n *node) askDue() time.Time { return n.askedAt.Add(n.askPause) }

// mayAsk reports whether a running node is asked when it is due.
func (s *state) mayAsk(n *node) bool {
	inTime := n.asks == 0 || n.askDue().Before(n.seen.Add(s.recovery))
	return n.doubt != nil && n.unreachable == nil && !n.askQueued && inTime
}

// runningDue returns when to look at a running node again if nothing comes.
func (s *state) runningDue(n *node) time.Time {
	due := s.lostAt(n)
	if s.recovery == 0 || n.unreachable != nil {
		return due
	}
	var next time.Time
	switch {
	case n.doubt == nil:
		next = later(n.seen, n.answeredAt).Add(s.lostTimeout)
	case s.mayAsk(n):
		next = n.askDue()
	default:
		return due
	}
	if next.Before(due) {
		due = next
	}
	return due
}

// toAsk returns the nodes that are asked now, in groups that lack about as much
// output.
func (s *state) toAsk(now time.Time) [][]*node {
	if s.recovery == 0 {
		return nil
	}
	groups := make(map[int][]*node)
	for _, n := range s.nodes {
		if n.State == StateRunning && s.mayAsk(n) && !now.Before(n.askDue()) {
			const unit = 1 << 16
			size := bits.Len64(uint64(n.delivered / unit))
			groups[size] = append(groups[size], n)
		}
	}
	var sorted [][]*node
	for _, group := range groups {
		slices.SortFunc(group, func(a, b *node) int { return strings.Compare(a.Node, b.Node) })
		sorted = append(sorted, group)
	}
	return sorted
}

// lacks returns the smallest byte that one of the nodes lacks.
func lacks(nodes []*node) int64 {
	from := nodes[0].delivered
	for _, n := range nodes {
		from = min(from, n.delivered)
	}
	return from
}

// enqueueAsks adds events that ask nodes for their output from a byte on.
func (s *state) enqueueAsks(firings []firing, from int64) {
	for _, f := range firings {
		for _, name := range f.names {
			n := s.nodes[name]
			s.leaveAsk(n)
			n.askDispatch, n.askQueued = f.dispatch, true
			s.open[f.dispatch]++
			n.streams = append(n.streams, s.newAnswer(f.dispatch, from))
		}
	}
	s.queue = append(s.queue, firings...)
}

// asked records that an event that asks nodes went out.
func (s *state) asked(names []string, at time.Time) {
	for _, name := range names {
		n := s.nodes[name]
		if !n.askQueued {
			continue // it has ended
		}
		n.askQueued, n.asked, n.askedAt = false, true, at
		n.asks++
		n.askPause = min(n.askPause+askPause, maxAskPause)
	}
}

// leaveAsk records that a node does not answer the dispatch that asked it last,
// or that it has.
func (s *state) leaveAsk(n *node) {
	if n.askQueued || n.asked {
		n.askQueued, n.asked = false, false
		s.leaveDispatch(n.askDispatch)
	}
}

// answers records that a node has taken a job that asks it. ok is false if the
// dispatch has not asked it.
func (s *state) answers(name, dispatch string, now time.Time) (ok bool) {
	n, from := s.stream(name, dispatch)
	if from == nil || !from.ask {
		return false
	}
	// It is no sign of life of the command: that is what the job says. So a node
	// that can't say anything is not asked for ever.
	s.lastNews, n.answeredAt, n.doubt, n.unreachable = now, now, nil, nil
	if n.askDispatch == dispatch {
		s.leaveAsk(n)
	}
	n.Recovered++
	return true
}

// tookJob records that a node of which nobody was sure has taken the job. It
// reports whether that is news.
func (s *state) tookJob(name string, now time.Time) bool {
	n := s.nodes[name]
	if !n.unsure {
		return false
	}
	n.unsure, n.Acked = false, now
	s.unsure--
	return true
}

// end ends a stream. It returns the output that was held back and is the
// command's, and the note at its end, if there is one.
func (s *state) end(name, dispatch string) (rest []byte, note runner.Note, ok bool) {
	n, from := s.stream(name, dispatch)
	if from == nil {
		return nil, "", false
	}
	rest, i := from.notes.end()
	if i >= 0 {
		note = noteOrder[i]
	}
	return s.deliver(n, from, rest), note, true
}

// isCertain reports whether the end of a stream with this status and note is
// that of the command, and all output before it has come. With recovery only the
// note says so. Without one the agent may have given up, or the status is that of
// a second copy of the job. A runner that can't begin writes none.
func (s *state) isCertain(name, dispatch string, code int, note runner.Note) bool {
	_, from := s.stream(name, dispatch)
	return s.recovery == 0 || note != "" || !from.ask && code == runner.NotRun
}

// agentGaveUp is the status that an agent reports if it could not write output.
const agentGaveUp = 255

// noTrace records that a node has no trace of the run, so that it can't run the
// command any more. It reports whether the node had not acknowledged.
func (s *state) noTrace(name string) bool {
	n := s.nodes[name]
	if !n.unsure {
		return false
	}
	s.undo(n)
	n.State, n.reason, n.Recovered = StateNoResponse, nil, 0
	s.passOver()
	return true
}

// undo records that a node of which nobody is sure does not count as running
// any more.
func (s *state) undo(n *node) {
	s.leaveAsk(n)
	n.unsure, n.doubt, n.streams = false, nil, nil
	s.unsure--
	s.running--
	s.taken--
}

// giveUpUnsure records that nobody will know whether a node took the job.
func (s *state) giveUpUnsure(n *node, reason error, now time.Time) {
	s.undo(n)
	s.mayHaveTaken(n.Node, reason, now)
}

// settleUnsure does that for all such nodes, when the run ends early.
func (s *state) settleUnsure(reason error, now time.Time) {
	for _, n := range s.nodes {
		if n.unsure {
			s.giveUpUnsure(n, reason, now)
		}
	}
}

// newSession records that the session has ended and a new one has been opened.
// Nodes that may have started are asked. The others get the job under the new
// session: under the old one they can't start any more.
func (s *state) newSession(reason error, now time.Time) {
	var again []string
	for name, n := range s.nodes {
		switch {
		case n.State == StateRunning:
			n.askQueued, n.asked = false, false
		case n.unacked:
			n.unacked = false
			s.unacked--
			n.State, n.unsure, n.seen = StateRunning, true, now
			s.unsure++
			s.running++
			s.taken++
		case n.queued:
			n.queued = false
			s.queued--
			n.State, n.round, n.dispatchedAt = StateSkipped, 0, time.Time{}
			again = append(again, name)
			continue
		default:
			continue
		}
		n.doubt, n.streams = reason, nil
		n.asks, n.askPause, n.askedAt = 0, 0, time.Time{} // now
	}
	slices.Sort(again)
	s.waiting = append(again, s.waiting...)
	s.queue, s.ended = nil, nil
	s.reach.underWay = false
	s.stir()
	clear(s.open)
	clear(s.repeats)
}

// unaskable records that no event can carry a node's name.
func (s *state) unaskable(n *node, now time.Time) {
	n.asks, n.askPause, n.askedAt = n.asks+1, s.recovery, now
}
