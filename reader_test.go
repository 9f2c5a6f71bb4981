package consulexec

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// testReader is a reader without a Consul.
func testReader() *reader {
	c := &consul{log: slog.New(slog.DiscardHandler)}
	return newReader(c, "the-session", "_rexec/the-session/")
}

// TestInOrder shuffles a node's keys and sorts them as the node wrote them.
func TestInOrder(t *testing.T) {
	want := []string{
		"a/ack", "a/out/00000", "a/out/00001", "a/out/0000a", "a/out/00010", "a/out/fffff", "a/out/100000", "a/exit",
		"a.b/ack", "a.b/exit",
		"ack/ack", "ack/out/00000", "ack/exit",
	}
	for range 20 {
		var keys []unread
		for _, i := range rand.Perm(len(want)) {
			keys = append(keys, unread{jobKey: parseKey(want[i])})
		}
		slices.SortFunc(keys, inOrder)
		for i, k := range keys {
			if k.path() != want[i] {
				t.Fatalf("place %d: %s, want %s", i, k.path(), want[i])
			}
		}
	}
}

// TestNote reads keys one after the other and looks at the records.
func TestNote(t *testing.T) {
	r := testReader()
	ours := func(v string) *value { return &value{Value: []byte(v), Session: "the-session"} }
	for _, step := range []struct {
		key   string
		value *value
		want  string // kinds of the records
		fresh bool   // before
	}{
		{"a/ack", &value{Session: "another"}, "", true},
		{"a/ack", ours(""), "ack", true},
		{"a/ack", ours(""), "", false},
		{"a/out/00000", ours("x"), "out", true},
		{"a/out/00000", ours("x"), "", false},
		{"a/out/00002", ours("x"), "out", true}, // 1 is missing
		{"a/out/00001", ours("x"), "", false},   // and too late now
		{"a/exit", &value{}, "", true},
		{"a/exit", ours("0"), "exit", true},
		{"a/exit", ours("0"), "", false},
		{"a/out/00003", ours("x"), "", false},
		{"b/exit", ours("0"), "ack exit", true}, // the ack was left out
	} {
		k := parseKey(step.key)
		r.asked = r.asked.Add(oddPause) // what was somebody else's is looked at again
		if fresh := r.isFresh(k); fresh != step.fresh {
			t.Errorf("%s: fresh %v, want %v", step.key, fresh, step.fresh)
		}
		if !step.fresh {
			continue
		}
		got := ""
		for _, rec := range r.note(nil, k, step.value) {
			got += " " + rec.kind.String()
		}
		if want := step.want; got != want && got != " "+want {
			t.Errorf("%s: records%s, want %s", step.key, got, want)
		}
	}
}

// TestOdd checks that keys of somebody else are logged once and not read in each
// listing, and that an ack beside them is read.
func TestOdd(t *testing.T) {
	r := testReader()
	exit := parseKey("a/exit")
	r.note(nil, exit, &value{})
	if r.isFresh(exit) {
		t.Error("read again at once")
	}
	r.asked = r.asked.Add(oddPause)
	if !r.isFresh(exit) {
		t.Error("never read again, although its node may have written it since")
	}
	keys := []unread{{jobKey: parseKey("a/ack")}, {jobKey: exit}, {jobKey: parseKey("b/ack")}}
	kept, left := r.withoutAcks(slices.Clone(keys))
	if len(kept) != 2 || !slices.Equal(left, []string{"a"}) || !r.unconfirmed(left) {
		t.Errorf("kept %d keys, left out the acks of %v, unconfirmed %v", len(kept), left, r.unconfirmed(left))
	}
	for i := range 2 * maxOddKeys {
		r.logOdd(fmt.Sprint("x", i), "unknown key")
	}
	if len(r.odd) != maxOddKeys {
		t.Errorf("%d odd keys remembered", len(r.odd))
	}
	if kept, _ := r.withoutAcks(keys); len(kept) != 3 {
		t.Error("an ack was left out, although what follows may be known for somebody else's")
	}
}

