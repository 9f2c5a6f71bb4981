package reader

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/consulexec/consulexec/internal/runner"
)

// If an agent gets an event twice, the runner turns the second copy of the job
// away. Both copies have one key for their exit. So the exit of the second copy
// is deleted, and the first one's is read when it comes.

// turnedAwayPause is how long the exit of a copy is left alone before it is
// read again, in case it could not be deleted. Meanwhile the first copy may
// write over it.
const turnedAwayPause = time.Second

// turnedAway is an exit of a second copy that is not deleted.
type turnedAway struct {
	read  time.Time
	index uint64 // its ModifyIndex
}

// isOfTwo reports whether two copies of a job may write the key without running
// the command twice: a copy that the runner turns away writes ack and exit.
func (l *ledger) isOfTwo(k Key) bool { return l.hasRunner && (k.Kind == Exit || k.Kind == Ack) }

// isTurnedAway reports whether an entry is the exit of a copy that was turned
// away.
func (l *ledger) isTurnedAway(e *entry) bool {
	if !l.hasRunner || e.parsed.Kind != Exit {
		return false
	}
	code, err := ParseExit(e.Value)
	return err == nil && code == runner.TurnedAway
}

// turnAway records the exit of a copy and marks it for deletion.
func (l *ledger) turnAway(e *entry, now time.Time) {
	key, node := strings.Clone(e.Key), strings.Clone(e.parsed.Node)
	l.turnedAway[key] = turnedAway{now, e.ModifyIndex}
	l.toDelete = append(l.toDelete, &entry{Key: key, value: value{ModifyIndex: e.ModifyIndex}})
	if p := l.streams[of(e.parsed)]; !p.turnedAway {
		p.turnedAway = true
		l.refused = append(l.refused, node)
		l.find("a second copy of the job was turned away", "node", node)
	}
}

// isDue reports whether to read the exit of a copy again. It is if it has
// changed, which only a listing with values shows.
func (t *turnedAway) isDue(e *entry, now time.Time) bool {
	return e.ModifyIndex > t.index || now.Sub(t.read) >= turnedAwayPause
}

// withoutLaterExits drops the exits that were written after a listing with this
// index: the first copy's may have taken the place of the second one's since. The
// output before it may not be in that listing, but is in the next one. An index
// of 0 is not known.
func withoutLaterExits(entries []*entry, listed uint64) []*entry {
	return slices.DeleteFunc(slices.Clone(entries), func(e *entry) bool {
		return e.parsed.Kind == Exit && listed > 0 && e.ModifyIndex > listed
	})
}

// deleteTurnedAway deletes the exits of copies that were just read, unless they
// have changed. A changed one is read again from the next listing.
func (r *Reader) deleteTurnedAway(ctx context.Context) {
	entries := r.ledger.toDelete
	r.ledger.toDelete = nil
	if len(entries) > 0 {
		gone, changed := r.deletion.deleteUnchanged(ctx, entries)
		for _, e := range slices.Concat(gone, changed) {
			delete(r.ledger.turnedAway, e.Key)
		}
	}
	r.lister.longest = 0
	if len(r.ledger.turnedAway) > 0 {
		r.lister.longest = turnedAwayPause
	}
}

// deleteUnchanged deletes keys that have the ModifyIndex of their entries. It
// returns those that are gone, and those that have changed. The others could
// not be deleted.
func (d *deletion) deleteUnchanged(ctx context.Context, entries []*entry) (gone, changed []*entry) {
	indexes := make(map[string]uint64)
	for _, e := range entries {
		indexes[e.Key] = e.ModifyIndex
	}
	for len(entries) > 0 {
		group := entries[:min(len(entries), d.maxOps)]
		stale, err := d.deleteGroup(ctx, group, indexes)
		switch {
		case errors.Is(err, errTooManyOps):
		case err != nil:
			if ctx.Err() == nil {
				d.Log.Debug("not deleted", "error", err)
			}
			return gone, changed
		case len(stale) > 0:
			for i := range stale {
				changed = append(changed, group[i])
			}
			entries = without(entries, stale)
		default:
			gone = append(gone, group...)
			entries = entries[len(group):]
		}
	}
	d.tombstones += len(gone)
	return gone, changed
}
