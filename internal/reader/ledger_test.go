package reader

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	testSession = "the-session"
	testBase    = "_rexec/" + testSession + "/"
)

// testEntry returns the entry for a key under testBase.
func testEntry(path string) *entry {
	return &entry{Key: testBase + path, parsed: ParseKey(path, testSession)}
}

func ownValue(v string) value { return value{Value: []byte(v), Session: testSession} }

// TestInOrder shuffles the keys of nodes and sorts them as the nodes wrote
// them.
func TestInOrder(t *testing.T) {
	want := []string{
		"a/ack", "a/out/00000", "a/out/00001", "a/out/0000a", "a/out/00010", "a/out/fffff", "a/out/100000", "a/exit",
		"a.b/ack", "a.b/exit",
		"ack/ack", "ack/out/00000", "ack/exit",
	}
	for range 20 {
		var entries []*entry
		for _, i := range rand.Perm(len(want)) {
			entries = append(entries, testEntry(want[i]))
		}
		slices.SortFunc(entries, inOrder)
		for i, e := range entries {
			if got := e.parsed.Path(testSession); got != want[i] {
				t.Fatalf("place %d: %s, want %s", i, got, want[i])
			}
		}
	}
}

// TestLedgerRecord reads keys one after the other and looks at the records.
func TestLedgerRecord(t *testing.T) {
	l := newLedger(testSession, false)
	now := time.Now()
	for _, step := range []struct {
		key    string
		value  value
		want   string // kinds of the records
		unread bool   // before
	}{
		{"a/ack", value{Session: "another"}, "", true},
		{"a/ack", ownValue(""), "ack", true},
		{"a/ack", ownValue(""), "", false},
		{"a/out/00000", ownValue("x"), "out", true},
		{"a/out/00000", ownValue("x"), "", false},
		{"a/out/00002", ownValue("x"), "out", true}, // 1 is missing
		{"a/out/00001", ownValue("x"), "", false},   // and too late now
		{"a/exit", value{}, "", true},
		{"a/exit", ownValue("0"), "exit", true},
		{"a/exit", ownValue("0"), "", false},
		{"a/out/00003", ownValue("x"), "", false},
		{"b/exit", ownValue("0"), "ack exit", true}, // the ack was left out
	} {
		now = now.Add(strangerPause) // a stranger's key is read again
		e := testEntry(step.key)
		e.value = step.value
		if unread := l.isUnread(e, now); unread != step.unread {
			t.Errorf("%s: unread %v, want %v", step.key, unread, step.unread)
		}
		if !step.unread {
			continue
		}
		var kinds []string
		for _, rec := range l.record([]*entry{e}, now) {
			kinds = append(kinds, rec.Kind.String())
		}
		if got := strings.Join(kinds, " "); got != step.want {
			t.Errorf("%s: records %s, want %s", step.key, got, step.want)
		}
	}
	var found []string
	for _, f := range l.takeFindings() {
		found = append(found, f.text)
	}
	want := []string{"key of somebody else", "output is missing", "key of somebody else", "output after the exit"}
	if !slices.Equal(found, want) || l.takeFindings() != nil {
		t.Errorf("findings %q, want %q, once", found, want)
	}
}

// TestLedgerUnread looks at what is new in a listing.
func TestLedgerUnread(t *testing.T) {
	l := newLedger(testSession, false)
	now := time.Now()
	var entries []entry
	for _, path := range []string{"a/ack", "a/exit", "a/out/00000", "b/ack", "c/nonsense", "job"} {
		e := testEntry(path)
		e.value = ownValue("0")
		entries = append(entries, *e)
	}
	fresh, implied := l.unread(entries, now)
	var paths []string
	for _, e := range fresh {
		paths = append(paths, e.parsed.Path(testSession))
	}
	if want := []string{"a/out/00000", "a/exit", "b/ack"}; !slices.Equal(paths, want) || !slices.Equal(implied, []stream{{node: "a"}}) {
		t.Errorf("unread %v, implied %v, want %v and a", paths, implied, want)
	}
	if found := l.takeFindings(); len(found) != 1 || found[0].text != "unknown key" {
		t.Errorf("findings %v, want one unknown key", found)
	}
	l.record(fresh, now)
	if fresh, _ := l.unread(entries, now); len(fresh) != 0 || l.lacksAck(implied) {
		t.Errorf("after they were recorded, %d are unread", len(fresh))
	}
}

