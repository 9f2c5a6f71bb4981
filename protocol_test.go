package consulexec

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestParseKey(t *testing.T) {
	tests := []struct {
		key  string
		want jobKey
	}{
		{"job", jobKey{kind: keyJob}},
		{"web-1/ack", jobKey{node: "web-1", kind: keyAck}},
		{"web-1/exit", jobKey{node: "web-1", kind: keyExit}},
		{"web-1/out/00000", jobKey{node: "web-1", kind: keyOutput}},
		{"web-1/out/0000a", jobKey{node: "web-1", kind: keyOutput, chunk: 10}},
		{"web-1/out/fffff", jobKey{node: "web-1", kind: keyOutput, chunk: 0xfffff}},
		{"web-1/out/100000", jobKey{node: "web-1", kind: keyOutput, chunk: 0x100000}},
		{"web.1%2F/ack", jobKey{node: "web.1%2F", kind: keyAck}},
		{"rack/web-1/ack", jobKey{node: "rack/web-1", kind: keyAck}},

		// Nodes with names out of the protocol.
		{"job/ack", jobKey{node: "job", kind: keyAck}},
		{"out/ack", jobKey{node: "out", kind: keyAck}},
		{"out/out/00001", jobKey{node: "out", kind: keyOutput, chunk: 1}},
		{"exit/exit", jobKey{node: "exit", kind: keyExit}},
		{"ack/ack", jobKey{node: "ack", kind: keyAck}},

		// Keys of nobody.
		{"", jobKey{}},
		{"/", jobKey{}},
		{"ack", jobKey{}},
		{"/ack", jobKey{}},
		{"exit", jobKey{}},
		{"web-1", jobKey{}},
		{"web-1/", jobKey{}},
		{"web-1/job", jobKey{}},
		{"web-1/out", jobKey{}},
		{"web-1/out/", jobKey{}},
		{"out/00000", jobKey{}},
		{"/out/00000", jobKey{}},
		{"web-1/out/0000", jobKey{}},     // too short
		{"web-1/out/000000", jobKey{}},   // 00000, spelled otherwise
		{"web-1/out/0000A", jobKey{}},    // upper case
		{"web-1/out/0000g", jobKey{}},    // no digit
		{"web-1/out/+0001", jobKey{}},    // a sign
		{"web-1/out/10000000", jobKey{}}, // 256 M chunks, which is 1 TB
	}
	for _, test := range tests {
		got := parseKey(test.key)
		if got != test.want {
			t.Errorf("parseKey(%q) = %+v, want %+v", test.key, got, test.want)
		}
		if got.kind != keyUnknown && got.path() != test.key {
			t.Errorf("parseKey(%q).path() = %q", test.key, got.path())
		}
	}
}

// FuzzParseKey checks that a key means one thing only: what is parsed is spelled
// the same again.
func FuzzParseKey(f *testing.F) {
	for _, key := range []string{"job", "n/ack", "n/exit", "n/out/00000", "a/b/out/100000", "n/out/000000", "/ack", "n/out/", "job/out/fffff"} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		got := parseKey(key)
		if got.kind == keyUnknown {
			if got != (jobKey{}) {
				t.Errorf("parseKey(%q) = %+v of no kind", key, got)
			}
			return
		}
		if got.path() != key {
			t.Errorf("parseKey(%q) = %+v, which is spelled %q", key, got, got.path())
		}
		if (got.node == "") != (got.kind == keyJob) {
			t.Errorf("parseKey(%q) = %+v: wrong node", key, got)
		}
	})
}

func TestParseKeyAllocatesNothing(t *testing.T) {
	var sink jobKey
	if n := testing.AllocsPerRun(100, func() { sink = parseKey("web-1.example.com/out/0001f") }); n != 0 {
		t.Errorf("parseKey allocates %v times for %+v", n, sink)
	}
}

