package consulexec

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/consulexec/consulexec/internal/consul"
)

// giveUp acts on the nodes that had been silent for too long at the time of a
// listing.
func (r *run) giveUp(listed time.Time) error {
	if r.recovery > 0 {
		r.state.suspectSilent(listed)
	}
	again, final, silent := r.state.overdue(listed)
	if err := r.repeat(again); err != nil {
		return err
	}
	if err := r.end(namesOf(final)); err != nil {
		return err
	}
	for _, n := range silent {
		reason := fmt.Errorf("silent for %v", listed.Sub(n.seen).Round(100*time.Millisecond))
		if n.unreachable != nil {
			reason = fmt.Errorf("%w, and %w", reason, n.unreachable)
		}
		if n.turnedAway {
			reason = also(reason, errTurnedAway)
		}
		r.giveUpNode(n.Node, reason)
	}
	return nil
}

// giveUpNode gives a node up that counts as running.
func (r *run) giveUpNode(name string, reason error) {
	if n := r.state.nodes[name]; n.unsure {
		r.state.giveUpUnsure(n, reason, time.Now())
	} else {
		r.lose(name, reason)
	}
}

// repeat dispatches to silent nodes again, as far as the bound on events allows.
func (r *run) repeat(silent []*node) error {
	names := r.state.repeat(silent, r.dispatcher.planAgain)
	if len(names) == 0 {
		return nil
	}
	return r.dispatchAgain(names)
}

// dispatchAgain fences silent nodes and queues a further dispatch to them.
func (r *run) dispatchAgain(names []string) error {
	fenced, _, err := r.fence(r.ctx, names)
	if err != nil || len(fenced) == 0 {
		return err
	}
	r.log.Debug("dispatching again", "nodes", fenced)
	dispatch, err := r.dispatcher.open(r.ctx)
	if err != nil {
		return err // they stay in their dispatch
	}
	r.state.enqueue(r.dispatcher.plan(dispatch, r.state.leaveAll(fenced)))
	return nil
}

// repeatUncertain dispatches to nodes again whose event may not have gone out,
// after a pause for those that got it. The fence waits until Consul can be
// asked. After the patience for uncertain events the nodes are given up, or the
// run if no node has acknowledged.
func (r *run) repeatUncertain() error {
	now := time.Now()
	if len(r.uncertain.names) == 0 || now.Before(r.uncertain.notBefore) {
		return nil
	}
	names := r.state.unackedOf(r.uncertain.names)
	r.uncertain.names = nil
	if r.uncertain.isOver(now) && r.state.taken == 0 {
		return r.uncertain.err
	}
	again := slices.Concat(r.dispatcher.planAgain(names)...)
	if r.uncertain.isOver(now) || r.state.stopped() {
		again = nil
	}
	rest := slices.DeleteFunc(names, func(name string) bool { return slices.Contains(again, name) })
	if err := r.end(rest); err != nil || len(again) == 0 {
		return err
	}
	if consul.WasRefused(r.uncertain.err) {
		defer func() { r.uncertain.notBefore = time.Now().Add(refusedPause) }()
	}
	return r.dispatchAgain(again)
}

// end fences silent nodes and reports those that have not taken the job. Those
// that can't be fenced are lost. The next listing has the acks of the others.
func (r *run) end(names []string) error {
	if len(names) == 0 {
		return nil
	}
	fenced, foreign, err := r.fence(r.ctx, names)
	for _, name := range fenced {
		r.state.noResponse(name)
		r.reportNoResponse(name)
	}
	for _, name := range foreign {
		r.state.mayHaveTaken(name, errUnfenced, time.Now())
		r.log.Warn("lost", "node", name, "error", errUnfenced)
	}
	if len(fenced)+len(foreign) < len(names) {
		r.reader.Refresh()
	}
	return err
}

// fence makes sure that the nodes with these names never take the job from the
// dispatches that they are in, unless they have already. It returns those that
// have not, and those of which nobody knows, as their acks can't be locked.
func (r *run) fence(ctx context.Context, names []string) (fenced, foreign []string, err error) {
	if r.session.fences.Load() == nil {
		mayHaveOrphans, err := r.session.createFences(ctx, r.sessionName())
		r.mayHaveOrphans = r.mayHaveOrphans || mayHaveOrphans
		r.awaitOrphan = r.awaitOrphan || mayHaveOrphans && err != nil
		if err != nil {
			return nil, nil, err
		}
		r.reader.SetFences(r.session.fences.Load().id)
	}
	groups, unfenceable := r.state.byDispatch(names)
	foreign = unfenceable
	for dispatch, names := range groups {
		locked, others, err := r.dispatcher.fence(ctx, dispatch, names)
		fenced, foreign = append(fenced, locked...), append(foreign, others...)
		if err != nil {
			return fenced, foreign, err
		}
	}
	return fenced, foreign, nil
}

// settle decides about the nodes that were silent when the run ended early,
// within timeout: the session is about to go, and with it all acks.
func (r *run) settle(ctx context.Context, timeout time.Duration) {
	names := r.state.silent()
	if len(names) == 0 {
		return
	}
	ctx, cancel := consul.Within(ctx, timeout)
	defer cancel()
	fenced, foreign, err := r.fence(ctx, names)
	if err != nil {
		r.log.Warn("nodes may have taken the job", "error", err)
	}
	for _, name := range foreign {
		r.state.mayHaveTaken(name, errUnfenced, time.Now())
	}
	r.state.settle(names, fenced, err, time.Now())
}
