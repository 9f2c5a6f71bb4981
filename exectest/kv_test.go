package exectest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"
)

func TestKVWrites(t *testing.T) {
	srv := NewServer()
	defer srv.Close()
	client := srv.Client()
	kv := client.KV()
	mine, other := newSession(t, client), newSession(t, client)

	pair := func(value, session string) *api.KVPair {
		return &api.KVPair{Key: "dir/a", Value: []byte(value), Session: session}
	}
	modified := func() uint64 {
		p, _, err := kv.Get("dir/a", nil)
		if err != nil || p == nil {
			t.Fatalf("dir/a is %v, %v", p, err)
		}
		return p.ModifyIndex
	}
	cas := func(value string, index uint64) (bool, *api.WriteMeta, error) {
		p := pair(value, "")
		p.ModifyIndex = index
		return kv.CAS(p, nil)
	}
	deleteCAS := func(index uint64) (bool, *api.WriteMeta, error) {
		return kv.DeleteCAS(&api.KVPair{Key: "dir/a", ModifyIndex: index}, nil)
	}
	for _, step := range []struct {
		name string
		do   func() (bool, *api.WriteMeta, error)
		ok   bool
		want string // value, lock index, owner of the lock
	}{
		{"release a missing key", func() (bool, *api.WriteMeta, error) { return kv.Release(pair("1", mine), nil) }, false, ""},
		{"set a missing key", func() (bool, *api.WriteMeta, error) { return cas("2", 0) }, true, "2 0 "},
		{"set a missing key, but it exists", func() (bool, *api.WriteMeta, error) { return cas("3", 0) }, false, "2 0 "},
		{"set the wrong index", func() (bool, *api.WriteMeta, error) { return cas("3", 1) }, false, "2 0 "},
		{"set the right index", func() (bool, *api.WriteMeta, error) { return cas("3", modified()) }, true, "3 0 "},
		{"acquire", func() (bool, *api.WriteMeta, error) { return kv.Acquire(pair("4", mine), nil) }, true, "4 1 mine"},
		{"acquire again", func() (bool, *api.WriteMeta, error) { return kv.Acquire(pair("5", mine), nil) }, true, "5 1 mine"},
		{"acquire another's", func() (bool, *api.WriteMeta, error) { return kv.Acquire(pair("6", other), nil) }, false, "5 1 mine"},
		{"set keeps the lock, not its index", func() (bool, *api.WriteMeta, error) { return cas("7", modified()) }, true, "7 0 mine"},
		{"release another's", func() (bool, *api.WriteMeta, error) { return kv.Release(pair("8", other), nil) }, false, "7 0 mine"},
		{"release", func() (bool, *api.WriteMeta, error) { return kv.Release(pair("9", mine), nil) }, true, "9 0 "},
		{"acquire anew", func() (bool, *api.WriteMeta, error) { return kv.Acquire(pair("10", other), nil) }, true, "10 1 other"},
		{"delete the wrong index", func() (bool, *api.WriteMeta, error) { return deleteCAS(1) }, false, "10 1 other"},
		{"delete the right index", func() (bool, *api.WriteMeta, error) { return deleteCAS(modified()) }, true, ""},
		{"delete a missing key", func() (bool, *api.WriteMeta, error) { return deleteCAS(1) }, true, ""},
	} {
		ok, _, err := step.do()
		if err != nil || ok != step.ok {
			t.Errorf("%s: %v, %v", step.name, ok, err)
		}
		got := ""
		if p, _, _ := kv.Get("dir/a", nil); p != nil {
			owner := map[string]string{mine: "mine", other: "other"}[p.Session]
			got = strings.Join([]string{string(p.Value), string('0' + rune(p.LockIndex)), owner}, " ")
		}
		if got != step.want {
			t.Errorf("%s: the key is %q, want %q", step.name, got, step.want)
		}
	}

	for session, text := range map[string]string{"": "missing session", "x": `invalid session "x"`} {
		p := &api.KVPair{Key: "b", Session: session}
		if _, _, err := kv.Acquire(p, nil); !isStatus(err, 500, text) {
			t.Errorf("acquire with session %q: %v", session, err)
		}
	}
}

