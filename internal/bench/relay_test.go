package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestRelay checks that each connection of a client is one of the server's, and
// what the relay counts.
func TestRelay(t *testing.T) {
	const conns = 3
	var remotes = make(chan string, 2*conns)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
		remotes <- r.RemoteAddr
	}))
	defer srv.Close()
	r, err := newRelay(srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	for range conns {
		client := &http.Client{Transport: new(http.Transport)}
		defer client.CloseIdleConnections()
		for range 2 {
			response, err := client.Post("http://"+r.addr+"/v1/txn", "", strings.NewReader("body"))
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(response.Body)
			response.Body.Close()
			if string(body) != "body" || err != nil {
				t.Errorf("answer %q, %v", body, err)
			}
		}
	}
	seen := make(map[string]bool)
	for range 2 * conns {
		seen[<-remotes] = true
	}
	counts, most := r.reset()
	if len(seen) != conns || most != conns {
		t.Errorf("the server saw %d connections, the relay counted %d, want %d", len(seen), most, conns)
	}
	if n := counts.requests[readValues].Load(); n != 2*conns || counts.wire.Load() < n*int64(len("body")) {
		t.Errorf("%d requests, want %d; %d bytes", n, 2*conns, counts.wire.Load())
	}
	r.close()
	if _, err := http.Get("http://" + r.addr); err == nil {
		t.Error("the relay still serves")
	}
}
