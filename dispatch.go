package consulexec

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec/internal/consul"
	"github.com/consulexec/consulexec/internal/reader"
)

// dispatcher hands the job of a session to nodes, in dispatches. Each has a key
// of its own for the job, so that it can be closed: without the key no agent
// begins the job. Only the goroutine of Exec.run uses it.
type dispatcher struct {
	*consul.Client
	prefix  string
	session *session
	filter  nodeFilter
	byName  bool // all events address nodes by name
	job     []byte

	number  int                  // how many dispatches have a job
	unused  bool                 // the last of them has no nodes yet
	written map[string]time.Time // the dispatches that are open, and when their job was written
}

// base is the folder of the run's keys, with the slash.
func (d *dispatcher) base() string { return d.prefix + "/" + d.session.id + "/" }

// path returns the path of a key in a dispatch.
func (d *dispatcher) path(key reader.Key) string { return d.base() + key.Path(d.session.id) }

// prepare writes the job of the first dispatch, before its nodes are known.
func (d *dispatcher) prepare(ctx context.Context) (err error) {
	_, err = d.writeJob(ctx, d.job)
	d.unused = err == nil
	return err
}

// writeJob writes a document that agents read, for the next dispatch. It returns
// the name of that.
func (d *dispatcher) writeJob(ctx context.Context, document []byte) (dispatch string, err error) {
	dispatch = dispatchName(d.number + 1)
	job := &api.KVPair{
		Key:     d.path(reader.Key{Dispatch: dispatch, Kind: reader.Job}),
		Value:   document,
		Session: d.session.id,
	}
	op := consul.Operation{Doing: "write job to " + job.Key, Need: "key:write on " + d.base()}
	err = d.Do(ctx, op, func(ctx context.Context) error {
		acquired, _, err := d.API.KV().Acquire(job, d.Write(ctx))
		if err == nil && !acquired {
			err = fmt.Errorf("not acquired: %w", ErrSessionLost)
		}
		return err
	})
	if err == nil {
		d.Log.Debug("job written", "dispatch", dispatch, "key", job.Key, "bytes", len(job.Value))
		d.number++
		d.written[dispatch] = time.Now()
	}
	return dispatch, err
}

// open returns the name of a dispatch that has a job and no nodes yet.
func (d *dispatcher) open(ctx context.Context) (dispatch string, err error) {
	if d.unused {
		d.unused = false
		return dispatchName(d.number), nil
	}
	return d.writeJob(ctx, d.job)
}

// A firing is an event of a dispatch, and the expected nodes that it is for.
type firing struct {
	dispatch string
	names    []string
	event    *api.UserEvent
	asks     bool // the job asks nodes what became of the command
}

// plan returns the events of a dispatch to nodes: one for all that pass the
// filter, or as many as their names need. Only the first dispatch can address
// nodes by the filter.
func (d *dispatcher) plan(dispatch string, names []string) []firing {
	if !d.byName && dispatch == "" {
		return []firing{{names: names, event: d.event(dispatch, nil)}}
	}
	var plan []firing
	for _, group := range groupNames(names, func(filter string) bool { return d.fits(dispatch, filter) }) {
		plan = append(plan, firing{dispatch: dispatch, names: group, event: d.event(dispatch, group)})
	}
	return plan
}

// planAsk returns the events of a dispatch that asks nodes, as many as their
// names need. It leaves out nodes whose name is too long for that. Their
// services do not matter: these nodes may have the job already.
func (d *dispatcher) planAsk(dispatch string, names []string) []firing {
	byName := *d
	byName.filter, byName.byName = nodeFilter{}, true
	var plan []firing
	for _, f := range byName.plan(dispatch, names) {
		if f.asks = true; eventSize(f.event) <= maxEventSize {
			plan = append(plan, f)
		}
	}
	return plan
}

// planAgain groups nodes by the events of a later dispatch to them. It leaves
// out nodes whose name is too long for that.
func (d *dispatcher) planAgain(names []string) [][]string {
	var groups [][]string
	for _, f := range d.plan(longestDispatch, names) {
		if eventSize(f.event) <= maxEventSize {
			groups = append(groups, f.names)
		}
	}
	return groups
}

// event returns an event of a dispatch: for the nodes with these names, or for
// all that pass the filter if there are none.
func (d *dispatcher) event(dispatch string, names []string) *api.UserEvent {
	e := newEvent(dispatchPrefix(d.prefix, d.session.id, dispatch), d.filter, d.session.id)
	if names != nil {
		e.NodeFilter = nameFilter(names)
	}
	return e
}

