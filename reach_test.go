package consulexec

import (
	"fmt"
	"testing"
	"time"
)

// TestLookUpState has nodes fall silent, and the catalog say in turn what it
// knows of them.
func TestLookUpState(t *testing.T) {
	s, at := recovering(t, time.Minute, "a", "b", "c")
	s.reach.listed = true
	s.ack("stranger", "", at(0))
	s.output("a", "", nil, at(4)) // with a wait of 2 s a node is looked up after 3 s
	for _, step := range []struct {
		second int
		names  string   // that are looked up
		found  sighting // thereupon
		want   string   // who is out of reach then
	}{
		{2, "[]", sighting{}, ""},
		{3, "[b c stranger]", sighting{failed: []string{"b", "unknown"}, known: map[string]bool{"c": false, "stranger": false}}, "b c"},
		{4, "[]", sighting{}, ""},                                     // two seconds after the last time at the earliest
		{5, "[b c stranger]", sighting{failed: []string{"b"}}, "b c"}, // too many to look up each
		{7, "[a b c stranger]", sighting{known: map[string]bool{"a": true, "b": true, "c": false}}, "c"},
		{9, "[a b c stranger]", sighting{known: map[string]bool{"a": true, "b": true, "c": true}}, ""},
		{11, "[a b c stranger]", sighting{failed: []string{"a"}}, "a"},
		{13, "[a b c stranger]", sighting{err: fmt.Errorf("no answer")}, ""},
		{15, "[a b c stranger]", sighting{err: ErrPermissionDenied}, ""},
		{60, "[]", sighting{}, ""}, // never again
	} {
		names, due := s.lookUp(at(step.second), at(step.second))
		if got := fmt.Sprint(names); got != step.names {
			t.Errorf("after %d s %s are looked up, want %s", step.second, got, step.names)
		}
		if !due {
			continue
		}
		if _, due := s.lookUp(at(100), at(100)); due || !s.nextLookUp().IsZero() {
			t.Errorf("after %d s nodes are looked up twice at once", step.second)
		}
		s.sighted(step.found)
		got := ""
		for _, name := range []string{"a", "b", "c", "stranger"} {
			if s.nodes[name].unreachable != nil {
				if got != "" {
					got += " "
				}
				got += name
			}
		}
		if got != step.want {
			t.Errorf("after %d s %q are out of reach, want %q", step.second, got, step.want)
		}
	}
}

// TestLookUpMany has many nodes fall silent at once, some of which were gone.
// Only these are looked up one by one.
func TestLookUpMany(t *testing.T) {
	var names []string
	for i := range 2 * maxLookedUp {
		names = append(names, fmt.Sprintf("n-%02d", i))
	}
	s, at := recovering(t, time.Minute, names...)
	s.nodes["n-03"].unreachable, s.nodes["n-11"].unreachable = errGone, errGone
	got, due := s.lookUp(at(3), at(3))
	if !due || fmt.Sprint(got) != "[n-03 n-11]" {
		t.Errorf("%s are looked up, due %v", got, due)
	}
}

// TestLookUpEnds has a node speak that was out of reach, and a session end amid a
// look.
func TestLookUpEnds(t *testing.T) {
	s, at := recovering(t, time.Minute, "a", "b")
	s.lookUp(at(3), at(3))
	s.sighted(sighting{failed: []string{"a", "b"}})
	s.output("a", "", nil, at(4))
	if n := s.nodes["a"]; n.unreachable != nil || n.wasUnreachable {
		t.Error("a node that speaks is out of reach")
	}
	s.lookUp(at(10), at(10))
	s.newSession(ErrSessionLost, at(11))
	if !s.mayLookUp() {
		t.Error("no node is looked up under the new session")
	}
}

// TestLookUpBeforeAck has a node get the job that was out of reach before. As it
// takes the job, it is not.
func TestLookUpBeforeAck(t *testing.T) {
	s, start := newState(testConfig(t)), time.Now()
	s.expect([]string{"a", "b"})
	dispatchTo(s, []string{"a"}, start, nil)
	s.ack("a", "", start)
	s.sighted(sighting{failed: []string{"b"}})
	dispatchTo(s, []string{"b"}, start, nil)
	s.ack("b", "", start)
	if _, _, silent := s.overdue(start.Add(s.agentWait())); len(silent) > 0 {
		t.Errorf("%s is lost by what the catalog said before it took the job", silent[0].Node)
	}
}

// TestFitsPath checks which names stand for themselves in a path.
func TestFitsPath(t *testing.T) {
	for name, want := range map[string]bool{
		"web-1": true, "web.example": true, "a b": false, "a/b": false, "a%2Fb": false, "..": false, ".": false, "a?b": false, "ä": false,
	} {
		if got := fitsPath(name); got != want {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
	}
}
