package exectest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"
)

// A spec is the job document that a client writes.
type spec struct {
	Command string
	Args    []string
	Script  []byte
	Wait    time.Duration
}

// newSession creates a job's session.
func newSession(t *testing.T, client *api.Client) string {
	t.Helper()
	session, _, err := client.Session().Create(&api.SessionEntry{Behavior: "delete", TTL: "15s"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return session
}

// submit submits a job and returns its session and its folder,
// _rexec/<session>/.
func submit(t *testing.T, client *api.Client, job spec, filters api.UserEvent) (session, dir string) {
	t.Helper()
	session = newSession(t, client)
	dir = "_rexec/" + session + "/"
	body, err := json.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	ok, _, err := client.KV().Acquire(&api.KVPair{Key: dir + "job", Value: body, Session: session}, nil)
	if err != nil || !ok {
		t.Fatalf("acquire the job: %v, %v", ok, err)
	}
	filters.Name = "_rexec"
	filters.Payload = fmt.Appendf(nil, `{"Prefix":"_rexec","Session":%q}`, session)
	if _, _, err := client.Event().Fire(&filters, nil); err != nil {
		t.Fatal(err)
	}
	return session, dir
}

// await reads the keys below dir until done returns true. It returns them
// without dir.
func await(t *testing.T, client *api.Client, dir string, done func(keys map[string]string) bool) map[string]string {
	t.Helper()
	for index := uint64(0); ; {
		pairs, meta, err := client.KV().List(dir, (&api.QueryOptions{WaitIndex: index}).WithContext(t.Context()))
		if err != nil {
			t.Fatal(err)
		}
		keys := map[string]string{}
		for _, pair := range pairs {
			keys[strings.TrimPrefix(pair.Key, dir)] = string(pair.Value)
		}
		if done(keys) {
			return keys
		}
		index = meta.LastIndex
	}
}

// has returns a condition for await: the key exists.
func has(key string) func(map[string]string) bool {
	return func(keys map[string]string) bool {
		_, ok := keys[key]
		return ok
	}
}

// output joins web-1's chunks.
func output(keys map[string]string) string {
	var b strings.Builder
	for i := 0; ; i++ {
		chunk, ok := keys[fmt.Sprintf("web-1/out/%05x", i)]
		if !ok {
			return b.String()
		}
		b.WriteString(chunk)
	}
}

// isStatus reports whether err is an answer with the status and a body that
// contains text.
func isStatus(err error, status int, text string) bool {
	return err != nil && strings.Contains(err.Error(), fmt.Sprintf("Unexpected response code: %d", status)) &&
		strings.Contains(err.Error(), text)
}

func TestURL(t *testing.T) {
	srv := NewServer()
	defer srv.Close()
	client, err := api.NewClient(&api.Config{Address: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.KV().Put(&api.KVPair{Key: "a", Value: []byte("b")}, nil); err != nil {
		t.Fatal(err)
	}
	if pair, _, err := srv.Client().KV().Get("a", nil); err != nil || pair == nil || string(pair.Value) != "b" {
		t.Errorf("a is %v, %v", pair, err)
	}
	resp, err := http.Get(srv.URL + "/v1/nonsense")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("unknown path: status %s, want 404", resp.Status)
	}
}

func TestNoSocketInBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer()
		defer srv.Close()
		if srv.URL != "" {
			t.Errorf("URL is %q in a bubble, want none", srv.URL)
		}
		start := time.Now()
		opts := &api.QueryOptions{WaitIndex: 1000, WaitTime: time.Minute}
		if _, _, err := srv.Client().KV().List("a/", opts); err != nil {
			t.Fatal(err)
		}
		if elapsed := time.Since(start); elapsed != time.Minute+time.Minute/16 {
			t.Errorf("a blocking query with a wait of 1m took %v", elapsed)
		}
	})
}

