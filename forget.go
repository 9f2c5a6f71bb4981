package consulexec

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/consul/api"
)

const (
	// forgetTime is how long the next listing may wait for deletions, and
	// forgetTimeout bounds each of their transactions.
	forgetTime    = 500 * time.Millisecond
	forgetTimeout = 2 * time.Second

	// forgetPause is how long nothing is deleted after that has failed.
	forgetPause = 10 * time.Second

	// tombstoneTTL is how long Consul keeps a record of each deletion, through all of
	// which it goes in each listing: the default of tombstone_ttl.
	tombstoneTTL = 15 * time.Minute
)

// forget deletes what was read of a listing, where that is enough for a transaction,
// so that listings stay short however much there is to read. That does no harm: no
// agent looks at what it has written.
func (r *reader) forget(ctx context.Context, found listing) {
	now := time.Now()
	if now.Sub(r.reaped) > tombstoneTTL {
		r.gone, r.reaped = 0, now
	}
	read, size, others := r.sizeUp(found)
	r.again = size + others
	if len(read) < oldTxnOps || now.Sub(r.failing) < forgetPause {
		return
	}
	if r.delete(ctx, read) {
		r.again = others
	}
}

// sizeUp returns the keys of a listing that were read, and about how many bytes of
// another listing with values are for them and for the others.
func (r *reader) sizeUp(found listing) (read []string, size, others int) {
	for _, p := range found.pairs {
		n := keySize + len(p.Value)
		if !found.values {
			n += maxChunk // or less
		}
		k := r.parse(p.Key)
		if node := r.nodes[k.node]; node != nil && node.hasRead(k) {
			read = append(read, p.Key)
			size += n
		} else {
			others += n
		}
	}
	if found.values {
		r.others = others
	}
	return read, size, max(others, r.others)
}

// delete deletes keys and tells whether all are gone. Those that are not will only be
// listed again.
func (r *reader) delete(ctx context.Context, keys []string) bool {
	op := operation{doing: "delete what was read under " + r.base, need: "key:write on " + r.base, timeout: forgetTimeout}
	for began := time.Now(); len(keys) > 0; {
		if time.Since(began) > forgetTime {
			return false
		}
		group := keys[:min(len(keys), r.txnOps)]
		ops := make([]txnOp, len(group))
		for i, key := range group {
			ops[i] = kvOp(api.KVDelete, key)
		}
		err := r.try(ctx, op, func(ctx context.Context) error {
			_, err := r.transact(ctx, ops)
			return err
		})
		switch {
		case err == nil:
			r.log.Debug("deleted what was read", "keys", len(group))
			keys = keys[len(group):]
			r.gone += len(group)
		case errors.Is(err, errTooMany):
		case ctx.Err() != nil:
			return false
		default:
			r.log.Debug("not deleted", "error", err)
			r.failing = time.Now()
			return false
		}
	}
	return true
}
