package reader

import (
	"strings"
	"testing"
)

func TestParseKey(t *testing.T) {
	tests := []struct {
		key  string
		want Key
	}{
		{"job", Key{Kind: Job}},
		{"web-1/ack", Key{Node: "web-1", Kind: Ack}},
		{"web-1/exit", Key{Node: "web-1", Kind: Exit}},
		{"web-1/out/00000", Key{Node: "web-1", Kind: Output}},
		{"web-1/out/0000a", Key{Node: "web-1", Kind: Output, Chunk: 10}},
		{"web-1/out/fffff", Key{Node: "web-1", Kind: Output, Chunk: 0xfffff}},
		{"web-1/out/100000", Key{Node: "web-1", Kind: Output, Chunk: 0x100000}},
		{"web.1%2F/ack", Key{Node: "web.1%2F", Kind: Ack}},
		{"rack/web-1/ack", Key{Node: "rack/web-1", Kind: Ack}},

		// Nodes with names out of the protocol.
		{"job/ack", Key{Node: "job", Kind: Ack}},
		{"out/ack", Key{Node: "out", Kind: Ack}},
		{"out/out/00001", Key{Node: "out", Kind: Output, Chunk: 1}},
		{"exit/exit", Key{Node: "exit", Kind: Exit}},
		{"ack/ack", Key{Node: "ack", Kind: Ack}},

		// Keys of nobody.
		{"", Key{}},
		{"/", Key{}},
		{"ack", Key{}},
		{"/ack", Key{}},
		{"exit", Key{}},
		{"web-1", Key{}},
		{"web-1/", Key{}},
		{"web-1/job", Key{}},
		{"web-1/out", Key{}},
		{"web-1/out/", Key{}},
		{"out/00000", Key{}},
		{"/out/00000", Key{}},
		{"web-1/out/0000", Key{}},     // too short
		{"web-1/out/000000", Key{}},   // 00000, spelled otherwise
		{"web-1/out/0000A", Key{}},    // upper case
		{"web-1/out/0000g", Key{}},    // no digit
		{"web-1/out/+0001", Key{}},    // a sign
		{"web-1/out/10000000", Key{}}, // 256 M chunks, which is 1 TB
	}
	for _, test := range tests {
		got := ParseKey(test.key, testSession)
		if got != test.want {
			t.Errorf("ParseKey(%q) = %+v, want %+v", test.key, got, test.want)
		}
		if got.Kind != Unknown && got.Path(testSession) != test.key {
			t.Errorf("ParseKey(%q).Path() = %q", test.key, got.Path(testSession))
		}
	}
}

// FuzzParseKey checks that a key means one thing only: what is parsed is
// spelled the same again.
func FuzzParseKey(f *testing.F) {
	for _, key := range []string{"job", "n/ack", "n/exit", "n/out/00000", "a/b/out/100000", "n/out/000000", "/ack", "n/out/", "job/out/fffff"} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		got := ParseKey(key, testSession)
		if got.Kind == Unknown {
			if got != (Key{}) {
				t.Errorf("ParseKey(%q) = %+v of no kind", key, got)
			}
			return
		}
		if got.Path(testSession) != key {
			t.Errorf("ParseKey(%q) = %+v, which is spelled %q", key, got, got.Path(testSession))
		}
		if (got.Node == "") != (got.Kind == Job) {
			t.Errorf("ParseKey(%q) = %+v: wrong node", key, got)
		}
	})
}

func TestParseKeyAllocatesNothing(t *testing.T) {
	var sink Key
	if n := testing.AllocsPerRun(100, func() { sink = ParseKey("web-1.example.com/out/0001f", testSession) }); n != 0 {
		t.Errorf("ParseKey allocates %v times for %+v", n, sink)
	}
}

func TestParseExit(t *testing.T) {
	for text, want := range map[string]int{"0": 0, "3": 3, "255": 255, "-1": -1, "127": 127} {
		if got, err := ParseExit([]byte(text)); got != want || err != nil {
			t.Errorf("ParseExit(%q) = %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "abc", "1.5", " 1", "0x1", "99999999999999999999", strings.Repeat("1", 10000)} {
		_, err := ParseExit([]byte(text))
		if err == nil || len(err.Error()) > 100 {
			t.Errorf("ParseExit(%.40q): error %.200v", text, err)
		}
	}
}

func BenchmarkParseKey(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		ParseKey("web-1.example.com/out/0001f", testSession)
	}
}
