package exectest

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"
)

// steps returns a handler that calls each function in order and exits with 0.
func steps(do ...func(j *Job)) Handler {
	return func(ctx context.Context, j *Job) int {
		for _, f := range do {
			f(j)
		}
		return 0
	}
}

func write(text string) func(*Job)         { return func(j *Job) { io.WriteString(j.Output, text) } }
func pause(d time.Duration) func(*Job)     { return func(*Job) { time.Sleep(d) } }
func silence(j *Job)                       { j.Silence() }
func die(j *Job)                           { j.Die() }
func put(key string) func(*Job)            { return func(j *Job) { j.Put(key, []byte("x")) } }
func endSession(srv **Server) func(j *Job) { return func(j *Job) { (*srv).DestroySession(j.Session) } }
func describe(keys map[string]string) string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		value := fmt.Sprintf("%q", keys[key])
		if len(keys[key]) > 20 {
			value = fmt.Sprint(len(keys[key]))
		}
		fmt.Fprintf(&b, "%s=%s ", strings.TrimPrefix(key, "web-1/"), value)
	}
	return strings.TrimSpace(b.String())
}

// TestReports runs scripted jobs and checks all keys of web-1 after a time.
func TestReports(t *testing.T) {
	const ms = time.Millisecond
	var srv *Server
	for _, test := range []struct {
		name string
		run  Handler
		wait time.Duration
		at   time.Duration
		want string
	}{
		{"no output", Answer("", 3), time.Hour, 0, `ack="" exit="3"`},
		{"output is flushed at exit", Answer("hello", 0), time.Hour, 0, `ack="" exit="0" out/00000="hello"`},
		{"chunks are cut", Answer(strings.Repeat("x", 10000), 0), time.Hour, 0, `ack="" exit="0" out/00000=4096 out/00001=4096 out/00002=1808`},
		{"no chunk is empty", Answer(strings.Repeat("x", 8192), 0), time.Hour, 0, `ack="" exit="0" out/00000=4096 out/00001=4096`},
		{"no chunk is empty later", steps(write(strings.Repeat("x", 4096)), pause(time.Second)), time.Hour, 2 * time.Second, `ack="" exit="0" out/00000=4096`},
		{"chunks fill over writes", steps(write(strings.Repeat("x", 4000)), write(strings.Repeat("y", 100)), pause(time.Hour)), time.Hour, 499 * ms,
			`ack="" out/00000=4096`},
		{"the rest is flushed later", steps(write(strings.Repeat("x", 4000)), write(strings.Repeat("y", 100)), pause(time.Hour)), time.Hour, 501 * ms,
			`ack="" out/00000=4096 out/00001="yyyy"`},
		{"a write restarts the flush", steps(write("a"), pause(400*ms), write("b"), pause(time.Hour)), time.Hour, 899 * ms, `ack=""`},
		{"flush after the last write", steps(write("a"), pause(400*ms), write("b"), pause(time.Hour)), time.Hour, 901 * ms, `ack="" out/00000="ab"`},
		{"heartbeats", NeverExit, 2 * time.Second, 5 * time.Second, `ack="" out/00000="" out/00001=""`},
		{"a chunk postpones the heartbeat", steps(pause(time.Second), write("a"), pause(time.Hour)), 2 * time.Second, 3400 * ms,
			`ack="" out/00000="a"`},
		{"heartbeats numbered with output", steps(pause(1300*ms), write("a"), pause(time.Hour)), time.Second, 3500 * ms,
			`ack="" out/00000="" out/00001="a" out/00002=""`},
		{"silenced", steps(write("a"), pause(time.Second), silence, write("b")), time.Hour, time.Hour, `ack="" out/00000="a"`},
		{"dead", steps(write("a"), pause(time.Second), die, write("b")), time.Hour, time.Hour, `ack="" out/00000="a"`},
		{"session gone", steps(write("a"), pause(time.Second), endSession(&srv), write("b")), time.Hour, time.Hour, ``},
		{"hostile keys", steps(put("web-1/out/zzz"), put("web-1/exit"), put("web-1/"), pause(time.Hour)), time.Hour, time.Second,
			`="x" ack="" exit="x" out/zzz="x"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv = NewServer(Node("consul"), Node("web-1", Run(test.run)))
				defer srv.Close()
				_, dir := submit(t, srv.Client(), spec{Wait: test.wait}, api.UserEvent{NodeFilter: "web"})
				renew(t, srv, test.at)
				keys := map[string]string{}
				for _, key := range srv.Keys(dir) {
					pair, _, err := srv.Client().KV().Get(key, nil)
					if err != nil {
						t.Fatal(err)
					}
					keys[strings.TrimPrefix(key, dir)] = string(pair.Value)
				}
				delete(keys, "job")
				if got := describe(keys); got != test.want {
					t.Errorf("after %v:\n got %s\nwant %s", test.at, got, test.want)
				}
			})
		})
	}
}

// renew keeps all sessions alive for d.
func renew(t *testing.T, srv *Server, d time.Duration) {
	t.Helper()
	for end := time.Now().Add(d); ; {
		for _, id := range srv.Sessions() {
			srv.Client().Session().Renew(id, nil)
		}
		synctest.Wait()
		remaining := time.Until(end)
		if remaining <= 0 {
			return
		}
		time.Sleep(min(remaining, 10*time.Second))
	}
}

// TestChunkRefused has another session hold the key of the first chunk: the
// agent gives up, but its exit code gets through.
func TestChunkRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer(Node("web-1", Run(steps(pause(time.Second), write("a"), pause(time.Second), write("b")))))
		defer srv.Close()
		client := srv.Client()
		_, dir := submit(t, client, spec{Wait: time.Hour}, api.UserEvent{})
		taken := &api.KVPair{Key: dir + "web-1/out/00000", Session: newSession(t, client)}
		if ok, _, err := client.KV().Acquire(taken, nil); err != nil || !ok {
			t.Fatalf("%v, %v", ok, err)
		}
		keys := await(t, client, dir, has("web-1/exit"))
		time.Sleep(5 * time.Second)
		if got := srv.Keys(dir + "web-1/out/"); keys["web-1/exit"] != "255" || len(got) != 1 {
			t.Errorf("exit is %q, chunks are %q", keys["web-1/exit"], got)
		}
	})
}

func TestAckAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer(Node("web-1", AckAfter(3*time.Second), Run(Answer("", 0))))
		defer srv.Close()
		start := time.Now()
		_, dir := submit(t, srv.Client(), spec{Wait: time.Hour}, api.UserEvent{})
		await(t, srv.Client(), dir, has("web-1/exit"))
		if elapsed := time.Since(start); elapsed != 3*time.Second {
			t.Errorf("exit after %v, want 3s", elapsed)
		}
	})
}

// TestMissEvents fires three events for a node that misses two. Events for
// other nodes, and those while its agent is down, do not count.
func TestMissEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer(Node("a", Run(Answer("", 0))), Node("b", Run(Answer("", 0)), MissEvents(2), Down()))
		defer srv.Close()
		client := srv.Client()
		for _, step := range []struct {
			node string
			a, b int // executions so far
		}{
			{"b", 0, 0}, // and then b starts
			{"a", 1, 0}, {"a", 2, 0}, {"a", 3, 0},
			{"", 4, 0}, {"b", 4, 0}, {"", 5, 1}, {"b", 5, 2},
		} {
			submit(t, client, spec{Wait: time.Hour}, api.UserEvent{NodeFilter: step.node})
			synctest.Wait()
			if a, b := srv.Executions("a"), srv.Executions("b"); a != step.a || b != step.b {
				t.Errorf("event for %q: a ran %d jobs, want %d; b ran %d, want %d", step.node, a, step.a, b, step.b)
			}
			srv.Start("b")
		}
	})
}

// TestRepeatEvents checks how often a node has run the command after each of
// three copies of an event, and what that does to the keys.
func TestRepeatEvents(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(srv *Server, session, dir string) // after the first ack
		want []int                                  // executions after each copy
	}{
		{"job stands", func(*Server, string, string) {}, []int{1, 2, 3, 3}},
		{"job deleted", func(srv *Server, _, dir string) { srv.Delete(dir + "job") }, []int{1, 1, 1, 1}},
		{"session gone", func(srv *Server, session, _ string) { srv.DestroySession(session) }, []int{1, 1, 1, 1}},
		{"agent restarted", func(srv *Server, _, _ string) { srv.Kill("web-1"); srv.Start("web-1") }, []int{1, 1, 1, 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := NewServer(Node("consul"), Node("web-1", Run(Answer("x", 0)), AckAfter(time.Second), RepeatEvents(2)))
				defer srv.Close()
				client := srv.Client()
				session, dir := submit(t, client, spec{Wait: time.Hour}, api.UserEvent{NodeFilter: "web"})
				index := func() uint64 {
					_, meta, err := client.KV().List(dir, nil)
					if err != nil {
						t.Fatal(err)
					}
					return meta.LastIndex
				}
				var modified uint64
				for i, want := range test.want {
					time.Sleep(time.Second)
					synctest.Wait()
					if got := srv.Executions("web-1"); got != want {
						t.Errorf("%d executions after %ds, want %d", got, i+1, want)
					}
					if i == 0 {
						test.do(srv, session, dir)
						modified = index()
					}
				}
				if got := index(); got != modified {
					t.Errorf("the index of the listing moved from %d to %d, although the copies wrote the same", modified, got)
				}
			})
		})
	}
}

// TestWhichNodesAck sends jobs to nodes of every kind.
func TestWhichNodesAck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer(
			Node("a", Run(NeverExit)),
			Node("b", Run(NeverExit), ExecDisabled()),
			Node("c", Run(NeverExit), Down()),
			Node("d", Run(NeverExit), External()),
			Node("e", Run(NeverExit)),
		)
		defer srv.Close()
		ackedNodes := func() string {
			session, dir := submit(t, srv.Client(), spec{Wait: time.Hour}, api.UserEvent{})
			synctest.Wait()
			defer srv.DestroySession(session)
			var names []string
			for _, key := range srv.Keys(dir) {
				if name, ok := strings.CutSuffix(strings.TrimPrefix(key, dir), "/ack"); ok {
					names = append(names, name)
				}
			}
			return strings.Join(names, " ")
		}
		if got := ackedNodes(); got != "a e" {
			t.Errorf("%s acked, want a e", got)
		}
		srv.Kill("e")
		srv.Start("c")
		if got := ackedNodes(); got != "a c" {
			t.Errorf("%s acked after e was killed and c started, want a c", got)
		}
		if a, e := srv.Executions("a"), srv.Executions("e"); a != 2 || e != 1 {
			t.Errorf("a ran %d jobs, want 2; e ran %d, want 1", a, e)
		}
	})
}

func TestKillAndStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer(Node("consul"), Node("web-1", Run(steps(pause(time.Second), write("a"), pause(time.Hour)))))
		defer srv.Close()
		_, dir := submit(t, srv.Client(), spec{Wait: time.Hour}, api.UserEvent{NodeFilter: "web"})
		synctest.Wait()
		srv.Kill("web-1")
		srv.Start("web-1")
		renew(t, srv, time.Minute)
		if keys := srv.Keys(dir + "web-1/out"); len(keys) > 0 {
			t.Errorf("the new agent wrote the old agent's output: %q", keys)
		}
	})
}

// TestEventWithoutJob fires events that start no job.
func TestEventWithoutJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer(Node("web-1", Run(NeverExit)))
		defer srv.Close()
		client := srv.Client()
		session := newSession(t, client)
		srv.Put("_rexec/"+session+"/job", []byte("{nonsense"))
		for _, payload := range []string{"", "nonsense", `{}`, `{"Prefix":"_rexec","Session":"x"}`, `{"Prefix":"_rexec","Session":"` + session + `"}`} {
			event := &api.UserEvent{Name: "_rexec", Payload: []byte(payload)}
			if _, _, err := client.Event().Fire(event, nil); err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
		if n := srv.Executions("web-1"); n != 0 {
			t.Errorf("%d commands ran, want 0", n)
		}
		if keys := srv.Keys(""); len(keys) != 1 {
			t.Errorf("keys are %q, want only the job", keys)
		}
	})
}

func TestWaitZeroFloods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer(Node("web-1", Run(NeverExit)))
		defer srv.Close()
		_, dir := submit(t, srv.Client(), spec{}, api.UserEvent{})
		time.Sleep(time.Second)
		synctest.Wait()
		if n := len(srv.Keys(dir + "web-1/out/")); n != 1000 {
			t.Errorf("%d heartbeats in 1s, want 1000", n)
		}
	})
}
