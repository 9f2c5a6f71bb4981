package exectest

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"
)

func TestTxn(t *testing.T) {
	srv := NewServer()
	defer srv.Close()
	client := srv.Client()
	mine, other := newSession(t, client), newSession(t, client)
	srv.Put("a", []byte("1"))
	lock := &api.KVPair{Key: "locked", Value: []byte("x"), Session: mine}
	if ok, _, err := client.KV().Acquire(lock, nil); err != nil || !ok {
		t.Fatalf("%v, %v", ok, err)
	}
	stored, _, err := client.KV().Get("a", nil)
	if err != nil {
		t.Fatal(err)
	}

	ops := func(ops ...api.KVTxnOp) (all api.TxnOps) {
		for _, op := range ops {
			all = append(all, &api.TxnOp{KV: &op})
		}
		return all
	}
	for _, test := range []struct {
		name string
		ops  api.TxnOps
		want string // results, or errors
		keys string // after the transaction
	}{
		{"nothing", api.TxnOps{}, "", "a locked"},
		{"get", ops(api.KVTxnOp{Verb: api.KVGet, Key: "a"}, api.KVTxnOp{Verb: api.KVGet, Key: "locked"}), "a=1 locked=x", "a locked"},
		{"get missing keys", ops(api.KVTxnOp{Verb: api.KVGet, Key: "x"}, api.KVTxnOp{Verb: api.KVGet, Key: "a"}, api.KVTxnOp{Verb: api.KVGet, Key: "y"}),
			`0: key "x" doesn't exist; 2: key "y" doesn't exist`, "a locked"},
		{"get or empty", ops(api.KVTxnOp{Verb: "get-or-empty", Key: "x"}, api.KVTxnOp{Verb: "get-or-empty", Key: "a"}), "x= a=1", "a locked"},
		{"get a tree without a key", ops(api.KVTxnOp{Verb: api.KVGetTree, Key: ""}), `0: Must provide key`, "a locked"},
		{"get a tree", ops(api.KVTxnOp{Verb: api.KVGetTree, Key: "lo"}), `locked=x`, "a locked"},
		{"check", ops(
			api.KVTxnOp{Verb: api.KVCheckSession, Key: "locked", Session: mine},
			api.KVTxnOp{Verb: api.KVCheckIndex, Key: "a", Index: stored.ModifyIndex},
			api.KVTxnOp{Verb: api.KVCheckNotExists, Key: "x"},
		), "locked= a=", "a locked"},
		{"failed checks", ops(
			api.KVTxnOp{Verb: api.KVCheckSession, Key: "locked", Session: "x"},
			api.KVTxnOp{Verb: api.KVCheckSession, Key: "x", Session: "x"},
			api.KVTxnOp{Verb: api.KVCheckIndex, Key: "a", Index: 1},
			api.KVTxnOp{Verb: api.KVCheckIndex, Key: "x", Index: 1},
			api.KVTxnOp{Verb: api.KVCheckNotExists, Key: "a"},
		), fmt.Sprintf(`0: failed session check for key "locked", current session %q != "x"; `, mine) +
			`1: failed to check session, key "x" doesn't exist; ` +
			fmt.Sprintf(`2: failed index check for key "a", current modify index %d != 1; `, stored.ModifyIndex) +
			`3: failed to check index, key "x" doesn't exist; 4: key "a" exists`, "a locked"},
		{"all or nothing", ops(
			api.KVTxnOp{Verb: api.KVSet, Key: "b", Value: []byte("2")},
			api.KVTxnOp{Verb: api.KVDelete, Key: "a"},
			api.KVTxnOp{Verb: api.KVLock, Key: "locked", Session: other},
		), `2: failed to lock key "locked", lock is already held`, "a locked"},
		{"stale", ops(
			api.KVTxnOp{Verb: api.KVCAS, Key: "a", Index: 1},
			api.KVTxnOp{Verb: api.KVDeleteCAS, Key: "a", Index: 1},
			api.KVTxnOp{Verb: api.KVUnlock, Key: "a", Session: mine},
			api.KVTxnOp{Verb: api.KVLock, Key: "a", Session: "x"},
		), `0: failed to set key "a", index is stale; 1: failed to delete key "a", index is stale; ` +
			`2: failed to unlock key "a", lock isn't held, or is held by another session; 3: invalid session "x"`, "a locked"},
		{"refused before anything is applied", ops(
			api.KVTxnOp{Verb: api.KVLock, Key: "locked", Session: other},
			api.KVTxnOp{Verb: "bogus", Key: "a"},
			api.KVTxnOp{Verb: api.KVGet, Key: ""},
		), `1: unknown KV operation: bogus; 2: Must provide key`, "a locked"},
		{"write", ops(
			api.KVTxnOp{Verb: api.KVSet, Key: "b", Value: []byte("2")},
			api.KVTxnOp{Verb: api.KVCAS, Key: "c", Value: []byte("3")},
			api.KVTxnOp{Verb: api.KVLock, Key: "d", Value: []byte("4"), Session: mine},
			api.KVTxnOp{Verb: api.KVUnlock, Key: "locked", Value: []byte("5"), Session: mine},
			api.KVTxnOp{Verb: api.KVDelete, Key: "a"},
			api.KVTxnOp{Verb: api.KVGet, Key: "b"},
		), "b= c= d= locked= b=2", "b c d locked"},
		{"delete", ops(
			api.KVTxnOp{Verb: api.KVDeleteCAS, Key: "nope", Index: 1},
			api.KVTxnOp{Verb: api.KVDeleteTree, Key: ""},
		), "", ""},
	} {
		ok, answer, _, err := client.Txn().Txn(test.ops, nil)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		var got []string
		separator := " "
		for _, result := range answer.Results {
			got = append(got, result.KV.Key+"="+string(result.KV.Value))
		}
		for _, failure := range answer.Errors {
			got, separator = append(got, fmt.Sprintf("%d: %s", failure.OpIndex, failure.What)), "; "
		}
		if text := strings.Join(got, separator); text != test.want || ok != (len(answer.Errors) == 0) {
			t.Errorf("%s: %v\n got %s\nwant %s", test.name, ok, text, test.want)
		}
		if keys := strings.Join(srv.Keys(""), " "); keys != test.keys {
			t.Errorf("%s: keys are %q, want %q", test.name, keys, test.keys)
		}
	}
}