func TestKVLists(t *testing.T) {
	srv := NewServer()
	defer srv.Close()
	kv := srv.Client().KV()
	for _, key := range []string{"a/1", "a/b/1", "a/b/2", "a/c/1", "ab", "b"} {
		srv.Put(key, []byte(key))
	}
	for _, test := range []struct{ prefix, separator, want string }{
		{"", "", "a/1 a/b/1 a/b/2 a/c/1 ab b"},
		{"a", "", "a/1 a/b/1 a/b/2 a/c/1 ab"},
		{"a/", "", "a/1 a/b/1 a/b/2 a/c/1"},
		{"a/", "/", "a/1 a/b/ a/c/"},
		{"", "/", "a/ ab b"},
		{"x", "", ""},
	} {
		keys, _, err := kv.Keys(test.prefix, test.separator, nil)
		if got := strings.Join(keys, " "); err != nil || got != test.want {
			t.Errorf("keys of %q by %q: %q, %v; want %q", test.prefix, test.separator, got, err, test.want)
		}
	}
	pairs, meta, err := kv.List("a/b/", nil)
	if err != nil || len(pairs) != 2 || string(pairs[1].Value) != "a/b/2" || meta.LastIndex != pairs[1].ModifyIndex {
		t.Errorf("list: %v, index %d, %v", pairs, meta.LastIndex, err)
	}
	if _, err := kv.DeleteTree("a/b", nil); err != nil {
		t.Error(err)
	}
	srv.Delete("b")
	if got := srv.Keys(""); !slices.Equal(got, []string{"a/1", "a/c/1", "ab"}) {
		t.Errorf("keys after the deletions: %q", got)
	}
}

func TestKVLimit(t *testing.T) {
	srv := NewServer()
	defer srv.Close()
	kv := srv.Client().KV()
	if _, err := kv.Put(&api.KVPair{Key: "a", Value: make([]byte, 512<<10)}, nil); err != nil {
		t.Error(err)
	}
	if _, err := kv.Put(&api.KVPair{Key: "a", Value: make([]byte, 512<<10+1)}, nil); !isStatus(err, 413, "too large") {
		t.Errorf("more than 512 KiB: %v", err)
	}
}

// TestKVAnswers checks statuses, bodies and headers that api.Client hides.
func TestKVAnswers(t *testing.T) {
	srv := NewServer()
	defer srv.Close()
	srv.Put("a", []byte("value"))
	srv.Put("empty", nil)
	for _, test := range []struct {
		method, path string
		status       int
		body         string
	}{
		{"GET", "kv/a?raw", 200, "value"},
		{"GET", "kv/empty", 200, `"Value":null`},
		{"GET", "kv/nope", 404, ""},
		{"GET", "kv/", 400, "Missing key name"},
		{"GET", "kv/?recurse", 200, `"Key":"a"`},
		{"GET", "kv/a?index=x", 400, "Invalid index"},
		{"GET", "kv/a?index=1&wait=x", 400, "Invalid wait time"},
		{"GET", "kv/a?stale&consistent", 400, "Cannot specify"},
		{"PUT", "kv/", 400, "Missing key name"},
		{"PUT", "kv/a?cas=0&acquire=x", 400, "Conflicting flags"},
		{"PUT", "kv/a?cas=x", 500, "invalid syntax"},
		{"PUT", "kv/a?flags=x", 500, "invalid syntax"},
		{"DELETE", "kv/", 400, "Missing key name"},
		{"DELETE", "kv/a?recurse&cas=1", 400, "Conflicting flags"},
		{"DELETE", "kv/a?cas=x", 500, "invalid syntax"},
		{"POST", "kv/a", 405, "method POST not allowed"},
		{"PUT", "status/leader", 405, "method PUT not allowed"},
	} {
		status, header, body := send(t, srv, test.method, test.path, nil)
		if status != test.status || !strings.Contains(body, test.body) {
			t.Errorf("%s %s: %d %q", test.method, test.path, status, body)
		}
		if read := test.method == "GET" && status != 400; read && (header.Get("X-Consul-Index") == "" ||
			header.Get("X-Consul-Knownleader") != "true" || header.Get("X-Consul-Lastcontact") != "0") {
			t.Errorf("%s %s: header %v", test.method, test.path, header)
		}
	}
}

