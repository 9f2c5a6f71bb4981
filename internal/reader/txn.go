package reader

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec/internal/consul"
)

// newMaxOps is how many operations versions after 1.12 take in a transaction.
const newMaxOps = 128

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
func (t *transactions) get(ctx context.Context, entries []*entry) (missing consul.Refusals, err error) {
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
			missing, err = consul.ParseRefusals(status.Body)
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
func (t *transactions) delete(ctx context.Context, entries []*entry, indexes map[string]uint64, deadline time.Time) (gone, changed []*entry, err error) {
	for len(gone) < len(entries) && !time.Now().After(deadline) {
		group := entries[len(gone):min(len(entries), len(gone)+t.maxOps)]
		stale, err := t.deleteGroup(ctx, group, indexes)
		if errors.Is(err, errTooManyOps) {
			continue
		}
		if err != nil {
			return gone, changed, err
		}
		for i := range stale {
			changed = append(changed, group[i])
			delete(indexes, group[i].Key)
		}
		if len(stale) == 0 {
			gone = append(gone, group...)
		}
	}
	return gone, changed, nil
}

// deleteGroup deletes keys in one transaction. If some have changed since the
// index that is known of them, it deletes none and returns these.
func (t *transactions) deleteGroup(ctx context.Context, group []*entry, indexes map[string]uint64) (changed consul.Refusals, err error) {
	op := consul.Operation{Doing: "delete what was read under " + t.base, Need: "key:write on " + t.base, Timeout: deletionTimeout}
	err = t.Try(ctx, op, func(ctx context.Context) error {
		_, err := t.send(ctx, deleteOps(group, indexes))
		var status api.StatusError
		if !errors.As(err, &status) || status.Code != http.StatusConflict {
			return err
		}
		if changed, err = consul.ParseRefusals(status.Body); err != nil {
			return err
		}
		return onlyStale(changed)
	})
	return changed, err
}

// onlyStale returns an error if a key was refused for another reason than that
// it has changed, such as a missing permission.
func onlyStale(refused consul.Refusals) error {
	for _, reason := range refused {
		if !strings.Contains(reason, consul.StaleIndex) {
			return fmt.Errorf("transaction rolled back: %s", reason)
		}
	}
	return nil
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
	if consul.HasStatus(err, http.StatusRequestEntityTooLarge) && len(ops) > consul.MaxTxnOps {
		t.maxOps = consul.MaxTxnOps
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

// without returns the entries but those that were refused.
func without(entries []*entry, refused consul.Refusals) []*entry {
	var rest []*entry
	for i, e := range entries {
		if _, ok := refused[i]; !ok {
			rest = append(rest, e)
		}
	}
	return rest
}