// fits reports whether gossip takes an event of the dispatch with this filter
// for names.
func (d *dispatcher) fits(dispatch, filter string) bool {
	e := d.event(dispatch, nil)
	e.NodeFilter = filter
	return eventSize(e) <= maxEventSize
}

// fire fires an event. It retries only if the event certainly did not go out.
// If it may have gone out in spite of a failure, fire returns that as
// uncertain. If the nodes are not known, so that they can't be fenced, it takes
// Consul's word that it did nothing.
func (d *dispatcher) fire(ctx context.Context, next firing) (uncertain, err error) {
	retryable := func(err error) bool {
		return consul.NotSent(err) || next.names == nil && consul.WasRefused(err)
	}
	op := consul.Operation{Doing: "fire event " + next.event.Name, Need: fmt.Sprintf("event:write on %q", next.event.Name)}
	var id string
	err = d.Retry(ctx, op, retryable, func(ctx context.Context) (err error) {
		id, _, err = d.API.Event().Fire(next.event, d.Write(ctx))
		return err
	})
	switch {
	case err == nil:
		d.Log.Debug("event fired", "dispatch", next.dispatch, "event", id, "node", next.event.NodeFilter)
		return nil, nil
	case consul.IsTransient(err) && !retryable(err):
		if ctx.Err() == nil {
			d.Log.Warn("the event may not have gone out", "error", err)
		}
		return err, nil
	}
	return nil, err
}

// uncertainty is a time in which no event certainly went out.
type uncertainty struct {
	err       error         // why; nil if there is no such time
	since     time.Time     // when it began
	pause     time.Duration // the next one
	names     []string      // the nodes of the last event
	notBefore time.Time     // when the next event may go out
}

const (
	// The pauses before an uncertain event is repeated grow from
	// firstUncertainPause, which gossip takes on a LAN, to lastUncertainPause.
	firstUncertainPause = 200 * time.Millisecond
	lastUncertainPause  = 2 * time.Second

	// refusedPause is the further pause after a rate limit has refused an event,
	// as the fence has used up what the limit allows.
	refusedPause = time.Second
)

// add records that an event to nodes may not have gone out.
func (u *uncertainty) add(names []string, err error, now time.Time) {
	if u.err == nil {
		*u = uncertainty{since: now, pause: firstUncertainPause}
	}
	u.names, u.err, u.notBefore = names, err, now.Add(u.pause)
	u.pause = min(2*u.pause, lastUncertainPause)
}

// isOver reports whether the patience for uncertain events is over.
func (u *uncertainty) isOver(now time.Time) bool { return now.Sub(u.since) > consul.SessionLife }

// fence makes sure that nodes which have not taken the job from a dispatch
// never will: it locks their acks with the session of the fences, so that their
// agents can't. It returns the nodes that are fenced, and those whose ack is
// locked by a session of somebody else. The others have taken the job. The
// dispatch has to be open.
func (d *dispatcher) fence(ctx context.Context, dispatch string, names []string) (fenced, foreign []string, err error) {
	for group := range slices.Chunk(names, consul.MaxTxnOps-1) {
		locked, others, err := d.fenceGroup(ctx, dispatch, group)
		if err != nil {
			return fenced, foreign, err
		}
		fenced, foreign = append(fenced, locked...), append(foreign, others...)
	}
	return fenced, foreign, nil
}

// fenceGroup fences nodes in one transaction. If acks are locked already, it
// repeats the transaction, which then checks who holds these.
func (d *dispatcher) fenceGroup(ctx context.Context, dispatch string, silent []string) (fenced, foreign []string, err error) {
	job := d.path(reader.Key{Dispatch: dispatch, Kind: reader.Job})
	op := consul.Operation{Doing: "fence nodes under " + job, Need: "key:write and key:read on " + d.base()}
	var held []string
	for {
		ops := slices.Concat(
			[]*api.KVTxnOp{{Verb: api.KVCheckSession, Key: job, Session: d.session.id}},
			d.ackOps(api.KVLock, dispatch, silent, d.session.fences.Load().id),
			d.ackOps(api.KVCheckSession, dispatch, held, d.session.id),
		)
		var refusals consul.Refusals
		err := d.Do(ctx, op, func(ctx context.Context) (err error) {
			refusals, err = d.Transact(ctx, ops)
			return err
		})
		if err != nil {
			return nil, nil, err
		}
		if len(refusals) == 0 {
			d.Log.Debug("fenced", "dispatch", dispatch, "nodes", silent)
			return silent, foreign, nil
		}
		var stillSilent, stillHeld []string
		for i, name := range slices.Concat(silent, held) {
			reason, refused := refusals[i+1]
			switch {
			case !refused && i < len(silent):
				stillSilent = append(stillSilent, name)
			case !refused:
				stillHeld = append(stillHeld, name)
			case i >= len(silent):
				foreign = append(foreign, name)
			case strings.Contains(reason, "lock is already held"):
				stillHeld = append(stillHeld, name)
			case strings.Contains(reason, "due to lock delay"):
				// A session that held the ack has ended: the run's own, or
				// somebody else's.
				if _, err := d.session.read(ctx); err != nil {
					return nil, nil, err
				}
				foreign = append(foreign, name)
			default:
				return nil, nil, fmt.Errorf("%s: %w: %s", op.Doing, ErrSessionLost, reason)
			}
		}
		if reason, refused := refusals[0]; refused {
			return nil, nil, fmt.Errorf("%s: %w: %s", op.Doing, ErrSessionLost, reason)
		}
		silent, held = stillSilent, stillHeld
	}
}

