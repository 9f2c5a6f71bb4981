package consulexec

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec/internal/consul"
	"github.com/consulexec/consulexec/internal/reader"
)

// eventPace is how fast gossip carries events: two of the size of a full list
// of names fit in a packet, and packets go out five times a second.
const eventPace = 100 * time.Millisecond

// dispatcher hands the job of a session to nodes.
type dispatcher struct {
	*consul.Client
	prefix  string
	session string
	filter  nodeFilter
	byName  bool // events address nodes by name
}

// A dispatch is an event and the expected nodes that it is for.
type dispatch struct {
	names []string
	event *api.UserEvent

	// delay is how long gossip takes until it carries the event, as it carries
	// those before it first. The ack timeout of the nodes begins after it.
	delay time.Duration
}

// base is the folder of the job's keys, with the slash.
func (d *dispatcher) base() string { return d.prefix + "/" + d.session + "/" }

// writeJob writes the document that the agents read.
func (d *dispatcher) writeJob(ctx context.Context, spec jobSpec) error {
	job := &api.KVPair{
		Key:     d.base() + reader.Key{Kind: reader.Job}.Path(),
		Value:   marshal(spec),
		Session: d.session,
	}
	op := consul.Operation{Doing: "write job to " + job.Key, Need: "key:write on " + d.base()}
	err := d.Do(ctx, op, func(ctx context.Context) error {
		acquired, _, err := d.API.KV().Acquire(job, d.Write(ctx))
		if err == nil && !acquired {
			err = fmt.Errorf("not acquired: %w", ErrSessionLost)
		}
		return err
	})
	if err == nil {
		d.Log.Debug("job written", "key", job.Key, "bytes", len(job.Value))
	}
	return err
}

// plan returns the dispatches for nodes whose turn it is: one for all that pass
// the filter, or as many as their names need.
func (d *dispatcher) plan(names []string) []dispatch {
	if !d.byName {
		return []dispatch{{names: names, event: d.event()}}
	}
	e := d.event()
	var plan []dispatch
	for i, group := range groupNames(names, func(filter string) bool {
		e.NodeFilter = filter
		return eventSize(e) <= maxEventSize
	}) {
		next := dispatch{names: group, event: d.event(), delay: time.Duration(i) * eventPace}
		next.event.NodeFilter = nameFilter(group)
		plan = append(plan, next)
	}
	return plan
}

func (d *dispatcher) event() *api.UserEvent { return newEvent(d.prefix, d.filter, d.session) }

// fire fires the event of a dispatch. It retries only if the event certainly
// did not go out. If it may have gone out in spite of a failure, fire returns
// that as uncertain: the nodes will show which.
func (d *dispatcher) fire(ctx context.Context, next dispatch) (uncertain, err error) {
	op := consul.Operation{Doing: "fire event " + next.event.Name, Need: fmt.Sprintf("event:write on %q", next.event.Name)}
	var id string
	err = d.Retry(ctx, op, consul.NotSent, func(ctx context.Context) (err error) {
		id, _, err = d.API.Event().Fire(next.event, d.Write(ctx))
		return err
	})
	switch {
	case err == nil:
		d.Log.Debug("event fired", "event", id, "node", next.event.NodeFilter)
		return nil, nil
	case consul.IsTransient(err) && !consul.NotSent(err):
		if ctx.Err() == nil {
			d.Log.Warn("the event may not have gone out", "error", err)
		}
		return err, nil
	}
	return nil, err
}

// deleteKeys deletes the keys that do not go with the session: those of
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
