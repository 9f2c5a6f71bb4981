package consulexec

import (
	"context"
	"errors"
	"net/url"
	"path"
	"slices"
	"time"

	"github.com/hashicorp/consul/api"
)

// reach is what a run knows about looking up silent nodes in the catalog, which
// has what gossip reports of their agents.
type reach struct {
	listed   bool      // the catalog had all expected nodes
	at       time.Time // when they were looked up last
	underWay bool
	off      bool // the token may not read the catalog
}

// If gossip reports that an agent has failed, its node is lost after one
// heartbeat interval plus agentGrace, in case gossip is wrong. maxAgentWait
// bounds that interval.
const (
	maxAgentWait = 10 * time.Second
	agentGrace   = time.Second

	// maxLookedUp is how many silent nodes are looked up one by one, to see whether
	// they are gone from the catalog. If there are more, the run only sees which
	// have failed.
	maxLookedUp = 8
)

var (
	errCritical = errors.New("serfHealth is critical")
	errGone     = errors.New("the catalog has no such agent any more")
)

// agentWait is how long a running node may be silent if gossip does not reach its
// agent.
func (s *state) agentWait() time.Duration { return min(s.wait, maxAgentWait) + agentGrace }

// mayLookUp reports whether silent nodes are looked up when that is due.
func (s *state) mayLookUp() bool { return !s.reach.underWay && !s.reach.off }

// lookUpDue returns when a running node is looked up if it stays silent.
func (s *state) lookUpDue(n *node) time.Time {
	return later(n.seen.Add(s.agentWait()), s.reach.at.Add(min(s.wait, maxAgentWait)))
}

// nextLookUp returns when the first running node is looked up if it stays silent,
// or zero if none is.
func (s *state) nextLookUp() (next time.Time) {
	if !s.mayLookUp() {
		return next
	}
	for _, n := range s.nodes {
		if n.State != StateRunning {
			continue
		}
		if due := s.lookUpDue(n); next.IsZero() || due.Before(next) {
			next = due
		}
	}
	return next
}

// lookUp reports whether silent nodes are looked up now, as some had been silent
// at the time of a listing. It returns those that are looked up one by one, sorted
// by name: if too many are silent, those that were gone, as they may be back.
func (s *state) lookUp(listed, now time.Time) (names []string, due bool) {
	if !s.mayLookUp() {
		return nil, false
	}
	for name, n := range s.nodes {
		if n.State == StateRunning && !listed.Before(s.lookUpDue(n)) {
			names = append(names, name)
		}
	}
	if names == nil {
		return nil, false
	}
	s.reach.underWay, s.reach.at = true, now
	if len(names) > maxLookedUp {
		names = slices.DeleteFunc(names, func(name string) bool { return s.nodes[name].unreachable != errGone })
	}
	slices.Sort(names)
	return names[:min(len(names), maxLookedUp)], true
}

// A sighting is what the catalog says of agents.
type sighting struct {
	failed []string        // that gossip can't reach
	known  map[string]bool // nodes that were looked up: whether the catalog has their agent
	err    error
}

// sighted records what the catalog says. If it could not be asked, what it has
// said before may be out of date.
func (s *state) sighted(found sighting) {
	s.stir()
	s.reach.underWay = false
	s.reach.off = errors.Is(found.err, ErrPermissionDenied)
	for _, n := range s.nodes {
		known, lookedUp := found.known[n.Node]
		if lookedUp && !known && s.reach.listed && n.expected {
			n.unreachable, n.wasUnreachable = errGone, true
		} else if n.unreachable != errGone || lookedUp || found.err != nil {
			n.unreachable = nil
		}
	}
	for _, name := range found.failed {
		if n := s.nodes[name]; n != nil {
			n.unreachable, n.wasUnreachable = errCritical, true
		}
	}
	for _, n := range s.nodes {
		if n.wasUnreachable && n.unreachable == nil {
			s.isBack(n)
		}
	}
}

// lookUp looks silent nodes up on a goroutine of its own.
func (r *run) lookUp(names []string) {
	found := r.found
	r.tasks.Go(func() {
		// If runs may not hold a connection, this takes a turn as a listing does.
		if _, err := r.consul.Pool.MayHold(r.ctx); err != nil {
			return
		}
		sighting := catalog{Client: r.consul}.look(r.ctx, names)
		select {
		case found <- sighting:
		case <-r.ctx.Done():
		}
	})
}

// look finds out which agents have failed, and which of these nodes are gone.
func (c catalog) look(ctx context.Context, names []string) (found sighting) {
	const doing = "look up silent nodes"
	var checks []struct{ Node string }
	if _, found.err = c.list(ctx, doing, needNodes, "/v1/health/state/critical", isSerfHealth, &checks); found.err != nil {
		return found
	}
	for _, check := range checks {
		found.failed = append(found.failed, check.Node)
	}
	names = slices.DeleteFunc(names, func(name string) bool { return slices.Contains(found.failed, name) || !fitsPath(name) })
	found.known = make(map[string]bool)
	for _, name := range names {
		var meta *api.QueryMeta
		if meta, found.err = c.list(ctx, doing, needNodes, "/v1/health/node/"+name, isSerfHealth, &checks); found.err != nil {
			return found
		}
		if known := len(checks) > 0; known || !meta.ResultsFilteredByACLs {
			found.known[name] = known
		}
	}
	return found
}

// fitsPath reports whether a node's name stands for itself in a request's path.
func fitsPath(name string) bool {
	return url.PathEscape(name) == name && path.Clean("/"+name) == "/"+name
}
