package reader

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec/internal/consul"
)

// lister lists the keys under the job, with or without their values.
type lister struct {
	*consul.Client
	session  string
	base     string
	sight    *sight
	body     *body
	forecast forecast
	refresh  refresh
	poll     poll
	longest  time.Duration // that the next listing may wait; no limit if 0
}

// errInterrupted is the error of a listing that a refresh has ended.
var errInterrupted = errors.New("interrupted")

// list returns the keys under the job once their index is no longer the given
// one. After a failure, or if the run may not hold a connection, it does not wait
// for a change.
func (l *lister) list(ctx context.Context, index uint64) (found listing, err error) {
	hold, err := l.Pool.MayHold(ctx)
	if err != nil {
		return listing{}, err
	}
	if !hold {
		index = 0
	}
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	if l.refresh.arm(cancel) {
		index = 0
	}
	op := consul.Operation{Doing: "list keys under " + l.base, Need: "key:list on " + l.base}
	if index > 0 {
		op.Held, op.Timeout = true, pollTimeout
	}
	err = l.sight.do(waiting, l.Client, op, func(ctx context.Context) error {
		found, err = l.ask(ctx, index)
		if err != nil && waiting.Err() == nil {
			l.refresh.arm(nil)
			if index > 0 && l.poll.cut(err, time.Since(l.sight.asked)) {
				found, err = l.ask(ctx, 0)
			}
			index = 0
		}
		return err
	})
	l.refresh.arm(nil)
	if err != nil && waiting.Err() != nil && ctx.Err() == nil {
		return listing{}, errInterrupted
	}
	return found, err
}

// ask makes the request of a listing. It waits until the keys' index is no
// longer the given one, and not at all if that is 0.
func (l *lister) ask(ctx context.Context, index uint64) (found listing, err error) {
	l.sight.asked = time.Now()
	var meta *api.QueryMeta
	q := l.Query(l.body.intercept(ctx))
	if q.WaitIndex, q.WaitTime = index, l.poll.wait(); l.longest > 0 {
		q.WaitTime = min(q.WaitTime, l.longest)
	}
	if found.values = l.forecast.wantsValues(time.Now()); found.values {
		found.entries, meta, err = l.askValues(q)
	} else {
		found.entries, meta, err = l.askNames(q)
	}
	if err == nil {
		err = consul.CheckAnswer(meta, len(found.entries) == 0)
	}
	if err != nil {
		return listing{}, err
	}
	l.forecast.listed(l.sight.asked, time.Now())
	for i := range found.entries {
		e := &found.entries[i]
		e.parsed = ParseKey(strings.TrimPrefix(e.Key, l.base), l.session)
		if e.parsed.Kind == Job {
			found.jobs = append(found.jobs, e.parsed.Dispatch)
		}
	}
	found.index = meta.LastIndex
	return found, nil
}

func (l *lister) askValues(q *api.QueryOptions) ([]entry, *api.QueryMeta, error) {
	decoded, meta, err := l.API.KV().List(l.base, q)
	if err == nil && l.body.Len() > 0 {
		entries, err := decodeValues(l.body.Bytes())
		return entries, meta, err
	}
	entries := make([]entry, len(decoded))
	for i, p := range decoded {
		entries[i] = entry{Key: p.Key, value: value{p.Value, p.Session, p.CreateIndex, p.ModifyIndex}}
	}
	return entries, meta, err
}

func (l *lister) askNames(q *api.QueryOptions) ([]entry, *api.QueryMeta, error) {
	names, meta, err := l.API.KV().Keys(l.base, "", q)
	if err == nil && l.body.Len() > 0 {
		entries, err := decodeNames(l.body.Bytes())
		return entries, meta, err
	}
	return named(names), meta, err
}

// refresh makes a listing that waits end, or the next one not wait.
type refresh struct {
	mu        sync.Mutex         // guards the fields below
	interrupt context.CancelFunc // ends the listing that waits; nil if none does
	urgent    bool               // the next listing must not wait
}

// request may be called by any goroutine.
func (r *refresh) request() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.urgent = true
	if r.interrupt != nil {
		r.interrupt()
	}
}

// arm sets what ends the listing, nil if nothing has to. It reports whether
// there was a request since the last call.
func (r *refresh) arm(interrupt context.CancelFunc) (requested bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	requested = r.urgent
	r.urgent, r.interrupt = false, interrupt
	return requested
}