func TestDatacenters(t *testing.T) {
	srv := NewServer(
		LocalDatacenter("east"), Node("web-1", Run(Answer("", 0))),
		Datacenter("west", Node("west-1", Run(Answer("", 0)))),
	)
	defer srv.Close()
	client := srv.Client()

	names, err := client.Catalog().Datacenters()
	if err != nil || !slices.Equal(names, []string{"east", "west"}) {
		t.Errorf("datacenters are %q, %v", names, err)
	}
	self, err := client.Agent().Self()
	if err != nil || self["Config"]["Datacenter"] != "east" || self["Config"]["NodeName"] != "web-1" {
		t.Errorf("the agent is %v, %v", self["Config"], err)
	}
	west := &api.QueryOptions{Datacenter: "west"}
	nodes, _, err := client.Catalog().Nodes(west)
	if err != nil || len(nodes) != 1 || nodes[0].Node != "west-1" || nodes[0].Datacenter != "west" {
		t.Errorf("nodes of west are %v, %v", nodes, err)
	}
	for name, err := range map[string]error{
		"read":    second(client.KV().Get("a", &api.QueryOptions{Datacenter: "north"})),
		"write":   first(client.KV().Put(&api.KVPair{Key: "a"}, &api.WriteOptions{Datacenter: "north"})),
		"event":   second(client.Event().Fire(&api.UserEvent{Name: "_rexec"}, &api.WriteOptions{Datacenter: "north"})),
		"session": second(client.Session().Create(nil, &api.WriteOptions{Datacenter: "north"})),
		"catalog": second(client.Catalog().Nodes(&api.QueryOptions{Datacenter: "north"})),
	} {
		if !isStatus(err, 500, "No path to datacenter") {
			t.Errorf("%s of an unknown datacenter: %v", name, err)
		}
	}

	// A session defaults to the agent's own node, which other datacenters lack.
	write := &api.WriteOptions{Datacenter: "west"}
	if _, _, err := client.Session().CreateNoChecks(nil, write); !isStatus(err, 500, "Missing node registration") {
		t.Errorf("create a session on the agent's node in west: %v", err)
	}
	session, _, err := client.Session().CreateNoChecks(&api.SessionEntry{Node: "west-1", Behavior: "delete"}, write)
	if err != nil {
		t.Fatal(err)
	}
	job := &api.KVPair{Key: "_rexec/" + session + "/job", Value: []byte("{}"), Session: session}
	if ok, _, err := client.KV().Acquire(job, write); err != nil || !ok {
		t.Fatalf("acquire: %v, %v", ok, err)
	}
	event := &api.UserEvent{Name: "_rexec", Payload: fmt.Appendf(nil, `{"Prefix":"_rexec","Session":%q}`, session)}
	if _, _, err := client.Event().Fire(event, write); err != nil {
		t.Fatal(err)
	}
	for index := uint64(0); ; {
		pair, meta, err := client.KV().Get("_rexec/"+session+"/west-1/exit", &api.QueryOptions{Datacenter: "west", WaitIndex: index})
		if err != nil {
			t.Fatal(err)
		}
		if pair != nil {
			break
		}
		index = meta.LastIndex
	}
	if n := srv.Executions("web-1"); n != 0 {
		t.Errorf("web-1 ran the job for west %d times, want 0", n)
	}
	srv.DestroySession(session)
	if keys, sessions := srv.Keys(""), srv.Sessions(); len(keys)+len(sessions) > 0 {
		t.Errorf("left behind: keys %q, sessions %q", keys, sessions)
	}
}

// first and second return the error among the results of a call.
func first[A any](_ A, err error) error          { return err }
func second[A, B any](_ A, _ B, err error) error { return err }

func TestRequests(t *testing.T) {
	srv := NewServer()
	defer srv.Close()
	defer srv.Fault(Fault{Match: Path("DELETE", ""), Do: Refuse})()
	client := srv.Client()
	client.KV().Put(&api.KVPair{Key: "a", Value: []byte("b")}, nil)
	client.KV().DeleteTree("a", &api.WriteOptions{Datacenter: "north", Token: "secret"})
	var got []string
	for _, r := range srv.Requests() {
		got = append(got, fmt.Sprintf("%s %s %v %s %s %s", r.Method, r.Path, r.Query, r.Datacenter, r.Token, r.Body))
	}
	want := []string{
		"PUT /v1/kv/a map[flags:[0]]   b",
		"DELETE /v1/kv/a map[dc:[north] recurse:[]] north secret ",
	}
	if got[0] = strings.Replace(got[0], "map[]", "map[flags:[0]]", 1); !slices.Equal(got, want) {
		t.Errorf("requests are %q, want %q", got, want)
	}
}

func TestCloseEndsRequests(t *testing.T) {
	srv := NewServer()
	errs := make(chan error, 2)
	waiting := Path("GET", "/v1/kv/")
	srv.Fault(Fault{Match: waiting, Times: 2}) // does nothing, and is used up when both have arrived
	remote, err := api.NewClient(&api.Config{Address: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	for _, client := range []*api.Client{srv.Client(), remote} {
		go func() {
			_, _, err := client.KV().List("a/", &api.QueryOptions{WaitIndex: 1000})
			errs <- err
		}()
	}
	for len(srv.Requests()) < 2 {
		runtime.Gosched()
	}
	srv.Close()
	srv.Close()
	for range 2 {
		if err := <-errs; err == nil {
			t.Error("a request succeeded although the cluster was closed")
		}
	}
	if _, _, err := srv.Client().KV().List("a/", nil); err == nil {
		t.Error("a request succeeded after Close")
	}
	noGoroutines(t)
}

// noGoroutines fails the test unless all goroutines of clusters end within 10
// s.
func noGoroutines(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	buf := make([]byte, 1<<20)
	for {
		stacks := string(buf[:runtime.Stack(buf, true)])
		if !strings.Contains(stacks, "exectest.(*Server)") && !strings.Contains(stacks, "exectest.(*agent)") &&
			!strings.Contains(stacks, "net/http.(*conn).serve") {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("goroutines left:\n%s", stacks)
		}
		runtime.Gosched()
	}
}
