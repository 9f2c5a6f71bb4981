package consulexec

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/consulexec/consulexec/internal/runner"
)

// recovering returns the state of a run with recovery on nodes that run the
// command since the time 0.
func recovering(t *testing.T, recovery time.Duration, names ...string) (s *state, at func(seconds int) time.Time) {
	t.Helper()
	c, errs := newConfig("true", []Option{WithRecovery(recovery)})
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	s = newState(c)
	for _, note := range noteOrder {
		s.notes = append(s.notes, note.Text("id"))
	}
	start := time.Now()
	at = func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	s.expect(names)
	s.enqueue([]firing{{names: s.next()}})
	f := s.nextEvent()
	s.dispatched(f, at(0), nil)
	for _, name := range names {
		s.ack(name, "", at(0))
	}
	return s, at
}

// asks lets the state ask who is due. It returns their names and the first byte.
func asks(s *state, dispatch string, now time.Time) (names []string, from int64) {
	s.suspectSilent(now)
	for _, nodes := range s.toAsk(now) {
		from = lacks(nodes)
		names = append(names, namesOf(nodes)...)
	}
	if len(names) > 0 {
		s.enqueueAsks([]firing{{dispatch: dispatch, names: names, asks: true}}, from)
		s.queue = nil
		s.asked(names, now)
	}
	return names, from
}

// TestOneStream lets several dispatches bring parts of a node's output.
func TestOneStream(t *testing.T) {
	s, at := recovering(t, time.Minute, "a")
	var got string
	output := func(dispatch, chunk string) {
		t.Helper()
		before, output, ok := s.output("a", dispatch, []byte(chunk), at(1))
		if !ok {
			t.Fatalf("%q of dispatch %q does not count", chunk, dispatch)
		}
		got += string(before) + string(output)
	}
	output("", "0123")
	if s.isCertain("a", "", 0, "") {
		t.Error("a status without a note counts")
	}
	s.suspect(s.nodes["a"], errGaveUp)
	if names, from := asks(s, "2", at(2)); len(names) != 1 || from != 4 {
		t.Fatalf("asked %q from %d", names, from)
	}
	if !s.answers("a", "2", at(3)) || s.answers("a", "", at(3)) {
		t.Error("the answer of a dispatch that asks counts alone")
	}
	output("2", "45")
	output("", "4567")
	output("2", "678"+string(runner.NoteEnded.Text("id")))
	output("", "89")
	rest, note, ok := s.end("a", "2")
	if !ok || string(rest) != "" || note != runner.NoteEnded || !s.isCertain("a", "2", 255, note) {
		t.Errorf("rest %q, note %q", rest, note)
	}
	s.exit("a", 255, note, at(4))
	n := s.results()[0]
	if got != "0123456789" || n.OutputBytes != 10 || n.Recovered != 1 || n.State != StateExited {
		t.Errorf("output %q, result %+v", got, n)
	}
}

// TestForeignNote has a command print what only an ask writes: that is output.
func TestForeignNote(t *testing.T) {
	s, at := recovering(t, time.Minute, "a")
	text := runner.NoteNoTrace.Text("id")
	_, output, _ := s.output("a", "", text, at(1))
	rest, note, _ := s.end("a", "")
	if string(output)+string(rest) != string(text) || note != "" {
		t.Errorf("output %q, rest %q, note %q", output, rest, note)
	}
}

// TestAskedUntilLost leaves nodes silent. The one whose agent has failed is not
// asked, and both are given up when they were out of reach for too long.
func TestAskedUntilLost(t *testing.T) {
	s, at := recovering(t, time.Minute, "alive", "failed")
	s.sighted(sighting{failed: []string{"failed"}})
	asked := 0
	for second := range 90 {
		now := at(second)
		names, _ := asks(s, "2", now)
		asked += len(names)
		for _, name := range names {
			if name != "alive" || second < 15 {
				t.Errorf("%s is asked after %d s", name, second)
			}
		}
		_, _, silent := s.overdue(now)
		for _, n := range silent {
			if second < 60 || second > 65 {
				t.Errorf("%s is lost after %d s", n.Node, second)
			}
			s.lose(n.Node, errors.New("silent"), now)
		}
		if due := s.deadline(); s.running > 0 && due.Before(now) {
			t.Fatalf("after %d s something was due %v ago", second, now.Sub(due))
		}
	}
	if asked < 3 || asked > 6 || s.running != 0 || len(s.open) != 0 {
		t.Errorf("asked %d times, %d nodes run, %d dispatches are open", asked, s.running, len(s.open))
	}
}

// TestAskedWhenBack has an agent come back.
func TestAskedWhenBack(t *testing.T) {
	s, at := recovering(t, time.Minute, "a")
	s.sighted(sighting{failed: []string{"a"}})
	if names, _ := asks(s, "2", at(30)); len(names) != 0 {
		t.Error("asked while its agent has failed")
	}
	s.sighted(sighting{})
	if names, _ := asks(s, "2", at(31)); len(names) != 1 {
		t.Error("not asked although its agent is back")
	}
}

