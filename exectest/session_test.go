package exectest

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"
)

func TestSessionExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer()
		defer srv.Close()
		client := srv.Client()
		id := newSession(t, client) // TTL 15s
		if ok, _, err := client.KV().Acquire(&api.KVPair{Key: "a", Session: id}, nil); err != nil || !ok {
			t.Fatalf("%v, %v", ok, err)
		}
		for range 3 {
			time.Sleep(29 * time.Second)
			if entry, _, err := client.Session().Renew(id, nil); err != nil || entry == nil || entry.ID != id {
				t.Fatalf("renew: %v, %v", entry, err)
			}
		}
		start := time.Now()
		_, meta, _ := client.KV().List("a", nil)
		pairs, _, err := client.KV().List("a", &api.QueryOptions{WaitIndex: meta.LastIndex})
		if elapsed := time.Since(start); err != nil || len(pairs) > 0 || elapsed != 30*time.Second {
			t.Errorf("%d keys after %v, %v; want 0 after 30s", len(pairs), elapsed, err)
		}
		if entry, _, err := client.Session().Renew(id, nil); entry != nil || err != nil {
			t.Errorf("renew an expired session: %v, %v", entry, err)
		}
		if status, _, body := send(t, srv, "PUT", "session/renew/"+id, nil); status != 404 || !strings.Contains(body, id) {
			t.Errorf("renew an expired session: %d %q", status, body)
		}
		if len(srv.Sessions()) > 0 {
			t.Error("the expired session is still listed")
		}
	})
}

func TestSessionDestroy(t *testing.T) {
	for behavior, want := range map[string]string{"delete": "[b]", "release": "[a b]", "": "[a b]"} {
		srv := NewServer()
		client := srv.Client()
		id, _, err := client.Session().Create(&api.SessionEntry{Behavior: behavior, LockDelay: time.Minute}, nil)
		if err != nil {
			t.Fatal(err)
		}
		client.KV().Acquire(&api.KVPair{Key: "a", Session: id}, nil)
		srv.Put("b", nil)
		if _, err := client.Session().Destroy(id, nil); err != nil {
			t.Error(err)
		}
		if got := "[" + strings.Join(srv.Keys(""), " ") + "]"; got != want {
			t.Errorf("behavior %q leaves %s, want %s", behavior, got, want)
		}
		// The lock delay keeps others out, as the old holder may not know yet
		// that its session has ended.
		other := newSession(t, client)
		if ok, _, err := client.KV().Acquire(&api.KVPair{Key: "a", Session: other}, nil); err != nil || ok {
			t.Errorf("behavior %q: acquired within the lock delay: %v, %v", behavior, ok, err)
		}
		if pair, _, err := client.KV().Get("a", nil); err != nil || pair != nil && pair.Session != "" {
			t.Errorf("behavior %q: the key is %v, %v", behavior, pair, err)
		}
		if _, err := client.Session().Destroy(id, nil); err != nil {
			t.Errorf("destroy again: %v", err)
		}
		srv.Close()
	}
}

func TestSessionEndsWithNode(t *testing.T) {
	srv := NewServer(Node("web-1"), Node("web-2"))
	defer srv.Close()
	client := srv.Client()
	checked := newSession(t, client)
	unchecked, _, err := client.Session().CreateNoChecks(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, _, err := client.Session().Create(&api.SessionEntry{Node: "web-2"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	srv.Kill("web-1")
	got, want := srv.Sessions(), []string{unchecked, elsewhere}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("sessions are %q, want %q without %s", got, want, checked)
	}
	if _, _, err := client.Session().Create(nil, nil); !isStatus(err, 500, "critical state") {
		t.Errorf("create on a dead node: %v", err)
	}
}

func TestSessionCreateRefuses(t *testing.T) {
	srv := NewServer(Node("web-1"), Node("db", External()))
	defer srv.Close()
	for _, test := range []struct {
		body   string
		status int
		text   string
	}{
		{`{"Node":"nope"}`, 500, "apply failed: Missing node registration"},
		{`{"Node":""}`, 500, "Must provide Node"},
		{`{"Node":"db"}`, 500, "Missing check 'serfHealth' registration"},
		{`{"Checks":["nope"]}`, 500, "Missing check 'nope' registration"},
		{`{"NodeChecks":["nope"]}`, 500, "Missing check 'nope' registration"},
		{`{"TTL":"1s"}`, 500, "Invalid Session TTL '1000000000', must be between [10s=24h0m0s]"},
		{`{"TTL":"x"}`, 500, "Session TTL 'x' invalid"},
		{`{"Behavior":"x"}`, 500, "Invalid Behavior setting 'x'"},
		{`{"LockDelay":"x"}`, 400, "Request decode failed"},
		{`{`, 400, "Request decode failed"},
		{`{"Node":"db","Checks":[]}`, 200, `"ID"`},
		{`{"Node":"db","NodeChecks":[]}`, 200, `"ID"`},
		{``, 200, `"ID"`},
	} {
		status, _, body := send(t, srv, "PUT", "session/create", strings.NewReader(test.body))
		if status != test.status || !strings.Contains(body, test.text) {
			t.Errorf("%s: %d %s", test.body, status, body)
		}
	}
	for _, path := range []string{"session/destroy/", "session/renew/"} {
		if status, _, body := send(t, srv, "PUT", path, nil); status != 400 || body != "Missing session" {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
}

func TestSessionInfo(t *testing.T) {
	srv := NewServer(Node("web-1"), Node("web-2"))
	defer srv.Close()
	client := srv.Client()
	id, _, err := client.Session().Create(&api.SessionEntry{Name: "n", Node: "web-2", LockDelay: 3 * time.Second, TTL: "20s"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	entry, meta, err := client.Session().Info(id, nil)
	if err != nil || entry == nil || meta.LastIndex == 0 {
		t.Fatalf("%v, %v", entry, err)
	}
	if entry.Name != "n" || entry.Node != "web-2" || entry.LockDelay != 3*time.Second || entry.TTL != "20s" ||
		entry.Behavior != "release" || !slices.Equal(entry.NodeChecks, []string{"serfHealth"}) {
		t.Errorf("session is %+v", entry)
	}
	if entry, _, err := client.Session().Info("x", nil); err != nil || entry != nil {
		t.Errorf("info of an unknown session: %v, %v", entry, err)
	}
	for node, want := range map[string]int{"web-1": 0, "web-2": 1} {
		if list, _, err := client.Session().Node(node, nil); err != nil || len(list) != want {
			t.Errorf("sessions of %s: %v, %v", node, list, err)
		}
	}
	if list, _, err := client.Session().List(nil); err != nil || len(list) != 1 {
		t.Errorf("sessions: %v, %v", list, err)
	}
}
