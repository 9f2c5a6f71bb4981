package consulexec

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/hashicorp/consul/api"
)

const (
	// txnOps is how many values are read in one request: what Consul takes in a
	// transaction, and what versions up to 1.12 take.
	txnOps    = 128
	oldTxnOps = 64
)

// fetch makes records of keys, whose values it reads where the listing did not
// have them. Keys that are no longer there are left out.
func (r *reader) fetch(ctx context.Context, keys []unread) ([]record, error) {
	for keys[0].value == nil {
		missing, err := r.get(ctx, keys)
		if err != nil {
			return nil, err
		}
		if keys = without(keys, missing); len(keys) == 0 {
			return nil, nil
		}
	}
	var records []record
	for _, k := range keys {
		records = r.note(records, k.jobKey, k.value)
	}
	return records, nil
}

// errTooMany says that a transaction had more operations than this Consul takes;
// the next will have fewer.
var errTooMany = errors.New("too many operations in a transaction")

// get reads the values of keys in one transaction, which Consul answers without a
// write. Where some of them are missing it returns their places instead.
func (r *reader) get(ctx context.Context, keys []unread) (missing []int, err error) {
	ops := make([]txnOp, len(keys))
	for i, k := range keys {
		ops[i].KV.Verb, ops[i].KV.Key = api.KVGet, r.base+k.path()
	}
	op := operation{doing: "read values under " + r.base, need: "key:read on " + r.base, patience: sessionLife}
	err = r.look(ctx, op, func(ctx context.Context) error {
		// Not by client.Txn, whose errors do not tell the status.
		var answer txnAnswer
		_, err := r.client.Raw().Write("/v1/txn", ops, &answer, r.write(ctx))
		var status api.StatusError
		switch {
		case err == nil:
			return answer.take(keys)
		case !errors.As(err, &status):
			return err
		case status.Code == http.StatusRequestEntityTooLarge && len(keys) > oldTxnOps:
			r.txnOps = oldTxnOps
			return nil
		case status.Code != http.StatusConflict:
			return err
		}
		if err := json.Unmarshal([]byte(status.Body), &answer); err != nil {
			return err
		}
		for _, e := range answer.Errors {
			missing = append(missing, e.OpIndex)
		}
		if missing == nil {
			return errors.New("transaction rolled back without a reason")
		}
		return nil
	})
	if err == nil && len(keys) > r.txnOps {
		err = errTooMany
	}
	return missing, err
}

// txnOp is what is needed of an operation of a transaction.
type txnOp struct {
	KV struct {
		Verb api.KVOp
		Key  string
	}
}

// txnAnswer is the answer to a transaction that only reads.
type txnAnswer struct {
	Results []struct{ KV *value }
	Errors  api.TxnErrors
}

// take gives keys the values that a transaction brought.
func (a *txnAnswer) take(keys []unread) error {
	if len(a.Results) != len(keys) {
		return fmt.Errorf("%d values for %d keys", len(a.Results), len(keys))
	}
	for i, result := range a.Results {
		if result.KV == nil {
			return fmt.Errorf("no value for %s", keys[i].path())
		}
		keys[i].value = result.KV
	}
	return nil
}

// without returns keys less those at the places given.
func without(keys []unread, places []int) []unread {
	if places == nil {
		return keys
	}
	var rest []unread
	for i, k := range keys {
		if !slices.Contains(places, i) {
			rest = append(rest, k)
		}
	}
	return rest
}

// deleteEnded deletes the keys of nodes that have exited, as many in a request as
// any Consul takes. It does not matter whether it succeeds.
func (r *reader) deleteEnded(ctx context.Context) {
	for len(r.ended) >= oldTxnOps {
		group := r.ended[:oldTxnOps]
		ops := make([]txnOp, len(group))
		for i, name := range group {
			ops[i].KV.Verb, ops[i].KV.Key = api.KVDeleteTree, r.base+name+"/"
		}
		op := operation{doing: "delete what was read under " + r.base, need: "key:write on " + r.base}
		err := r.try(ctx, op, func(ctx context.Context) error {
			_, err := r.client.Raw().Write("/v1/txn", ops, nil, r.write(ctx))
			return err
		})
		if err != nil {
			r.log.Debug("not deleted", "error", err)
			return
		}
		r.ended = slices.Delete(r.ended, 0, len(group))
	}
}