// send sends a request without an api.Client.
func send(t *testing.T, srv *Server, method, path string, body io.Reader) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://consul/v1/"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: transport{srv}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(text)
}

// TestBlocking changes the store during a blocking query and checks when the
// query returns.
func TestBlocking(t *testing.T) {
	const list, get = "list", "get"
	put := func(key, value string) func(*Server) { return func(s *Server) { s.Put(key, []byte(value)) } }
	del := func(key string) func(*Server) { return func(s *Server) { s.Delete(key) } }
	for _, test := range []struct {
		name, query, key string
		do               func(*Server)
		answered, moved  bool
	}{
		{"a key appears", list, "new/", put("new/1", ""), true, true},
		{"a key changes", list, "a/", put("a/1", "y"), true, true},
		{"nothing changes", list, "a/", put("a/1", "x"), false, false},
		{"another key changes", list, "a/", put("b", "y"), false, false},
		{"a key is deleted", list, "a/", del("a/1"), true, true},
		{"a missing key is deleted", list, "a/", del("a/2"), false, false},
		{"an empty prefix, another key changes", list, "new/", put("b", "y"), true, true},
		{"all keys, another key changes", list, "", put("b", "y"), true, true},
		{"the key changes", get, "a/1", put("a/1", "y"), true, true},
		{"the key is deleted", get, "a/1", del("a/1"), true, true},
		{"the key appears", get, "new", put("new", "y"), true, true},
		{"the key is missing, another key changes", get, "new", put("b", "y"), false, true},
		{"the index goes back", list, "a/", (*Server).RewindIndex, true, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := NewServer()
				defer srv.Close()
				srv.Put("a/1", []byte("x"))
				srv.Put("b", []byte("x"))
				query := func(index uint64) uint64 {
					opts := &api.QueryOptions{WaitIndex: index, WaitTime: 16 * time.Second}
					var meta *api.QueryMeta
					var err error
					if test.query == list {
						_, meta, err = srv.Client().KV().List(test.key, opts)
					} else {
						_, meta, err = srv.Client().KV().Get(test.key, opts)
					}
					if err != nil {
						t.Fatal(err)
					}
					return meta.LastIndex
				}
				before := query(0)
				start := time.Now()
				time.AfterFunc(time.Second, func() { test.do(srv) })
				after := query(before)
				want := 17 * time.Second
				if test.answered {
					want = time.Second
				}
				if got := time.Since(start); got != want || (after > before) != test.moved {
					t.Errorf("index %d after %v, want %v; it was %d", after, got, want, before)
				}
			})
		})
	}
}