// TestTxnFence fences nodes of a job, as the library does: in one transaction
// it checks the job's session and locks the nodes' acks with another.
func TestTxnFence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer()
		defer srv.Close()
		client := srv.Client()
		mine, fences := newSession(t, client), newSession(t, client)
		acquire := func(key string) bool {
			ok, _, err := client.KV().Acquire(&api.KVPair{Key: key, Session: mine}, nil)
			if err != nil {
				t.Fatal(err)
			}
			return ok
		}
		check := func(when, nodes, want, acks string) {
			t.Helper()
			ops := api.TxnOps{{KV: &api.KVTxnOp{Verb: api.KVCheckSession, Key: "job", Session: mine}}}
			for node := range strings.FieldsSeq(nodes) {
				ops = append(ops, &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVLock, Key: node + "/ack", Session: fences}})
			}
			ok, answer, _, err := client.Txn().Txn(ops, nil)
			if err != nil {
				t.Fatal(err)
			}
			var refusals []string
			for _, refusal := range answer.Errors {
				refusals = append(refusals, fmt.Sprintf("%d: %s", refusal.OpIndex, refusal.What))
			}
			if got := strings.Join(refusals, "; "); got != want || ok != (want == "") {
				t.Errorf("%s, fence %s: %v\n got %s\nwant %s", when, nodes, ok, got, want)
			}
			var held []string
			pairs, _, err := client.KV().List("", nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, pair := range pairs {
				if node, isAck := strings.CutSuffix(pair.Key, "/ack"); isAck {
					held = append(held, node+"="+map[string]string{mine: "job", fences: "fence"}[pair.Session])
				}
			}
			if got := strings.Join(held, " "); got != acks {
				t.Errorf("%s, fence %s: acks are %q, want %q", when, nodes, got, acks)
			}
		}
		const (
			held    = `: failed to lock key "%s/ack", lock is already held`
			delayed = `: failed to lock key "%s/ack" due to lock delay`
			gone    = `0: failed to check session, key "job" doesn't exist`
		)
		acquire("job")
		check("nobody acked", "a b", "", "a=fence b=fence")
		check("again", "b a", "", "a=fence b=fence")
		if acquire("a/ack") || !acquire("c/ack") || !acquire("e/ack") {
			t.Error("a acked, or c or e did not")
		}
		check("c and e acked", "c d e", fmt.Sprintf("1"+held+"; 3"+held, "c", "e"), "a=fence b=fence c=job e=job")
		check("without these", "d", "", "a=fence b=fence c=job d=fence e=job")
		srv.DestroySession(mine)
		check("session gone", "a f", gone, "a=fence b=fence d=fence")
		check("session gone, c acked", "f c", fmt.Sprintf("2"+delayed, "c"), "a=fence b=fence d=fence")
		time.Sleep(15 * time.Second) // the lock delay
		check("after the lock delay", "f c", gone, "a=fence b=fence d=fence")
	})
}

func TestTxnRefuses(t *testing.T) {
	srv := NewServer()
	defer srv.Close()
	get := `{"KV":{"Verb":"get-or-empty","Key":"a"}}`
	for body, want := range map[string]int{
		"{": 400,
		"[" + strings.Repeat(get+",", 63) + get + "]":                                    200,
		"[" + strings.Repeat(get+",", 64) + get + "]":                                    413,
		`[{"KV":{"Verb":"set","Key":"a","Value":"` + strings.Repeat("A", 1<<20) + `"}}]`: 413,
		`[{"Node":{"Verb":"get"}}]`:                                                      400,
	} {
		if status, _, text := send(t, srv, "PUT", "txn", strings.NewReader(body)); status != want {
			t.Errorf("%.60s: %d %.100s, want %d", body, status, text, want)
		}
	}
}
