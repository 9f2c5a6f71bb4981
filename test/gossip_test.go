package test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
	"github.com/consulexec/consulexec/internal/runtest"
)

// TestGossip runs on nodes that gossip misses, or reaches more than once. A copy
// of an event is harmless after every node of its dispatch has acknowledged.
// The slowest does so after half a second.
func TestGossip(t *testing.T) {
	late := exectest.AckAfter(400 * time.Millisecond)
	for _, test := range []struct {
		name    string
		how     []exectest.NodeOption // of b
		options []consulexec.Option
		states  string
		ran     int // how often b runs the command
	}{
		{"misses one event", []exectest.NodeOption{exectest.MissEvents(1)}, nil, "a: exit 0, b: exit 0, c: exit 0", 1},
		{"misses two events", []exectest.NodeOption{exectest.MissEvents(2)}, nil, "a: exit 0, b: exit 0, c: exit 0", 1},
		{"misses every event", []exectest.NodeOption{exectest.MissEvents(3)}, nil, "a: exit 0, b: no response, c: exit 0", 0},
		{"misses an event of its own", []exectest.NodeOption{exectest.MissEvents(1)}, []consulexec.Option{consulexec.WithConcurrency(1)},
			"a: exit 0, b: exit 0, c: exit 0", 1},
		{"gets copies later", []exectest.NodeOption{exectest.RepeatEvents(3), late}, nil, "a: exit 0, b: exit 0, c: exit 0", 1},
		{"misses one event and gets copies later", []exectest.NodeOption{exectest.MissEvents(1), exectest.RepeatEvents(3), late}, nil,
			"a: exit 0, b: exit 0, c: exit 0", 1},
		{"gets a copy before the slowest node", []exectest.NodeOption{exectest.RepeatEvents(1), exectest.AckAfter(200 * time.Millisecond)}, nil,
			"a: exit 0, b: exit 0, c: exit 0", 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			nodes := []exectest.Option{
				runtest.Node("a", runtest.Up),
				runtest.Node("b", runtest.Up, test.how...),
				runtest.Node("c", runtest.Sleeps(20*time.Second), exectest.AckAfter(500*time.Millisecond)), // outlasts all events
			}
			runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
				_, result, err := runtest.Execute(t, srv.Client(), "x", test.options...)
				if got := runtest.States(result); err != nil || got != test.states {
					t.Errorf("error %v, states %s, want %s", err, got, test.states)
				}
				for name, want := range map[string]int{"a": 1, "b": test.ran, "c": 1} {
					if got := srv.Executions(name); got != want {
						t.Errorf("%s ran the command %d times, want %d", name, got, want)
					}
				}
			})
		})
	}
}

// TestRanTwiceAfterDeletion has agents that get an event twice while its dispatch
// is open. What most of them wrote first was read and deleted by then, so that
// the second copies show. The result accuses no other node.
func TestRanTwiceAfterDeletion(t *testing.T) {
	nodes := []exectest.Option{runtest.Node("off", runtest.Up, exectest.ExecDisabled())} // keeps the dispatch open
	for i := range 70 {
		nodes = append(nodes, runtest.Node(fmt.Sprintf("n-%02d", i), runtest.Up, exectest.RepeatEvents(i%2), exectest.AckAfter(time.Second)))
	}
	runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		_, result, err := runtest.Execute(t, srv.Client(), "x", consulexec.WithAckTimeout(20*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		noticed := 0
		for _, n := range result.Nodes {
			if n.Err == nil || !strings.Contains(n.Err.Error(), "may have run twice") {
				continue
			}
			noticed++
			if ran := srv.Executions(n.Node); ran != 2 {
				t.Errorf("%s ran the command %d times; %v", n.Node, ran, n.Err)
			}
		}
		if noticed == 0 {
			t.Error("no second copy shows")
		}
	})
}

// TestWrittenOverBeforeDeletion has a node whose output was read and then written
// over, as by a second copy of the command. The deletion of what was read does
// not hide that.
func TestWrittenOverBeforeDeletion(t *testing.T) {
	over := func(ctx context.Context, j *exectest.Job) int {
		j.Put("w/out/00000", []byte("first\n"))
		runtest.Sleeps(time.Second)(ctx, j)
		j.Put("w/out/00000", []byte("second\n"))
		return runtest.Sleeps(5*time.Second)(ctx, j)
	}
	nodes := []exectest.Option{runtest.Node("w", over)}
	for i := range 70 { // whose keys, with those of w, are enough for a deletion
		nodes = append(nodes, runtest.Node(fmt.Sprintf("n-%02d", i), runtest.Up, exectest.AckAfter(2*time.Second)))
	}
	runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		_, result, err := runtest.Execute(t, srv.Client(), "x", consulexec.WithAckTimeout(20*time.Second), consulexec.WithWait(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range result.Nodes {
			said := n.Err != nil && strings.Contains(n.Err.Error(), "may have run twice")
			if want := n.Node == "w"; said != want {
				t.Errorf("%s: error %v", n.Node, n.Err)
			}
		}
	})
}
