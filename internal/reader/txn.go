package reader

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec/internal/consul"
)

const (
	// newMaxOps is how many operations Consul takes in a transaction, and
	// oldMaxOps how many versions up to 1.12 take.
	newMaxOps = 128
	oldMaxOps = 64
)

// transactions reads and deletes any number of keys. It splits them into as
// many transactions as this Consul needs.
type transactions struct {
	*consul.Client
	base   string
	sight  *sight
	body   *body
	maxOps int
}

// A txnOp is the part of a transaction's operation that is needed here.
type txnOp struct {
	KV struct {
		Verb  api.KVOp
		Key   string
		Index uint64 `json:",omitempty"`
	}
}

func getOps(entries []*entry) []txnOp {
	ops := make([]txnOp, len(entries))
	for i, e := range entries {
		ops[i].KV.Verb, ops[i].KV.Key = api.KVGet, e.Key
	}
	return ops
}

// fill reads the values of entries and hands them to deliver, group by group.
// Entries that are no longer there are left out. A group keeps its values only
// until deliver returns.
func (t *transactions) fill(ctx context.Context, entries []*entry, deliver func(group []*entry) error) error {
	for len(entries) > 0 {
		group := entries[:min(len(entries), t.maxOps)]
		filled, err := t.fillGroup(ctx, group)
		if errors.Is(err, errTooManyOps) {
			continue
		}
		if err != nil {
			return err
		}
		if err := deliver(filled); err != nil {
			return err
		}
		for _, e := range group {
			e.value = value{}
		}
		entries = entries[len(group):]
	}
	return nil
}

// fillGroup reads the values of entries in one transaction, again without the
// missing ones until none is missing.
func (t *transactions) fillGroup(ctx context.Context, entries []*entry) ([]*entry, error) {
	for len(entries) > 0 {
		missing, err := t.get(ctx, entries)
		if err != nil {
			return nil, err
		}
		if missing == nil {
			return entries, nil
		}
		entries = without(entries, missing)
	}
	return nil, nil
}

// get reads the values of entries in one transaction, which Consul answers
// without a write. If some of them are missing it returns their indexes
// instead.
func (t *transactions) get(ctx context.Context, entries []*entry) (missing []int, err error) {
	op := consul.Operation{Doing: "read values under " + t.base, Need: "key:read on " + t.base}
	tooMany := false
	err = t.sight.do(ctx, t.Client, op, func(ctx context.Context) error {
		answer, err := t.send(ctx, getOps(entries))
		var status api.StatusError
		switch {
		case err == nil:
			return fillValues(answer, entries)
		case errors.Is(err, errTooManyOps):
			tooMany = true
			return nil // no outage
		case errors.As(err, &status) && status.Code == http.StatusConflict:
			missing, err = failedOps(status.Body)
		}
		return err
	})
	if tooMany {
		err = errTooManyOps
	}
	return missing, err
}

// delete deletes keys, group by group, until one fails. It begins no group
// after the deadline. It deletes a key whose index is known only if it has not
// changed since, and reports it if it has. It returns the keys that are gone.
func (t *transactions) delete(ctx context.Context, op consul.Operation, entries []*entry, indexes map[string]uint64, deadline time.Time) (gone, changed []*entry, err error) {
	for len(gone) < len(entries) && !time.Now().After(deadline) {
		group := entries[len(gone):min(len(entries), len(gone)+t.maxOps)]
		var stale []int
		err := t.Try(ctx, op, func(ctx context.Context) error {
			_, err := t.send(ctx, deleteOps(group, indexes))
			var status api.StatusError
			if errors.As(err, &status) && status.Code == http.StatusConflict {
				stale, err = failedOps(status.Body)
			}
			return err
		})
		if errors.Is(err, errTooManyOps) {
			continue
		}
		if err != nil {
			return gone, changed, err
		}
		for _, i := range stale {
			changed = append(changed, group[i])
			delete(indexes, group[i].Key)
		}
		if len(stale) == 0 {
			gone = append(gone, group...)
		}
	}
	return gone, changed, nil
}

func deleteOps(entries []*entry, indexes map[string]uint64) []txnOp {
	ops := make([]txnOp, len(entries))
	for i, e := range entries {
		kv := &ops[i].KV
		kv.Verb, kv.Key = api.KVDelete, e.Key
		if index, known := indexes[e.Key]; known {
			kv.Verb, kv.Index = api.KVDeleteCAS, index
		}
	}
	return ops
}

// errTooManyOps says that a transaction had more operations than this Consul
// takes. The next one has fewer.
var errTooManyOps = errors.New("too many operations in a transaction")

// send makes a transaction and returns the answer. It does not use client.Txn,
// whose errors lack the status.
func (t *transactions) send(ctx context.Context, ops []txnOp) (answer []byte, err error) {
	var decoded json.RawMessage
	_, err = t.API.Raw().Write("/v1/txn", ops, &decoded, t.Write(t.body.intercept(ctx)))
	if consul.HasStatus(err, http.StatusRequestEntityTooLarge) && len(ops) > oldMaxOps {
		t.maxOps = oldMaxOps
		return nil, errTooManyOps
	}
	if t.body.Len() > 0 {
		return t.body.Bytes(), err
	}
	return decoded, err
}

// fillValues sets the entries' values from the answer to a transaction.
func fillValues(answer []byte, entries []*entry) error {
	results, err := decodeResults(answer)
	if err != nil {
		return err
	}
	if len(results) != len(entries) {
		return fmt.Errorf("%d values for %d keys", len(results), len(entries))
	}
	for i := range results {
		entries[i].value = results[i].value
	}
	return nil
}

// failedOps returns the indexes of the operations that made Consul roll the
// transaction back.
func failedOps(answer string) (failed []int, err error) {
	var decoded struct{ Errors api.TxnErrors }
	if err := json.Unmarshal([]byte(answer), &decoded); err != nil {
		return nil, err
	}
	for _, e := range decoded.Errors {
		failed = append(failed, e.OpIndex)
	}
	if failed == nil {
		return nil, errors.New("transaction rolled back without a reason")
	}
	return failed, nil
}

// without returns the entries but those at the indexes.
func without(entries []*entry, indexes []int) []*entry {
	var rest []*entry
	for i, e := range entries {
		if !slices.Contains(indexes, i) {
			rest = append(rest, e)
		}
	}
	return rest
}