// TestStrangers checks that a stranger's key is found once, is not read in each
// listing, and does not hide the ack beside it.
func TestStrangers(t *testing.T) {
	l := newLedger(testSession, false)
	now := time.Now()
	exit := testEntry("a/exit")
	l.record([]*entry{exit}, now)
	if l.isUnread(exit, now) {
		t.Error("the key is read again at once")
	}
	if !l.isUnread(exit, now.Add(strangerPause)) {
		t.Error("the key is never read again, although its node may have overwritten it")
	}
	entries := []*entry{testEntry("a/ack"), exit, testEntry("b/ack")}
	kept, implied := l.withoutAcks(slices.Clone(entries))
	if len(kept) != 2 || !slices.Equal(implied, []stream{{node: "a"}}) || !l.lacksAck(implied) {
		t.Errorf("kept %d entries, implied %v, lacks an ack: %v", len(kept), implied, l.lacksAck(implied))
	}
	for i := range 2 * maxStrangers {
		l.addStranger(fmt.Sprint("x", i), "unknown key", now)
	}
	if len(l.strangers) != maxStrangers {
		t.Errorf("%d strangers are remembered, want %d", len(l.strangers), maxStrangers)
	}
	if kept, _ := l.withoutAcks(entries); len(kept) != 3 {
		t.Error("an ack was left out, although what follows may be a stranger's")
	}
}

// BenchmarkListing is the cost of a listing of finished nodes beyond its
// decoding.
func BenchmarkListing(b *testing.B) {
	l := newLedger(testSession, false)
	var entries []entry
	for i := range 1000 {
		name := fmt.Sprintf("web-%04d", i)
		l.streams[stream{node: name}] = &progress{acked: true, exited: true, next: 1}
		for _, kind := range []Kind{Ack, Output, Exit} {
			entries = append(entries, entry{Key: testBase + Key{Node: name, Kind: kind}.Path(testSession)})
		}
	}
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		for i := range entries {
			entries[i].parsed = ParseKey(strings.TrimPrefix(entries[i].Key, testBase), testSession)
		}
		if fresh, _ := l.unread(entries, now); len(fresh) > 0 {
			b.Fatal("unread")
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(entries)), "ns/key")
}

// BenchmarkOrder sorts one listing of 1,000 nodes.
func BenchmarkOrder(b *testing.B) {
	var entries []*entry
	for i := range 1000 {
		for _, kind := range []Kind{Ack, Exit, Output} {
			entries = append(entries, testEntry(Key{Node: fmt.Sprintf("web-%04d", i), Kind: kind}.Path(testSession)))
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		slices.SortFunc(slices.Clone(entries), inOrder)
	}
}

// TestLedgerWrittenAgain deletes what a node wrote, and lists some of it again.
func TestLedgerWrittenAgain(t *testing.T) {
	for _, test := range []struct {
		path  string
		index uint64 // the key's CreateIndex when it is listed again
		twice bool
	}{
		{"a/ack", 12, true}, {"a/exit", 12, true}, {"a/out/00000", 12, true},
		{"a/ack", 9, false}, {"a/out/00000", 9, false}, // an old listing
	} {
		l := newLedger(testSession, false)
		var entries []*entry
		for _, path := range []string{"a/ack", "a/out/00000", "a/exit"} {
			e := testEntry(path)
			e.value = value{Session: testSession, CreateIndex: 9, ModifyIndex: 9}
			entries = append(entries, e)
		}
		l.record(entries, time.Now())
		l.keysDeleted(entries, 10)
		e := testEntry(test.path)
		if !l.isUnread(e, time.Now()) {
			t.Errorf("%s is not read again", test.path)
		}
		e.value = value{Session: testSession, CreateIndex: test.index, ModifyIndex: test.index}
		if records := l.record([]*entry{e}, time.Now()); len(records) > 0 {
			t.Errorf("%s: records %v", test.path, records)
		}
		if twice, _ := l.takeTwice(); len(twice) > 0 != test.twice {
			t.Errorf("%s of index %d: twice %v, want %v", test.path, test.index, twice, test.twice)
		}
	}
}