// TestSameWrite writes to a locked key. A write of what the key holds already
// moves no index and wakes no listing.
func TestSameWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer()
		defer srv.Close()
		client := srv.Client()
		kv := client.KV()
		mine := newSession(t, client)
		acquire := func(value string, flags uint64) error {
			ok, _, err := kv.Acquire(&api.KVPair{Key: "a/1", Value: []byte(value), Flags: flags, Session: mine}, nil)
			if err == nil && !ok {
				err = errors.New("not acquired")
			}
			return err
		}
		put := func(value string) error { return first(kv.Put(&api.KVPair{Key: "a/1", Value: []byte(value)}, nil)) }
		lock := func() error {
			op := &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVLock, Key: "a/1", Value: []byte("y"), Session: mine}}
			ok, answer, _, err := client.Txn().Txn(api.TxnOps{op}, nil)
			if err == nil && !ok {
				err = fmt.Errorf("refused: %v", answer.Errors)
			}
			return err
		}
		list := func(index uint64) (*api.KVPair, uint64) {
			pairs, meta, err := kv.List("a/", &api.QueryOptions{WaitIndex: index, WaitTime: 16 * time.Second})
			if err != nil || len(pairs) != 1 {
				t.Fatalf("%d keys, %v", len(pairs), err)
			}
			return pairs[0], meta.LastIndex
		}
		if err := acquire("", 0); err != nil {
			t.Fatal(err)
		}
		for _, step := range []struct {
			name  string
			do    func() error
			write bool
		}{
			{"acquire", func() error { return acquire("", 0) }, false},
			{"acquire with a value", func() error { return acquire("x", 0) }, true},
			{"acquire with the value", func() error { return acquire("x", 0) }, false},
			{"acquire with flags", func() error { return acquire("x", 1) }, true},
			{"acquire without flags", func() error { return acquire("x", 0) }, true},
			{"put takes the lock index", func() error { return put("x") }, true},
			{"put", func() error { return put("x") }, false},
			{"put another value", func() error { return put("y") }, true},
			{"acquire after put", func() error { return acquire("y", 0) }, false},
			{"lock in a transaction", lock, false},
		} {
			_, before := list(0)
			start := time.Now()
			time.AfterFunc(time.Second, func() {
				if err := step.do(); err != nil {
					t.Errorf("%s: %v", step.name, err)
				}
			})
			pair, after := list(before)
			want := 17 * time.Second
			if step.write {
				want = time.Second
			}
			if got := time.Since(start); got != want || (after != before) != step.write || pair.ModifyIndex != after || pair.Session != mine {
				t.Errorf("%s: answered after %v, want %v; index %d, was %d; the key is %+v", step.name, got, want, after, before, pair)
			}
			if _, _, err := client.Session().Renew(mine, nil); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestIndexIsNeverZero(t *testing.T) {
	srv := NewServer()
	defer srv.Close()
	for _, prefix := range []string{"", "a/"} {
		if _, meta, err := srv.Client().KV().List(prefix, nil); err != nil || meta.LastIndex < 1 {
			t.Errorf("prefix %q: index %d, %v", prefix, meta.LastIndex, err)
		}
	}
}

func TestRewindIndex(t *testing.T) {
	srv := NewServer()
	defer srv.Close()
	for _, key := range []string{"c", "a", "b"} {
		srv.Put(key, nil)
	}
	srv.Delete("b")
	srv.Put("a", []byte("x"))
	before, meta, err := srv.Client().KV().List("", nil)
	if err != nil {
		t.Fatal(err)
	}
	srv.RewindIndex()
	after, metaAfter, err := srv.Client().KV().List("", nil)
	if err != nil || len(after) != len(before) || metaAfter.LastIndex >= meta.LastIndex {
		t.Errorf("%d keys at index %d, before %d at %d, %v", len(after), metaAfter.LastIndex, len(before), meta.LastIndex, err)
	}
	if a, c := after[0], after[1]; a.ModifyIndex <= a.CreateIndex || a.CreateIndex <= c.CreateIndex {
		t.Errorf("the order of the writes is lost: %v, %v", a, c)
	}
	srv.Put("d", nil)
	if _, metaLast, _ := srv.Client().KV().List("", nil); metaLast.LastIndex <= metaAfter.LastIndex {
		t.Error("a write did not raise the index")
	}
}

func TestClientGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer()
		defer srv.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		start := time.Now()
		_, _, err := srv.Client().KV().List("a/", (&api.QueryOptions{WaitIndex: 1000}).WithContext(ctx))
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 3*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

func TestClientTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer()
		defer srv.Close()
		client := &http.Client{Transport: transport{srv}, Timeout: 3 * time.Second}
		_, err := client.Get("http://consul/v1/kv/a?index=1000")
		var timeout interface{ Timeout() bool }
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("error is %v, want a timeout", err)
		}
	})
}
