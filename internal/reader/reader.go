// Package reader reads what agents write under a job, in proportion to what
// there is to read: it lists the keys whenever they change, reads each value
// once, and deletes what it has read.
package reader

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/consulexec/consulexec/internal/consul"
)

// Reader reads what belongs to one run. One goroutine calls Run; any may call
// the other methods.
type Reader struct {
	// Out is the channel of the batches. The reader waits until each is taken.
	Out chan Batch

	fences   atomic.Pointer[string]
	lister   lister
	ledger   *ledger
	txn      *transactions
	deletion deletion
	pacer    pacer
}

// New returns a reader for the keys under base, which is <prefix>/<session>/.
// hasRunner says whether the job runs under the runner.
func New(client *consul.Client, session, base string, hasRunner bool) *Reader {
	sight, buffer := &sight{listedAt: time.Now()}, new(body)
	var pacer pacer
	if !hasRunner {
		pacer.least = minPause
	}
	txn := &transactions{Client: client, base: base, sight: sight, body: buffer, maxOps: newMaxOps}
	return &Reader{
		Out:      make(chan Batch),
		lister:   lister{Client: client, session: session, base: base, sight: sight, body: buffer, forecast: forecast{listedAt: time.Now()}},
		ledger:   newLedger(session, hasRunner),
		txn:      txn,
		deletion: deletion{transactions: txn},
		pacer:    pacer,
	}
}

// Run reads until ctx ends or reading fails for good.
func (r *Reader) Run(ctx context.Context) {
	defer r.lister.Pool.AddReader()()
	r.send(ctx, Batch{Err: r.read(ctx)})
}

// Refresh makes the reader list again at once.
func (r *Reader) Refresh() { r.lister.refresh.request() }

// SetFences sets the session that holds the run's fences. It has to be set
// before there is one.
func (r *Reader) SetFences(session string) { r.fences.Store(&session) }

// read lists and delivers until it fails.
func (r *Reader) read(ctx context.Context) error {
	for index := uint64(0); ; {
		found, err := r.lister.list(ctx, index)
		if errors.Is(err, errInterrupted) {
			index = 0
			continue
		}
		if err != nil {
			return err
		}
		if found.index < index {
			found.index = 0 // after a restore or a change of leader the old index means nothing
		}
		index = found.index
		if err := r.deliver(ctx, found); err != nil {
			return err
		}
		r.deleteTurnedAway(ctx)
		r.deleteRead(ctx, found)
		keys := len(found.entries) + r.deletion.tombstones
		if !consul.Sleep(ctx, r.pacer.pause(time.Now(), keys)) {
			return ctx.Err()
		}
	}
}

// deliver sends the new records of a listing.
func (r *Reader) deliver(ctx context.Context, found listing) error {
	last := Batch{Listed: r.lister.sight.asked, Outage: r.lister.sight.outage(), Empty: len(found.entries) == 0, Jobs: found.jobs}
	if fences := r.fences.Load(); fences != nil {
		r.ledger.fences = *fences
	}
	fresh, implied := r.ledger.unread(found.entries, last.Listed)
	r.logFindings()
	var err error
	if found.values {
		err = r.report(ctx, fresh)
	} else {
		err = r.txn.fill(ctx, fresh, func(group []*entry) error { return r.report(ctx, withoutLaterExits(group, found.index)) })
	}
	if err != nil {
		return err
	}
	last.Twice, last.TurnedAway = r.ledger.takeTwice()
	if err := r.send(ctx, last); err != nil {
		return err
	}
	if r.ledger.lacksAck(implied) {
		r.Refresh()
	}
	return nil
}

// report records entries that have their values and sends the records.
func (r *Reader) report(ctx context.Context, entries []*entry) error {
	records := r.ledger.record(entries, r.lister.sight.asked)
	r.logFindings()
	r.lister.forecast.count(records)
	if len(records) == 0 {
		return nil
	}
	return r.send(ctx, Batch{Records: records})
}

func (r *Reader) logFindings() {
	for _, f := range r.ledger.takeFindings() {
		r.lister.Log.Warn(f.text, f.args...)
	}
}

// deleteRead deletes the keys of a listing that were read.
func (r *Reader) deleteRead(ctx context.Context, found listing) {
	read, size := r.lister.forecast.measure(found, r.ledger)
	gone, changed := r.deletion.deleteRead(ctx, read, r.ledger.indexes)
	for _, e := range changed {
		r.ledger.ranTwice(e)
	}
	r.ledger.keysDeleted(gone, found.index)
	if len(gone) == len(read) {
		r.lister.forecast.staleBytes -= size
	}
}

// send hands b over, unless ctx ends first.
func (r *Reader) send(ctx context.Context, b Batch) error {
	select {
	case r.Out <- b:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
