package exectest

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"
)

// A use is something that a test does with a Server.
type use struct {
	name string
	do   func() error
}

// uses are what a test does with a Server. After Kill no session can be created on
// the node.
func uses(srv *Server, client *api.Client) []use {
	return []use{
		{"Client", func() error { srv.Client(); return nil }},
		{"Config", func() error { srv.Config(); return nil }},
		{"Put", func() error { srv.Put("x", nil); return nil }},
		{"Delete", func() error { srv.Delete("x"); return nil }},
		{"Rewind", func() error { srv.RewindIndex(); return nil }},
		{"Destroy", func() error { srv.DestroySession("x"); return nil }},
		{"ServeHTTP", func() error {
			srv.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/v1/status/leader", nil))
			return nil
		}},
		{"a request", func() error { _, err := client.Status().Leader(); return err }},
		{"an update", func() error { _, err := client.KV().Put(&api.KVPair{Key: "x"}, nil); return err }},
		{"a query", func() error {
			_, _, err := client.Catalog().Nodes(&api.QueryOptions{WaitIndex: 1000, WaitTime: time.Second})
			return err
		}},
		{"a session", func() error { _, _, err := client.Session().Create(nil, nil); return err }},
		{"Kill", func() error { srv.Kill("a"); return nil }},
		{"Start", func() error { srv.Start("a"); return nil }},
		{"SetHealth", func() error { srv.SetHealth("a", "", "critical"); return nil }},
	}
}

// outcome returns the text of the panic or the error of a use, or nothing.
func outcome(use func() error) (text string) {
	defer func() {
		if p := recover(); p != nil {
			text = fmt.Sprint("panic: ", p)
		}
	}()
	if err := use(); err != nil {
		return err.Error()
	}
	return ""
}

// TestMisplaced uses a Server on the wrong side of a bubble's wall. Each use says
// so.
func TestMisplaced(t *testing.T) {
	srv := NewServer(Node("a"))
	defer srv.Close()
	client := srv.Client()
	var inner *Server
	var innerClient *api.Client
	synctest.Test(t, func(t *testing.T) {
		for _, u := range uses(srv, client) {
			text := outcome(u.do)
			// The client's goroutine may be the run's, so a request has an error.
			request := strings.HasPrefix(u.name, "a")
			if !strings.Contains(text, "exectest: this Server was made outside of the synctest bubble") || strings.HasPrefix(text, "panic: ") == request {
				t.Errorf("%s: %s", u.name, text)
			}
		}
		inner = NewServer(Node("a"))
		innerClient = inner.Client()
		for _, u := range uses(inner, innerClient) {
			if text := outcome(u.do); text != "" {
				t.Errorf("%s of a Server in its place: %s", u.name, text)
			}
		}
		inner.Close()
		srv.Keys("")
		srv.Requests()
	})
	for _, u := range uses(inner, innerClient) {
		if text := outcome(u.do); !strings.Contains(text, "exectest: this Server was made in a synctest bubble") {
			t.Errorf("%s: %s", u.name, text)
		}
	}
	for _, u := range uses(srv, client) {
		if text := outcome(u.do); text != "" {
			t.Errorf("%s of a Server in its place: %s", u.name, text)
		}
	}
}

// TestMisplacedClose closes a Server in a bubble that has no other part in it.
func TestMisplacedClose(t *testing.T) {
	srv := NewServer(Node("a"))
	if _, _, err := srv.Client().Session().Create(nil, nil); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) { srv.Close() })
}