// ackOps returns an operation for the ack of each node.
func (d *dispatcher) ackOps(verb api.KVOp, dispatch string, names []string, session string) []*api.KVTxnOp {
	var ops []*api.KVTxnOp
	for _, name := range names {
		ack := d.path(reader.Key{Dispatch: dispatch, Node: nodePath(name), Kind: reader.Ack})
		ops = append(ops, &api.KVTxnOp{Verb: verb, Key: ack, Session: session})
	}
	return ops
}

// close deletes the jobs of dispatches whose nodes have all taken the job or are
// fenced. After that a late copy of their events is harmless. A failure is
// harmless too: the job goes with the session.
func (d *dispatcher) close(ctx context.Context, dispatches []string) {
	for group := range slices.Chunk(dispatches, consul.MaxTxnOps) {
		var ops []*api.KVTxnOp
		for _, dispatch := range group {
			ops = append(ops, &api.KVTxnOp{Verb: api.KVDelete, Key: d.path(reader.Key{Dispatch: dispatch, Kind: reader.Job})})
			delete(d.written, dispatch)
		}
		op := consul.Operation{Doing: "close dispatches", Need: "key:write on " + d.base(), Timeout: consul.CleanUpTimeout}
		err := d.Try(ctx, op, func(ctx context.Context) error {
			_, err := d.Transact(ctx, ops)
			return err
		})
		if err != nil && ctx.Err() == nil {
			d.Log.Debug("not closed", "error", err)
			return
		}
		d.Log.Debug("closed", "dispatches", group)
	}
}

// missing returns an open dispatch whose job was not in a listing, by name, and
// whether there is one. listed is when the listing was asked for, and jobs are
// the dispatches whose job it had.
func (d *dispatcher) missing(jobs []string, listed time.Time) (dispatch string, found bool) {
	for _, dispatch := range slices.Sorted(maps.Keys(d.written)) {
		if listed.After(d.written[dispatch]) && !slices.Contains(jobs, dispatch) {
			return dispatch, true
		}
	}
	return "", false
}

// confirmJob returns an error if the job of an open dispatch is gone. Then its
// nodes can no longer be fenced. A listing may be older than a new leader knows,
// so it asks once more.
func (d *dispatcher) confirmJob(ctx context.Context, dispatch string) error {
	if err := d.session.confirm(ctx); err != nil {
		return err
	}
	key := d.path(reader.Key{Dispatch: dispatch, Kind: reader.Job})
	op := consul.Operation{Doing: "read job " + key, Need: "key:read on " + d.base()}
	return d.Do(ctx, op, func(ctx context.Context) error {
		q := d.Query(ctx)
		q.RequireConsistent = true
		pair, meta, err := d.API.KV().Get(key, q)
		if err == nil {
			err = consul.CheckAnswer(meta, pair == nil)
		}
		if err == nil && pair == nil {
			err = fmt.Errorf("%w: somebody has deleted the job", ErrSessionLost)
		}
		return err
	})
}

// deleteKeys deletes the keys that do not go with the sessions: those of
// strangers.
func (d *dispatcher) deleteKeys(ctx context.Context) error {
	op := consul.Operation{Doing: "delete " + d.base(), Need: "key:write on " + d.base(), Timeout: consul.CleanUpTimeout}
	err := d.Do(ctx, op, func(ctx context.Context) error {
		_, err := d.API.KV().DeleteTree(d.base(), d.Write(ctx))
		return err
	})
	if err == nil {
		d.Log.Debug("keys deleted", "prefix", d.base())
	}
	return err
}

// errMayHaveTaken is the reason of a silent node that could not be fenced.
var errMayHaveTaken = errors.New("may have taken the job")

// errUnfenced is why a node could not be fenced although the session lives.
var errUnfenced = errors.New("its ack can't be locked, or somebody else holds it")
