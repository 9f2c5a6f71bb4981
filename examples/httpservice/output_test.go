package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// kept returns the output that a late reader of a record gets, and how many
// bytes it is told that are missing, by node.
func kept(t *testing.T, r *record) (output map[string]string, dropped map[string]int64) {
	t.Helper()
	output, dropped = map[string]string{}, map[string]int64{}
	for id := 0; ; {
		batch, _ := r.after(id)
		if len(batch) == 0 {
			return output, dropped
		}
		for _, m := range batch {
			var e received
			if err := json.Unmarshal(m.data, &e); err != nil {
				t.Fatal(err)
			}
			id = max(id, m.id)
			if e.Type == "cut" {
				if output[e.Node] != "" || dropped[e.Node] > 0 {
					t.Errorf("%s: a cut within the output, or a second one", e.Node)
				}
				dropped[e.Node] = e.Bytes
			}
			output[e.Node] += e.Output + string(e.OutputBase64)
		}
	}
}

// checkKept checks that each node's output is the end of what it printed, and
// that the number of missing bytes is true.
func checkKept(t *testing.T, r *record, printed map[string]string) (output map[string]string) {
	t.Helper()
	output, dropped := kept(t, r)
	total := 0
	for node, all := range printed {
		if total += len(output[node]); !strings.HasSuffix(all, output[node]) || len(output[node])+int(dropped[node]) != len(all) {
			t.Errorf("%s: %d bytes and %d dropped, of %d", node, len(output[node]), dropped[node], len(all))
		}
	}
	if total > maxOutput {
		t.Errorf("%d bytes are kept", total)
	}
	return output
}

func TestFair(t *testing.T) {
	for _, test := range []struct {
		name  string
		sizes []int // of the nodes' output
		want  []int // how much of it is kept at least
	}{
		{"under the limit", []int{maxOutput - 10, 10}, []int{maxOutput - 10, 10}},
		{"one is loud", []int{100, 3 << 20, 5000}, []int{100, maxOutput - 5100 - 4096, 5000}},
		{"two are loud", []int{100, 3 << 20, 2 << 20}, []int{100, maxOutput/2 - 8192, maxOutput/2 - 8192}},
		{"the loud one is first", []int{3 << 20, 9000}, []int{maxOutput - 9000 - 4096, 9000}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, printed := newRecord(), map[string]string{}
			for more := true; more; { // by turns
				more = false
				for i, size := range test.sizes {
					node := fmt.Sprint("node-", i)
					piece := min(4096, size-len(printed[node]))
					if piece > 0 {
						text := strings.Repeat(string(rune('a'+len(printed)%26)), piece)
						r.addOutput(node, time.Now(), []byte(text))
						printed[node] += text
						more = true
					}
				}
			}
			output := checkKept(t, r, printed)
			for i, want := range test.want {
				if got := len(output[fmt.Sprint("node-", i)]); got < want {
					t.Errorf("node %d: %d bytes are kept, want %d", i, got, want)
				}
			}
		})
	}
}

// TestFairToMany has so many nodes that none can keep one whole piece.
func TestFairToMany(t *testing.T) {
	const nodes = 2000
	r, printed := newRecord(), map[string]string{}
	for i := range nodes {
		node, text := fmt.Sprint("node-", i), strings.Repeat("→", 1365)
		r.addOutput(node, time.Now(), []byte(text))
		printed[node] = text
	}
	for node, output := range checkKept(t, r, printed) {
		if len(output) < maxOutput/nodes/4 || !utf8.ValidString(output) {
			t.Errorf("%s: %d bytes are kept", node, len(output))
		}
	}
}

// TestSmallPieces has more pieces than are kept, with few bytes.
func TestSmallPieces(t *testing.T) {
	r, printed := newRecord(), map[string]string{"quiet": "a line\n"}
	r.addOutput("quiet", time.Now(), []byte("a line\n"))
	var loud bytes.Buffer
	for i := range 3 * maxPieces {
		r.addOutput("loud", time.Now(), []byte{byte('0' + i%10)})
		loud.WriteByte(byte('0' + i%10))
	}
	printed["loud"] = loud.String()
	if output := checkKept(t, r, printed); output["quiet"] != "a line\n" || len(output["loud"]) != maxPieces-1 {
		t.Errorf("%q and %d bytes are kept", output["quiet"], len(output["loud"]))
	}
	if len(r.messages) > 2*maxPieces {
		t.Errorf("%d messages in memory", len(r.messages))
	}
}

// TestCut has a reader that has read all, one that has read a part, and one that
// has read nothing, when output is dropped.
func TestCut(t *testing.T) {
	r := newRecord()
	for range 2 * maxOutput / 4096 {
		r.addOutput("a", time.Now(), bytes.Repeat([]byte("x"), 4096))
	}
	for seen, want := range map[int]string{0: `{"type":"cut","node":"a","bytes":1048576}`, 100: `{"type":"cut","node":"a","bytes":1048576}`, 256: "", 300: ""} {
		batch, _ := r.after(seen)
		if got := string(batch[0].data); strings.Contains(got, "cut") != (want != "") || want != "" && got != want {
			t.Errorf("a reader that has seen %d: %.100s", seen, got)
		}
		if want == "" && batch[0].id != seen+1 {
			t.Errorf("a reader that has seen %d gets %d", seen, batch[0].id)
		}
	}
}