// TestShortRecovery has a recovery that is shorter than the lost timeout: the
// node is asked once before it is lost.
func TestShortRecovery(t *testing.T) {
	s, at := recovering(t, time.Second, "a")
	if _, _, silent := s.overdue(at(14)); len(silent) > 0 {
		t.Error("lost before the lost timeout")
	}
	s.suspectSilent(at(15))
	if _, _, silent := s.overdue(at(15)); len(silent) > 0 {
		t.Error("lost before it was asked")
	}
	if names, _ := asks(s, "2", at(15)); len(names) != 1 {
		t.Error("not asked")
	}
	if _, _, silent := s.overdue(at(19)); len(silent) > 0 {
		t.Error("lost before it could answer")
	}
	if names, _ := asks(s, "3", at(20)); len(names) != 0 {
		t.Error("asked again")
	}
	if _, _, silent := s.overdue(at(20)); len(silent) != 1 {
		t.Error("not lost")
	}
}

// TestNewSession has nodes that run, wait for their ack, are queued and wait for
// their turn when the session is lost.
func TestNewSession(t *testing.T) {
	s, at := recovering(t, time.Minute, "runs")
	for _, name := range []string{"silent", "queued", "waits"} {
		s.add(name)
	}
	s.waiting = []string{"waits"}
	s.enqueue([]firing{{dispatch: "2", names: []string{"silent"}}, {dispatch: "3", names: []string{"queued"}}})
	s.dispatched(s.queue[0], at(1), nil)
	s.newSession(ErrSessionLost, at(1))
	if names, _ := asks(s, "", at(2)); len(names) != 2 {
		t.Errorf("asked %q, want those that may have started", names)
	}
	if names := s.next(); len(names) != 2 || names[0] != "queued" {
		t.Errorf("%q get the job, want those that can't have it", names)
	}
	if s.tookJob("runs", at(3)) || !s.noTrace("silent") || s.nodes["silent"].State != StateNoResponse {
		t.Errorf("silent is %v, want no response", s.nodes["silent"].State)
	}
	if s.running != 1 || s.taken != 1 || s.unacked != 0 {
		t.Errorf("%d run, %d took the job, %d may take it", s.running, s.taken, s.unacked)
	}
}

// TestAskedInVain has a node take each job that asks it, and say nothing.
func TestAskedInVain(t *testing.T) {
	s, at := recovering(t, time.Minute, "a")
	s.suspect(s.nodes["a"], errGaveUp)
	asked := 0
	for second := range 90 {
		now := at(second)
		dispatch := fmt.Sprint(second + 2)
		if names, _ := asks(s, dispatch, now); len(names) > 0 {
			asked++
			s.answers("a", dispatch, now)
			s.drop("a", dispatch, errGaveUp)
		}
		if _, _, silent := s.overdue(now); len(silent) > 0 {
			if second < 60 || second > 70 || asked > 8 {
				t.Errorf("asked %d times, lost after %d s", asked, second)
			}
			return
		}
	}
	t.Errorf("asked %d times, and not lost", asked)
}

// TestUnaskable has no event that can carry a node's name.
func TestUnaskable(t *testing.T) {
	s, at := recovering(t, time.Minute, "a")
	s.suspect(s.nodes["a"], errGaveUp)
	tries := 0
	for second := range 70 {
		for range s.toAsk(at(second)) {
			tries++
			s.unaskable(s.nodes["a"], at(second))
		}
		if _, _, silent := s.overdue(at(second)); len(silent) > 0 {
			if tries != 1 {
				t.Errorf("%d tries, want one", tries)
			}
			return
		}
	}
	t.Errorf("not lost after %d tries", tries)
}

// TestUnsureLimit has a node that may have taken the job. The next one takes its
// place only if it has not.
func TestUnsureLimit(t *testing.T) {
	for _, test := range []struct {
		name    string
		resolve func(s *state)
		next    int // how many nodes get the job then
	}{
		{"no trace", func(s *state) { s.noTrace("a") }, 1},
		{"given up", func(s *state) { s.giveUpUnsure(s.nodes["a"], errNotAsked, time.Now()) }, 0},
	} {
		c, errs := newConfig("true", []Option{WithRecovery(time.Minute), WithLimit(1)})
		if len(errs) > 0 {
			t.Fatal(errs)
		}
		s, now := newState(c), time.Now()
		s.expect([]string{"a", "b"})
		s.enqueue([]firing{{names: s.next()}})
		f := s.nextEvent()
		s.dispatched(f, now, nil)
		s.newSession(ErrSessionLost, now)
		if names := s.next(); len(names) > 0 {
			t.Errorf("%q get the job although a may have it", names)
		}
		test.resolve(s)
		if names := s.next(); len(names) != test.next {
			t.Errorf("%s: %q get the job, want %d", test.name, names, test.next)
		}
	}
}

// TestUnsureGivenUp has a node of which nobody will know whether it took the job.
func TestUnsureGivenUp(t *testing.T) {
	s, at := recovering(t, time.Minute, "runs")
	s.add("silent")
	s.enqueue([]firing{{dispatch: "2", names: []string{"silent"}}})
	s.dispatched(s.queue[0], at(1), nil)
	s.newSession(ErrSessionLost, at(1))
	s.settleUnsure(errNotAsked, at(2))
	n := s.results()[1]
	if n.State != StateLost || !n.Acked.IsZero() || !n.Exited.Equal(at(2)) || !errors.Is(n.Err, errMayHaveTaken) {
		t.Errorf("got %+v", n)
	}
}
