package reader

import (
	"strings"
	"testing"
	"time"
)

// An exitStep is a key of node a in a listing.
type exitStep struct {
	at       time.Duration
	path     string // below a; "-" before it means that the key is deleted
	value    string
	index    uint64 // its ModifyIndex
	named    bool   // the listing has names only
	unread   bool
	records  string
	toDelete bool
}

// play makes a step and checks what the ledger makes of it.
func (s *exitStep) play(t *testing.T, l *ledger, now time.Time) {
	t.Helper()
	path, isDeleted := strings.CutPrefix(s.path, "-")
	e := testEntry("a/" + path)
	if isDeleted {
		delete(l.turnedAway, e.Key)
		if l.isRead(e) {
			l.keysDeleted([]*entry{e}, s.index)
		}
		return
	}
	known := value{Value: []byte(s.value), Session: testSession, CreateIndex: 4, ModifyIndex: s.index}
	if e.parsed.Kind == Ack {
		known.CreateIndex = s.index // another write of it would be none
	}
	if !s.named {
		e.value = known
	}
	if unread := l.isUnread(e, now); unread != s.unread {
		t.Errorf("unread %v, want %v", unread, s.unread)
	}
	if !s.unread {
		return
	}
	e.value = known
	var kinds []string
	for _, rec := range l.record([]*entry{e}, now) {
		kinds = append(kinds, rec.Kind.String())
	}
	if got := strings.Join(kinds, " "); got != s.records {
		t.Errorf("records %s, want %s", got, s.records)
	}
	deletes := len(l.toDelete) == 1 && l.toDelete[0].Key == e.Key && l.toDelete[0].ModifyIndex == s.index
	if deletes != s.toDelete {
		t.Errorf("deletes %v, want it %v", l.toDelete, s.toDelete)
	}
	l.toDelete = nil
}

// TestLedgerTurnedAway reads the exits of two copies of a job.
func TestLedgerTurnedAway(t *testing.T) {
	const pause = turnedAwayPause
	const read, skipped = true, false
	for _, test := range []struct {
		name      string
		hasRunner bool
		steps     []exitStep
		away      bool // a second copy was turned away
		twice     bool // the command may have run twice
	}{
		{"deleted", true, []exitStep{
			{0, "exit", "-1", 5, false, read, "ack", true},
			{0, "-exit", "", 5, false, skipped, "", false},
			{0, "exit", "3", 7, false, read, "exit", false},
			{0, "exit", "-1", 8, false, skipped, "", false},
		}, true, false},
		{"not deleted", true, []exitStep{
			{0, "exit", "-1", 5, true, read, "ack", true},
			{pause - 1, "exit", "-1", 5, true, skipped, "", false},
			{pause, "exit", "-1", 5, true, read, "", true},
			{2*pause - 1, "exit", "-1", 5, true, skipped, "", false},
			{2 * pause, "exit", "3", 6, true, read, "exit", false},
		}, true, false},
		{"a listing with values shows a change", true, []exitStep{
			{0, "exit", "-1", 5, false, read, "ack", true},
			{1, "exit", "-1", 5, false, skipped, "", false},
			{1, "exit", "3", 6, false, read, "exit", false},
		}, true, false},
		{"after the exit", true, []exitStep{
			{0, "exit", "3", 4, false, read, "ack exit", false},
			{0, "exit", "-1", 5, false, skipped, "", false},
			{time.Hour, "exit", "-1", 5, true, skipped, "", false},
		}, false, false},
		{"the exit is there again", true, []exitStep{
			{0, "exit", "3", 4, false, read, "ack exit", false},
			{0, "-exit", "", 4, false, skipped, "", false},
			{0, "exit", "3", 9, false, skipped, "", false},
			{0, "exit", "-1", 10, true, skipped, "", false},
		}, false, false},
		{"overwritten before it was read", true, []exitStep{{0, "exit", "0", 9, false, read, "ack exit", false}}, false, false},
		{"output overwritten", true, []exitStep{{0, "out/00000", "x", 9, false, read, "ack out", false}}, false, true},
		{"output after it", true, []exitStep{
			{0, "exit", "-1", 5, false, read, "ack", true},
			{0, "out/00000", "x", 4, false, read, "out", false},
			{0, "-exit", "", 5, false, skipped, "", false},
		}, true, false},
		{"the ack is there again", true, []exitStep{
			{0, "ack", "", 4, false, read, "ack", false},
			{0, "-ack", "", 4, false, skipped, "", false},
			{0, "ack", "", 9, false, skipped, "", false},
		}, false, false},
		{"no runner", false, []exitStep{{0, "exit", "-1", 4, false, read, "ack exit", false}}, false, false},
		{"overwritten without a runner", false, []exitStep{{0, "exit", "-1", 5, false, read, "ack exit", false}}, false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := newLedger(testSession, test.hasRunner)
			start := time.Now()
			for _, step := range test.steps {
				step.play(t, l, start.Add(step.at))
			}
			twice, away := l.takeTwice()
			if len(away) > 0 != test.away || len(twice) > 0 != test.twice {
				t.Errorf("turned away on %v, twice on %v", away, twice)
			}
			if found := l.takeFindings(); len(found) != len(away)+len(twice) {
				t.Errorf("findings %v", found)
			}
			if len(l.turnedAway) > 0 {
				t.Errorf("still to be read again: %v", l.turnedAway)
			}
		})
	}
}