// TestExpectsFew tells when a listing may bring values along.
func TestExpectsFew(t *testing.T) {
	const ms = time.Millisecond
	for _, test := range []struct {
		name       string
		gap, every time.Duration
		came       int
		again      int
		want       bool
	}{
		{"first", 0, 0, 0, 0, true},
		{"first, after an outage", 20 * time.Second, 0, 0, 0, false},
		{"little, now and then", ms, minGap, 100, 2000, true},
		{"read before", ms, minGap, 100, fewBytes + 1, false},
		{"as much again", 400 * ms, 400 * ms, manyBytes / 2, 200, true},
		{"twice too much", 400 * ms, 400 * ms, manyBytes * 2, 200, false},
		{"too much by now", 400 * ms, 200 * ms, manyBytes * 3 / 4, 200, false},
		{"much later than before", 300 * ms, 60 * ms, 1, 200, false},
		{"a slow callback", 2 * time.Second, 2 * time.Second, 1, 200, false},
	} {
		r := testReader()
		r.listed = time.Now().Add(-test.gap)
		r.every, r.came, r.again = test.every, test.came, test.again
		if got := r.expectsFew(); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}

// TestOutageTime checks how long a reader says that it could not see.
func TestOutageTime(t *testing.T) {
	start := time.Now()
	at := func(second int) time.Time { return start.Add(time.Duration(second) * time.Second) }
	r := testReader()
	r.asked = at(9)
	if got := r.outage(); got != 0 {
		t.Errorf("outage of %v without any failure", got)
	}
	r.unsure = at(5) // interrupted, which is no failure
	if got := r.outage(); got != 0 {
		t.Errorf("outage of %v by an interruption", got)
	}
	r.unsure, r.failed = at(5), true
	if got := r.outage(); got != 4*time.Second {
		t.Errorf("outage of %v, want 4s", got)
	}
	if got := r.outage(); got != 0 {
		t.Errorf("the outage is over, but counts again with %v", got)
	}
}

// BenchmarkListing is what a listing of finished nodes costs beyond its decoding.
func BenchmarkListing(b *testing.B) {
	r := testReader()
	var keys []jobKey
	for i := range 1000 {
		name := fmt.Sprintf("web-%04d", i)
		r.nodes[name] = &progress{acked: true, exited: true, next: 1}
		for _, kind := range []keyKind{keyAck, keyOutput, keyExit} {
			keys = append(keys, jobKey{node: name, kind: kind})
		}
	}
	var paths []string
	for _, k := range keys {
		paths = append(paths, k.path())
	}
	b.ReportAllocs()
	for b.Loop() {
		for _, path := range paths {
			if r.isFresh(parseKey(path)) {
				b.Fatal("fresh")
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(paths)), "ns/key")
}

// BenchmarkOrder sorts what one listing brings of 1,000 nodes.
func BenchmarkOrder(b *testing.B) {
	var keys []unread
	for i := range 1000 {
		name := fmt.Sprintf("web-%04d", i)
		keys = append(keys, unread{jobKey: jobKey{node: name, kind: keyAck}}, unread{jobKey: jobKey{node: name, kind: keyExit}}, unread{jobKey: jobKey{node: name, kind: keyOutput}})
	}
	b.ReportAllocs()
	for b.Loop() {
		slices.SortFunc(slices.Clone(keys), inOrder)
	}
}

// BenchmarkDispatch takes in and reports the output of a node.
func BenchmarkDispatch(b *testing.B) {
	c, err := newConfig("x", []Option{WithNode("^web")})
	if err != nil {
		b.Fatal(err)
	}
	r := &run{config: c, log: c.logger, state: newState(c)}
	r.report(record{node: "web-1", kind: keyAck}, time.Now())
	chunk := record{node: "web-1", kind: keyOutput, value: make([]byte, 4096)}
	b.ReportAllocs()
	for b.Loop() {
		r.apply([]record{chunk})
	}
}
