package reader

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec/exectest"
	"github.com/consulexec/consulexec/internal/devcluster"
)

// TestAnswers checks that the scanner reads what a Consul writes, so that
// nothing is left to encoding/json.
func TestAnswers(t *testing.T) {
	t.Run("exectest", func(t *testing.T) {
		t.Parallel()
		srv := exectest.NewServer(exectest.Node("a"))
		defer srv.Close()
		checkAnswers(t, srv.Client(), srv.URL)
	})
	t.Run("consul", func(t *testing.T) {
		if testing.Short() {
			t.Skip("-short leaves real Consul out")
		}
		t.Parallel()
		cluster := devcluster.Start(t, devcluster.Config{Nodes: devcluster.Nodes(1, 0)})
		checkAnswers(t, cluster.Client("server-1"), "http://"+cluster.Address("server-1"))
	})
}

func checkAnswers(t *testing.T, client *api.Client, url string) {
	session, _, err := client.Session().Create(&api.SessionEntry{Behavior: api.SessionBehaviorDelete}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var want []entry
	var ops []string
	for i, output := range [][]byte{nil, []byte("0"), bytes.Repeat([]byte("some output\n"), 300)} {
		p := entry{Key: fmt.Sprintf("answers/web-1/out/%05x", i), value: value{Value: output}}
		if i > 0 {
			p.Session = session
			_, _, err = client.KV().Acquire(&api.KVPair{Key: p.Key, Value: output, Session: session}, nil)
		} else {
			_, err = client.KV().Put(&api.KVPair{Key: p.Key, Value: output}, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, p)
		ops = append(ops, fmt.Sprintf(`{"KV":{"Verb":"get","Key":%q}}`, p.Key))
	}
	compare := func(form string, got []entry, ok bool, values bool) {
		t.Helper()
		if !ok || len(got) != len(want) {
			t.Errorf("%s: read %v, %d pairs, want %d", form, ok, len(got), len(want))
			return
		}
		for i, want := range want {
			if got[i].Key != want.Key || values && (got[i].Session != want.Session || !bytes.Equal(got[i].Value, want.Value)) {
				t.Errorf("%s: %s with %d bytes by %q, want %s with %d by %q", form,
					got[i].Key, len(got[i].Value), got[i].Session, want.Key, len(want.Value), want.Session)
			}
		}
	}
	request := func(method, path, body string) scanner {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, url+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		transport := new(http.Transport)
		defer transport.CloseIdleConnections()
		response, err := transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		answer, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return scanner{rest: answer}
	}
	names := request("GET", "/v1/kv/answers/?keys", "")
	got, ok := names.names()
	compare("names", got, ok, false)
	pairs := request("GET", "/v1/kv/answers/?recurse", "")
	got, ok = pairs.values()
	compare("pairs", got, ok, true)
	results := request("PUT", "/v1/txn", "["+strings.Join(ops, ",")+"]")
	got, ok = results.results()
	compare("results", got, ok, true)
}
