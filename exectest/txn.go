package exectest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"
)

// A txnOp is one operation in a transaction's body.
type txnOp struct {
	Verb    string
	Key     string
	Value   []byte
	Flags   uint64
	Index   uint64
	Session string
}

type txnResult struct{ KV *entry }

type txnError struct {
	OpIndex int
	What    string
}

type txnAnswer struct {
	Results []txnResult
	Errors  []txnError
	*txnMeta
}

// A txnMeta holds the fields that only the answer to a read-only transaction
// has.
type txnMeta struct {
	Index                 uint64
	LastContact           time.Duration
	KnownLeader           bool
	ConsistencyLevel      string
	NotModified           bool
	Backend               int
	ResultsFilteredByACLs bool
}

// txnWrites and txnReads are the verbs that write and those that do not. A
// transaction with one that writes goes through Raft.
var (
	txnWrites = []string{"set", "cas", "lock", "unlock", "delete", "delete-cas", "delete-tree"}
	txnReads  = []string{"get", "get-or-empty", "get-tree", "check-session", "check-index", "check-not-exists"}
)

// txn applies all operations or none.
func txn(c *call) (any, error) {
	var body []struct{ KV *txnOp }
	if len(c.body) > maxValue {
		return nil, &httpError{http.StatusRequestEntityTooLarge,
			fmt.Sprintf("Request body(%d bytes) too large, max size: %d bytes.", len(c.body), maxValue)}
	}
	if err := json.Unmarshal(c.body, &body); err != nil {
		return nil, &httpError{http.StatusBadRequest, fmt.Sprintf("Failed to parse body: %v", err)}
	}
	if len(body) > maxTxnOps {
		return nil, &httpError{http.StatusRequestEntityTooLarge,
			fmt.Sprintf("Transaction contains too many operations (%d > %d)", len(body), maxTxnOps)}
	}
	ops := make([]txnOp, 0, len(body))
	for _, op := range body {
		if op.KV == nil {
			return nil, &httpError{http.StatusBadRequest, "exectest: a transaction may only have KV operations"}
		}
		ops = append(ops, *op.KV)
	}
	answer := c.apply(ops)
	if len(answer.Errors) > 0 {
		c.header.Set("Content-Type", "application/json; charset=utf-8")
		return nil, &httpError{http.StatusConflict, string(marshal(answer))}
	}
	return answer, nil
}

func (c *call) apply(ops []txnOp) txnAnswer {
	answer := txnAnswer{Results: []txnResult{}}
	apply := func(index uint64) {
		if answer.Errors = c.dc.precheck(ops); answer.Errors != nil {
			return
		}
		for i, op := range ops {
			entries, err := c.dc.apply(op, index)
			if err != nil {
				answer.Errors = append(answer.Errors, txnError{i, err.Error()})
			}
			for _, e := range entries {
				answer.Results = append(answer.Results, txnResult{e})
			}
		}
	}
	if slices.ContainsFunc(ops, func(op txnOp) bool { return slices.Contains(txnWrites, op.Verb) }) {
		c.write(func(index uint64) {
			before := c.dc.kv
			before.entries = slices.Clone(before.entries)
			apply(index)
			if answer.Errors != nil {
				c.dc.kv = before
			}
		})
	} else {
		c.srv.mu.Lock()
		defer c.srv.mu.Unlock()
		apply(0)
		c.setMeta()
		answer.txnMeta = &txnMeta{Index: 1, KnownLeader: true}
	}
	if answer.Errors != nil {
		answer.Results = nil
	}
	return answer
}

// precheck returns the errors that Consul finds before it applies anything. If
// there is one, the answer names no operation that would fail later.
func (dc *datacenter) precheck(ops []txnOp) []txnError {
	var found []txnError
	for i, op := range ops {
		switch {
		case op.Key == "" && op.Verb != "delete-tree":
			found = append(found, txnError{i, "Must provide key"})
		case !slices.Contains(txnWrites, op.Verb) && !slices.Contains(txnReads, op.Verb):
			found = append(found, txnError{i, "unknown KV operation: " + op.Verb})
		case op.Verb == "lock" && dc.lockDelayed(op.Key):
			found = append(found, txnError{i, fmt.Sprintf("failed to lock key %q due to lock delay", op.Key)})
		}
	}
	return found
}

// apply applies one operation and returns the keys for the answer. Only get
// verbs return values.
func (dc *datacenter) apply(op txnOp, index uint64) ([]*entry, error) {
	e := entry{Key: op.Key, Value: op.Value, Flags: op.Flags, Session: op.Session}
	old := dc.kv.get(op.Key)
	var stored *entry
	ok, err := true, error(nil)
	switch op.Verb {
	case "get":
		if old == nil {
			return nil, fmt.Errorf("key %q doesn't exist", op.Key)
		}
		return []*entry{old}, nil
	case "get-or-empty":
		if old == nil {
			old = &entry{Key: op.Key}
		}
		return []*entry{old}, nil
	case "get-tree":
		entries, _ := dc.kv.list(op.Key)
		return entries, nil
	case "set":
		stored = dc.put(e, index)
	case "cas":
		stored, ok = dc.cas(e, op.Index, index)
	case "lock":
		stored, ok, err = dc.acquire(e, index)
	case "unlock":
		stored, ok, err = dc.release(e, index)
	case "delete":
		dc.kv.delete(op.Key, index)
	case "delete-cas":
		ok = dc.deleteCAS(op.Key, op.Index, index)
	case "delete-tree":
		dc.kv.deleteTree(op.Key, index)
	default:
		stored, err = old, check(op, old)
	}
	if err == nil && !ok {
		err = fmt.Errorf(txnRefusals[op.Verb], op.Key)
	}
	if err != nil || stored == nil {
		return nil, err
	}
	shown := *stored
	shown.Value = nil
	return []*entry{&shown}, nil
}

// txnRefusals are Consul's error texts for writes whose condition fails.
var txnRefusals = map[string]string{
	"cas":        "failed to set key %q, index is stale",
	"delete-cas": "failed to delete key %q, index is stale",
	"lock":       "failed to lock key %q, lock is already held",
	"unlock":     "failed to unlock key %q, lock isn't held, or is held by another session",
}

// check applies the verbs that only compare. old is nil if the key does not
// exist.
func check(op txnOp, old *entry) error {
	switch {
	case op.Verb == "check-not-exists" && old != nil:
		return fmt.Errorf("key %q exists", op.Key)
	case op.Verb == "check-not-exists":
		return nil
	case op.Verb == "check-session" && old == nil:
		return fmt.Errorf("failed to check session, key %q doesn't exist", op.Key)
	case op.Verb == "check-session" && old.Session != op.Session:
		return fmt.Errorf("failed session check for key %q, current session %q != %q", op.Key, old.Session, op.Session)
	case op.Verb == "check-session":
		return nil
	case op.Verb == "check-index" && old == nil:
		return fmt.Errorf("failed to check index, key %q doesn't exist", op.Key)
	case op.Verb == "check-index" && old.ModifyIndex != op.Index:
		return fmt.Errorf("failed index check for key %q, current modify index %d != %d", op.Key, old.ModifyIndex, op.Index)
	default:
		return nil
	}
}
