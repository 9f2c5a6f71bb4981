package reader

import (
	"slices"
	"testing"
	"time"
)

// TestForecastWantsValues checks when a listing may bring the values along.
func TestForecastWantsValues(t *testing.T) {
	const ms = time.Millisecond
	for _, test := range []struct {
		name          string
		gap, interval time.Duration
		newBytes      int
		staleBytes    int
		want          bool
	}{
		{"first", 0, 0, 0, 0, true},
		{"first, after an outage", 20 * time.Second, 0, 0, 0, false},
		{"little, now and then", ms, minGap, 100, 2000, true},
		{"many old bytes", ms, minGap, 100, maxStaleBytes + 1, false},
		{"as much as before", 400 * ms, 400 * ms, maxNewBytes / 2, 200, true},
		{"twice too much", 400 * ms, 400 * ms, maxNewBytes * 2, 200, false},
		{"too much by now", 400 * ms, 200 * ms, maxNewBytes * 3 / 4, 200, false},
		{"much later than before", 300 * ms, 60 * ms, 1, 200, false},
		{"a slow callback", 2 * time.Second, 2 * time.Second, 1, 200, false},
	} {
		now := time.Now()
		f := forecast{listedAt: now.Add(-test.gap), interval: test.interval, newBytes: test.newBytes, staleBytes: test.staleBytes}
		if got := f.wantsValues(now); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}

// TestForecastMeasure checks which keys of a listing count as read, and how
// large the next listing is held to be.
func TestForecastMeasure(t *testing.T) {
	read := []string{
		"a/ack", "a/exit", "a/out/00000", "a/out/00001", "a/out/00002", // exited, so chunk 2 is worthless
		"b/ack", "b/out/00000", "b/out/00001", // runs
		"d/ack",
	}
	others := []string{
		"a/b/ack", "b/exit", "b/out/00002", "c/ack", // not read yet
		"d/exit", "d/x", // a stranger's
		"job",
	}
	l := newLedger(testSession, false)
	l.streams = map[stream]*progress{
		{node: "a"}: {acked: true, exited: true, next: 2},
		{node: "b"}: {acked: true, next: 2},
		{node: "d"}: {acked: true},
	}
	names, values := listing{}, listing{values: true}
	for _, path := range slices.Sorted(slices.Values(slices.Concat(read, others))) {
		e := *testEntry(path)
		names.entries = append(names.entries, e)
		e.Value = make([]byte, 10)
		if path == "job" {
			e.Value = make([]byte, 100_000)
		}
		values.entries = append(values.entries, e)
	}
	var f forecast
	for _, test := range []struct {
		name         string
		found        listing
		read, others int // bytes
	}{
		{"names", names, len(read) * (keySize + maxChunk), len(others) * (keySize + maxChunk)},
		{"values", values, len(read) * (keySize + 10), len(others)*(keySize+10) + 100_000 - 10},
		// What is large stays large.
		{"names again", names, len(read) * (keySize + maxChunk), len(others)*(keySize+10) + 100_000 - 10},
	} {
		entries, size := f.measure(test.found, l)
		var keys []string
		for _, e := range entries {
			keys = append(keys, e.Key[len(testBase):])
		}
		if !slices.Equal(keys, read) || size != test.read || f.staleBytes != test.read+test.others {
			t.Errorf("%s: read %v with %d bytes, stale %d; want %v with %d, stale %d", test.name, keys, size, f.staleBytes, read, test.read, test.read+test.others)
		}
	}
}
