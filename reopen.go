package consulexec

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/consulexec/consulexec/internal/consul"
	"github.com/consulexec/consulexec/internal/reader"
	"github.com/consulexec/consulexec/internal/runner"
)

// errNotAsked is why nobody knows whether a node took the job.
var errNotAsked = errors.New("the session was lost, and the node could not be asked")

// ask asks the nodes in doubt what became of the command.
func (r *run) ask() error {
	for _, nodes := range r.state.toAsk(time.Now()) {
		from := lacks(nodes)
		name := fmt.Sprintf("%s-%d", r.session.id, r.dispatcher.number+1)
		job := runner.Ask(r.id, name, from, r.job.Keep)
		dispatch, err := r.dispatcher.writeJob(r.ctx, marshal(jobSpec{Job: job, Wait: r.wait}))
		if err != nil {
			return err
		}
		plan := r.dispatcher.planAsk(dispatch, namesOf(nodes))
		for _, n := range nodes {
			r.log.Info("asking what became of the command", "node", n.Node, "from", from, "reason", n.doubt)
			if !slices.ContainsFunc(plan, func(f firing) bool { return slices.Contains(f.names, n.Node) }) {
				r.state.unaskable(n, time.Now())
			}
		}
		r.state.enqueueAsks(plan, from)
	}
	return nil
}

// mayReopen reports whether a run that failed goes on with a new session. If the
// nodes are not known, those that took the job a moment before the session went
// could not be asked.
func (r *run) mayReopen(err error) bool {
	if !r.state.known && time.Since(r.submittedAt) < r.ackTimeout {
		return false
	}
	if err == nil || r.recovery == 0 || !r.submitted || r.caller.Err() != nil || errors.Is(err, ErrNoTargets) {
		return false
	}
	return errors.Is(err, ErrSessionLost) || consul.IsTransient(err)
}

// reopen replaces the session that the run has lost by a new one. It tries to
// until Consul has not answered for the time of recovery, or for as long as a
// session can live if that is longer.
func (r *run) reopen(cause error) error {
	r.stop(nil)
	r.tasks.Wait()
	r.log.Warn("opening a new session", "error", cause)
	limit := max(consul.StartPatience, time.Until(r.heard.Add(max(r.recovery, consul.SessionLife))))
	ctx, cancel := consul.Within(r.caller, limit)
	defer cancel()
	r.ctx, r.stop = context.WithCancelCause(r.caller)
	for {
		err := r.replaceSession(ctx)
		if err == nil {
			break
		}
		if r.caller.Err() != nil || ctx.Err() == nil && !consul.IsTransient(err) {
			return err
		}
		if !consul.Sleep(ctx, time.Second) {
			if r.caller.Err() != nil {
				return consul.ContextError(r.caller)
			}
			return fmt.Errorf("%w: %w; no new one for %v: %w", ErrSessionLost, cause, limit.Round(time.Second), err)
		}
	}
	now := time.Now()
	r.state.pause(now.Sub(r.heard), now)
	r.state.newSession(cause, now)
	r.heard, r.uncertain = now, uncertainty{}
	r.reader = reader.New(r.consul, r.session.id, r.dispatcher.base(), true)
	return nil
}

// replaceSession makes sure that the old session is gone, so that no node can
// take the job under it any more, and creates a new one.
func (r *run) replaceSession(ctx context.Context) error {
	if err := r.endSession(ctx); err != nil {
		return err
	}
	return r.createSession(ctx)
}
