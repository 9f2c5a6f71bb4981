package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/consulexec/consulexec/exectest"
)

func withKey(key string) []string { return append([]string{"Idempotency-Key", key}, asJSON...) }

func TestIdempotencyKey(t *testing.T) {
	end := make(chan struct{})
	s := start(t, exectest.Node("a", exectest.Run(func(context.Context, *exectest.Job) int { <-end; return 0 })), exectest.Node("b"))
	post := func(key, body string) (int, string) {
		t.Helper()
		status, text := request(t, "POST", s.web.URL+"/runs", body, withKey(key)...)
		var answer struct{ ID string }
		if err := json.Unmarshal([]byte(text), &answer); err != nil {
			t.Fatal(err)
		}
		if answer.ID == "" {
			return status, text
		}
		return status, answer.ID
	}
	const body = `{"command": "x", "nodes": ["a"]}`

	// At once, during the run, with other spaces, and while Consul is away.
	ids := make([]string, 20)
	var posts sync.WaitGroup
	var arrived atomic.Int32
	all := make(chan struct{})
	restore := s.cluster.Fault(exectest.Fault{Match: exectest.Path("GET", "/v1/status/leader"), Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if int(arrived.Add(1)) == len(ids) {
			close(all)
		}
		<-all
		next.ServeHTTP(w, r)
	}})
	for i := range ids {
		posts.Go(func() { _, ids[i] = post("k1", body) })
	}
	posts.Wait()
	restore()
	_, again := post("k1", `{"nodes":["a"],"command":"x"}`)
	restore = s.cluster.Fault(exectest.Fault{Match: exectest.Path("GET", "/v1/status/leader"), Do: exectest.Refuse})
	_, away := post("k1", body)
	restore()
	for _, id := range append(ids, again, away) {
		if id != ids[0] || id == "" {
			t.Errorf("run %s, want %s", id, ids[0])
		}
	}

	for _, other := range []string{`{"command": "y", "nodes": ["a"]}`, `{"command": "x", "nodes": ["b"]}`, `{"command": "x", "node": "a"}`, `{"command": "x"}`} {
		if status, text := post("k1", other); status != http.StatusUnprocessableEntity || !strings.Contains(text, ids[0]) {
			t.Errorf("%s: status %d: %s", other, status, text)
		}
	}
	if status, id := post("k2", body); status != http.StatusCreated || id == ids[0] {
		t.Errorf("another key: status %d: %s", status, id)
	}
	for _, bad := range []string{"", strings.Repeat("x", maxKeyLength+1)} {
		if status, text := post(bad, body); status != http.StatusBadRequest || !strings.Contains(text, "Idempotency-Key") {
			t.Errorf("key %.10q: status %d: %s", bad, status, text)
		}
	}
	if status, _ := post("k3", `{"command": ""}`); status != http.StatusBadRequest {
		t.Errorf("a bad order: status %d", status)
	}
	if status, _ := post("k3", body); status != http.StatusCreated {
		t.Errorf("the key of a bad order: status %d", status)
	}
	close(end)
	s.running.Wait()
	if _, id := post("k1", body); id != ids[0] {
		t.Errorf("after the end: run %s, want %s", id, ids[0])
	}
	if n := s.cluster.Executions("a"); n != 3 {
		t.Errorf("a ran %d commands, want 3", n)
	}
}

// TestKeysEnd checks for how long keys are remembered, and how many.
func TestKeysEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := exectest.NewServer(exectest.Node("a", exectest.Run(func(context.Context, *exectest.Job) int {
			time.Sleep(2 * keepKeys)
			return 0
		})))
		defer cluster.Close()
		s := newServer(cluster.Client(), testSettings)
		defer s.close()
		handler := s.handler()
		post := func(key string) *httptest.ResponseRecorder {
			req := httptest.NewRequestWithContext(t.Context(), "POST", "http://localhost/runs", strings.NewReader(`{"command": "x"}`))
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Idempotency-Key", key)
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, req)
			return w
		}
		first := post("k").Header().Get("Location")
		time.Sleep(2*keepKeys + keepEnded/2)
		if again := post("k").Header().Get("Location"); again != first {
			t.Errorf("after the run's end: run %s, want %s", again, first)
		}
		time.Sleep(keepKeys - keepEnded/2 - time.Minute)
		if again := post("k"); again.Code != http.StatusGone || !strings.Contains(again.Body.String(), strings.TrimPrefix(first, "/runs/")) {
			t.Errorf("shortly before keepKeys: status %d, %s", again.Code, again.Body)
		}
		time.Sleep(2 * time.Minute)
		if again := post("k"); again.Code != http.StatusCreated || again.Header().Get("Location") == first {
			t.Errorf("after keepKeys: status %d, the same run", again.Code)
		}

		s.mu.Lock()
		for i := len(s.keys); i < maxKeys; i++ {
			s.keys[fmt.Sprint(i)] = keyed{}
		}
		s.mu.Unlock()
		if w := post("one too many"); w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" {
			t.Errorf("one key too many: status %d", w.Code)
		}
	})
}