func TestParseExit(t *testing.T) {
	for text, want := range map[string]int{"0": 0, "3": 3, "255": 255, "-1": -1, "127": 127} {
		if got, err := parseExit([]byte(text)); got != want || err != nil {
			t.Errorf("parseExit(%q) = %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "abc", "1.5", " 1", "0x1", "99999999999999999999", strings.Repeat("1", 10000)} {
		_, err := parseExit([]byte(text))
		if err == nil || len(err.Error()) > 100 {
			t.Errorf("parseExit(%.40q): error %.200v", text, err)
		}
	}
}

// TestDocuments holds the bytes that agents are known to take.
func TestDocuments(t *testing.T) {
	const session = "dae8fbde-f4e1-a035-4b48-464820c50899"
	tests := []struct {
		document any
		want     string
	}{
		{jobSpec{Command: "uptime", Wait: 2 * time.Second}, `{"Command":"uptime","Wait":2000000000}`},
		{jobSpec{Args: []string{"ls", "-l", ""}, Wait: time.Second}, `{"Args":["ls","-l",""],"Wait":1000000000}`},
		{jobSpec{Script: []byte("#!/bin/sh\n\xff"), Wait: time.Second}, `{"Script":"IyEvYmluL3NoCv8=","Wait":1000000000}`},
		{eventPayload{"_rexec", session}, `{"Prefix":"_rexec","Session":"` + session + `"}`},
	}
	for _, test := range tests {
		if got := string(marshal(test.document)); got != test.want {
			t.Errorf("marshal(%+v) = %s, want %s", test.document, got, test.want)
		}
	}
	if n := len(marshal(eventPayload{defaultPrefix, session})); n != 68 {
		t.Errorf("the default event has %d bytes, want 68", n)
	}
}

// FuzzJobSpec checks that what New lets pass reaches an agent unchanged.
func FuzzJobSpec(f *testing.F) {
	f.Add("uptime", []byte(nil))
	f.Add("echo '<&>' \u2028 \"q\" \\", []byte{0, 0xff, '\n'})
	f.Add("\xff", []byte("x"))
	f.Fuzz(func(t *testing.T, command string, script []byte) {
		if checkText(command) != nil {
			return
		}
		want := jobSpec{Command: command, Args: []string{command}, Script: script, Wait: time.Second}
		var got jobSpec
		if err := json.Unmarshal(marshal(want), &got); err != nil {
			t.Fatal(err)
		}
		if got.Command != command || got.Args[0] != command || string(got.Script) != string(script) {
			t.Errorf("%+v became %+v", want, got)
		}
	})
}

func TestCheckPrefix(t *testing.T) {
	for _, good := range []string{"_rexec", "ops/exec", "a b", "é", "..a", "a%2Fb", "%2e", strings.Repeat("p", 238)} {
		if err := checkPrefix(good); err != nil {
			t.Errorf("checkPrefix(%q): %v", good, err)
		}
	}
	for _, bad := range []string{"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/../../b", "a/./b", "\xff", "a\x00b", "a\nb", " a", "a%20b", "%2e%2e/a", strings.Repeat("p", 239)} {
		if err := checkPrefix(bad); err == nil {
			t.Errorf("checkPrefix(%q): no error", bad)
		}
	}
}

func TestNodeFilter(t *testing.T) {
	re := func(s string) *regexp.Regexp {
		switch s {
		case "":
			return nil
		case "EMPTY":
			s = ""
		}
		return regexp.MustCompile(s)
	}
	type service struct {
		id   string
		tags []string
	}
	tests := []struct {
		node, service, tag string
		name               string
		has                service
		matchNode          bool
		matchService       bool
	}{
		{"", "", "", "web-1", service{"web", nil}, true, true},
		{"web-1", "", "", "web-10", service{"web", nil}, true, true}, // not anchored
		{"^web-1$", "", "", "web-10", service{"web", nil}, false, true},
		{"", "we", "", "n", service{"web-id", nil}, true, true},
		{"", "^web$", "", "n", service{"web-id", nil}, true, false},
		{"", "web", "v", "n", service{"web", []string{"blue", "v1"}}, true, true},
		{"", "web", "^v$", "n", service{"web", []string{"blue", "v1"}}, true, false},
		{"", "web", "v", "n", service{"web", nil}, true, false},
		{"", "web", "EMPTY", "n", service{"web", nil}, true, true},
		{"", "db", "v", "n", service{"web", []string{"v"}}, true, false},
	}
	for _, test := range tests {
		f := nodeFilter{node: re(test.node), service: re(test.service), tag: re(test.tag)}
		if got := f.matchNode(test.name); got != test.matchNode {
			t.Errorf("%v: matchNode(%q) = %v", f, test.name, got)
		}
		if got := f.matchService(test.has.id, test.has.tags); got != test.matchService {
			t.Errorf("%v: matchService(%+v) = %v", f, test.has, got)
		}
	}
}

func BenchmarkParseKey(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		parseKey("web-1.example.com/out/0001f")
	}
}
