package reader

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestLedgerTurnedAway reads the exits of two copies of a job. Each step is a key
// in a listing.
func TestLedgerTurnedAway(t *testing.T) {
	type step struct {
		at       time.Duration
		value    string // of a/exit; "gone" deletes it, "ack" and "out" mean other keys
		index    uint64 // its ModifyIndex
		named    bool   // the listing has names only
		unread   bool
		records  string
		toDelete bool
	}
	read, skipped := true, false
	for _, test := range []struct {
		name      string
		hasRunner bool
		steps     []step
		away      bool // a second copy was turned away
		twice     bool // the command may have run twice
	}{
		{"deleted", true, []step{
			{0, "-1", 5, false, read, "ack", true},
			{0, "gone", 5, false, skipped, "", false},
			{0, "3", 7, false, read, "exit", false},
			{0, "-1", 8, false, skipped, "", false},
		}, true, false},
		{"not deleted", true, []step{
			{0, "-1", 5, true, read, "ack", true},
			{turnedAwayPause - 1, "-1", 5, true, skipped, "", false},
			{turnedAwayPause, "-1", 5, true, read, "", true},
			{2*turnedAwayPause - 1, "-1", 5, true, skipped, "", false},
			{2 * turnedAwayPause, "3", 6, true, read, "exit", false},
		}, true, false},
		{"a change shows in a listing with values", true, []step{
			{0, "-1", 5, false, read, "ack", true},
			{1, "-1", 5, false, skipped, "", false},
			{1, "3", 6, false, read, "exit", false},
		}, true, false},
		{"after the exit", true, []step{
			{0, "3", 4, false, read, "ack exit", false},
			{0, "-1", 5, false, skipped, "", false},
			{time.Hour, "-1", 5, true, skipped, "", false},
		}, false, false},
		{"the exit is there again", true, []step{
			{0, "3", 4, false, read, "ack exit", false},
			{0, "gone", 4, false, skipped, "", false},
			{0, "3", 9, false, skipped, "", false},
			{0, "-1", 10, true, skipped, "", false},
		}, false, false},
		{"overwritten before it was read", true, []step{{0, "0", 9, false, read, "ack exit", false}}, false, false},
		{"output overwritten", true, []step{{0, "out", 9, false, read, "ack out", false}}, false, true},
		{"output after it", true, []step{
			{0, "-1", 5, false, read, "ack", true},
			{0, "out", 4, false, read, "out", false},
		}, true, false},
		{"ack again", true, []step{
			{0, "ack", 4, false, read, "ack", false},
			{0, "gone ack", 4, false, skipped, "", false},
			{0, "ack", 9, false, read, "", false},
		}, false, true},
		{"no runner", false, []step{{0, "-1", 4, false, read, "ack exit", false}}, false, false},
		{"overwritten without the runner", false, []step{{0, "-1", 5, false, read, "ack exit", false}}, false, true},
	} {
		l := newLedger(testSession, test.hasRunner)
		start := time.Now()
		for i, step := range test.steps {
			path, value := "a/exit", step.value
			switch {
			case strings.HasSuffix(value, "ack"):
				path = "a/ack"
			case value == "out":
				path = "a/out/00000"
			}
			e := testEntry(path)
			if strings.HasPrefix(value, "gone") {
				delete(l.turnedAway, e.Key)
				if p := l.nodes["a"]; p.hasRead(e.parsed) {
					l.keysDeleted([]*entry{e}, step.index)
				}
				continue
			}
			known := ownValue(value)
			known.CreateIndex, known.ModifyIndex = 4, step.index
			if e.parsed.Kind == Ack {
				known.CreateIndex = step.index
			}
			if !step.named {
				e.value = known
			}
			now := start.Add(step.at)
			if unread := l.isUnread(e, now); unread != step.unread {
				t.Errorf("%s, step %d: unread %v, want %v", test.name, i, unread, step.unread)
			}
			if !step.unread {
				continue
			}
			e.value = known
			var kinds []string
			for _, rec := range l.record([]*entry{e}, now) {
				kinds = append(kinds, rec.Kind.String())
			}
			if got := strings.Join(kinds, " "); got != step.records {
				t.Errorf("%s, step %d: records %s, want %s", test.name, i, got, step.records)
			}
			want := ""
			if step.toDelete {
				want = fmt.Sprint(e.Key, " ", step.index)
			}
			got := ""
			for _, d := range l.toDelete {
				got += fmt.Sprint(d.Key, " ", d.ModifyIndex)
			}
			if l.toDelete = nil; got != want {
				t.Errorf("%s, step %d: deletes %q, want %q", test.name, i, got, want)
			}
		}
		var found []string
		for _, f := range l.takeFindings() {
			found = append(found, f.text)
		}
		twice, away := l.takeTwice()
		if n := slices.Index(found, "a second copy of the job was turned away"); len(away) > 0 != test.away || n < 0 == test.away || len(twice) > 0 != test.twice || len(found) > 1 {
			t.Errorf("%s: turned away on %v, twice on %v, found %q", test.name, away, twice, found)
		}
		if pending := len(l.turnedAway); pending > 0 && test.name != "output after it" {
			t.Errorf("%s: %d keys are still to be read again", test.name, pending)
		}
	}
}
