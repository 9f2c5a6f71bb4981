package reader

import (
	"context"
	"time"

	"github.com/consulexec/consulexec/internal/consul"
)

const (
	// deletionTime is how long deletions may delay the next listing, and
	// deletionTimeout bounds each of their transactions.
	deletionTime    = 500 * time.Millisecond
	deletionTimeout = 2 * time.Second

	// deletionPause is how long nothing is deleted after a deletion has failed.
	deletionPause = 10 * time.Second

	// tombstoneTTL is how long Consul keeps a tombstone for each deleted key;
	// every listing scans all of them. It is the default of tombstone_ttl.
	tombstoneTTL = 15 * time.Minute
)

// deletion deletes keys that were read, so that listings stay short however
// much there is to read. That is safe: no agent reads what it has written.
type deletion struct {
	*transactions

	tombstones      int       // about how many tombstones Consul keeps
	tombstonesSince time.Time // when their count began
	failedAt        time.Time // when a deletion failed last, or zero
}

// deleteRead deletes keys that were read, if they fill a transaction. indexes
// has the ModifyIndex with which each was read, as far as that is known. It
// returns those that are gone, and those that had changed since. A key that is
// not deleted is only listed again.
func (d *deletion) deleteRead(ctx context.Context, read []*entry, indexes map[string]uint64) (gone, changed []*entry) {
	now := time.Now()
	if now.Sub(d.tombstonesSince) > tombstoneTTL {
		d.tombstones, d.tombstonesSince = 0, now
	}
	if len(read) < consul.MaxTxnOps || now.Sub(d.failedAt) < deletionPause {
		return nil, nil
	}
	gone, changed, err := d.delete(ctx, read, indexes, now.Add(deletionTime))
	d.tombstones += len(gone)
	if len(gone) > 0 {
		d.Log.Debug("deleted what was read", "keys", len(gone))
	}
	if err != nil && ctx.Err() == nil {
		d.Log.Debug("not deleted", "error", err)
		d.failedAt = time.Now()
	}
	return gone, changed
}
