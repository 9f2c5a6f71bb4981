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
		ops[i] = kvOp(api.KVGet, r.base+k.path())
	}
	op := operation{doing: "read values under " + r.base, need: "key:read on " + r.base, patience: sessionLife}
	tooMany := false
	err = r.look(ctx, op, func(ctx context.Context) error {
		answer, err := r.transact(ctx, ops)
		var status api.StatusError
		switch {
		case err == nil:
			return take(answer, keys)
		case errors.Is(err, errTooMany):
			tooMany = true
			return nil
		case errors.As(err, &status) && status.Code == http.StatusConflict:
			missing, err = rolledBack(status.Body)
		}
		return err
	})
	if tooMany {
		err = errTooMany
	}
	return missing, err
}

// transact makes a transaction and returns the answer. Where Consul takes fewer
// operations than these, the error is errTooMany, and the next will have fewer.
func (r *reader) transact(ctx context.Context, ops []txnOp) (answer []byte, err error) {
	// Not by client.Txn, whose errors do not tell the status.
	var body json.RawMessage
	_, err = r.client.Raw().Write("/v1/txn", ops, &body, r.write(r.takeBody(ctx)))
	var status api.StatusError
	if errors.As(err, &status) && status.Code == http.StatusRequestEntityTooLarge && len(ops) > oldTxnOps {
		r.txnOps = oldTxnOps
		return nil, errTooMany
	}
	if r.body.Len() > 0 {
		return r.body.Bytes(), err
	}
	return body, err
}

// txnOp is what is needed of an operation of a transaction.
type txnOp struct {
	KV struct {
		Verb api.KVOp
		Key  string
	}
}

func kvOp(verb api.KVOp, key string) (op txnOp) {
	op.KV.Verb, op.KV.Key = verb, key
	return op
}

// take gives keys the values that a transaction brought.
func take(answer []byte, keys []unread) error {
	pairs, err := decodeResults(answer)
	if err != nil {
		return err
	}
	if len(pairs) != len(keys) {
		return fmt.Errorf("%d values for %d keys", len(pairs), len(keys))
	}
	for i := range pairs {
		keys[i].value = &pairs[i].value
	}
	return nil
}

// rolledBack returns the places of the keys for whose lack Consul rolled a
// transaction back.
func rolledBack(answer string) (missing []int, err error) {
	var decoded struct{ Errors api.TxnErrors }
	if err := json.Unmarshal([]byte(answer), &decoded); err != nil {
		return nil, err
	}
	for _, e := range decoded.Errors {
		missing = append(missing, e.OpIndex)
	}
	if missing == nil {
		return nil, errors.New("transaction rolled back without a reason")
	}
	return missing, nil
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
