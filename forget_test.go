package consulexec

import (
	"slices"
	"testing"
)

// TestSizeUp looks at which keys of a listing count as read, and how large they are
// held to be.
func TestSizeUp(t *testing.T) {
	const base = "_rexec/the-session/"
	read := []string{
		"a/ack", "a/exit", "a/out/00000", "a/out/00001", "a/out/00002", // exited, whatever came later
		"b/ack", "b/out/00000", "b/out/00001", // runs
		"d/ack",
	}
	others := []string{
		"a/b/ack", "b/exit", "b/out/00002", "c/ack", // not read yet
		"d/exit", "d/x", // somebody else's
		"job",
	}
	r := testReader()
	r.nodes = map[string]*progress{
		"a": {acked: true, exited: true, next: 2},
		"b": {acked: true, next: 2},
		"d": {acked: true},
	}
	names, values := listing{}, listing{values: true}
	for _, key := range slices.Sorted(slices.Values(slices.Concat(read, others))) {
		p := pair{Key: base + key}
		names.pairs = append(names.pairs, p)
		p.Value = make([]byte, 10)
		if key == "job" {
			p.Value = make([]byte, 100_000)
		}
		values.pairs = append(values.pairs, p)
	}
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
		keys, size, rest := r.sizeUp(test.found)
		for i := range keys {
			keys[i] = keys[i][len(base):]
		}
		if !slices.Equal(keys, read) || size != test.read || rest != test.others {
			t.Errorf("%s: read %v, %d bytes, %d others; want %v, %d, %d", test.name, keys, size, rest, read, test.read, test.others)
		}
	}
}
