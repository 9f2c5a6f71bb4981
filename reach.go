package consulexec

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec/internal/consul"
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

	// maxLookedUp is how many silent nodes are looked up by name. If there are
	// more, the run asks which agents have failed, and not which are gone from the
	// catalog.
	maxLookedUp = 32
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
	return later(n.seen.Add(s.agentWait()), s.reach.at.Add(min(s.wait, defaultWait)))
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

// lookUp returns the nodes that are looked up because they had been silent at the
// time of a listing, sorted by name.
func (s *state) lookUp(listed, now time.Time) []string {
	if !s.mayLookUp() {
		return nil
	}
	var names []string
	for name, n := range s.nodes {
		if n.State == StateRunning && !listed.Before(s.lookUpDue(n)) {
			names = append(names, name)
		}
	}
	if names != nil {
		s.reach.underWay, s.reach.at = true, now
		slices.Sort(names)
	}
	return names
}

// A sighting is what the catalog says of silent nodes.
type sighting struct {
	failed []string // whose agents gossip can't reach
	gone   []string // that are not in the catalog
	err    error
}

// sighted records what the catalog says of silent nodes. If it could not be
// asked, what it has said before may be out of date.
func (s *state) sighted(found sighting) {
	s.reach.underWay = false
	s.reach.off = errors.Is(found.err, ErrPermissionDenied)
	for _, n := range s.nodes {
		n.unreachable = nil
	}
	unreachable := func(name string, reason error) {
		if n := s.nodes[name]; n != nil {
			n.unreachable, n.wasUnreachable = reason, true
		}
	}
	for _, name := range found.failed {
		unreachable(name, errCritical)
	}
	for _, name := range found.gone {
		if n := s.nodes[name]; s.reach.listed && n.expected {
			unreachable(name, errGone)
		}
	}
	for _, n := range s.nodes {
		if n.wasUnreachable && n.unreachable == nil {
			s.isBack(n)
		}
	}
}

// lookUp looks silent nodes up on a goroutine of its own, which sends what it
// finds to found.
func (r *run) lookUp(names []string, found chan<- sighting) {
	r.tasks.Go(func() {
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

// look finds out which of these nodes have failed, or are gone.
func (c catalog) look(ctx context.Context, names []string) (found sighting) {
	path, filter := "/v1/health/state/critical", isSerfHealth
	names, expression := anyOf(names)
	if len(names) <= maxLookedUp {
		path, filter = "/v1/health/state/any", fmt.Sprintf("%s and (%s)", isSerfHealth, expression)
	}
	var checks []struct{ Node, Status string }
	op := consul.Operation{Doing: "look up silent nodes", Need: needNodes}
	found.err = c.Do(ctx, op, func(ctx context.Context) error {
		q := c.Query(ctx)
		q.Filter = filter
		meta, err := c.API.Raw().Query(path, &checks, q)
		if err == nil {
			err = consul.CheckAnswer(meta, len(checks) == 0)
		}
		if err == nil && (meta.ResultsFilteredByACLs || len(names) > maxLookedUp) {
			names = nil // it is not known what the token hides
		}
		return err
	})
	if found.err != nil {
		return found
	}
	known := make(map[string]bool)
	for _, check := range checks {
		known[check.Node] = true
		if check.Status == api.HealthCritical {
			found.failed = append(found.failed, check.Node)
		}
	}
	for _, name := range names {
		if !known[name] {
			found.gone = append(found.gone, name)
		}
	}
	return found
}

// anyOf returns an expression for the nodes with these names in Consul's filter
// language, and the names that are in it: the language can't express all.
func anyOf(names []string) (expressible []string, expression string) {
	var parts []string
	for _, name := range names {
		quoted := strconv.Quote(name)
		if quoted != `"`+name+`"` {
			if !strconv.CanBackquote(name) {
				continue
			}
			quoted = "`" + name + "`"
		}
		expressible = append(expressible, name)
		parts = append(parts, "Node == "+quoted)
	}
	return expressible, strings.Join(parts, " or ")
}
