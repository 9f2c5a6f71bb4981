package consulexec

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/consulexec/consulexec/internal/runner"
)

// TestDocuments holds the bytes that agents are known to take.
func TestDocuments(t *testing.T) {
	const session = "dae8fbde-f4e1-a035-4b48-464820c50899"
	tests := []struct {
		document any
		want     string
	}{
		{jobSpec{runner.Job{Command: "uptime"}, 2 * time.Second}, `{"Command":"uptime","Wait":2000000000}`},
		{jobSpec{runner.Job{Args: []string{"ls", "-l", ""}}, time.Second}, `{"Args":["ls","-l",""],"Wait":1000000000}`},
		{jobSpec{runner.Job{Script: []byte("#!/bin/sh\n\xff")}, time.Second}, `{"Script":"IyEvYmluL3NoCv8=","Wait":1000000000}`},
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
		want := jobSpec{runner.Job{Command: command, Args: []string{command}, Script: script}, time.Second}
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
	for _, good := range []string{"_rexec", "ops/exec", "a b", "é", "..a", "a%2Fb", "%2e", strings.Repeat("p", 197)} {
		if err := checkPrefix(good); err != nil {
			t.Errorf("checkPrefix(%q): %v", good, err)
		}
	}
	for _, bad := range []string{"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/../../b", "a/./b", "\xff", "a\x00b", "a\nb", " a", "a%20b", "%2e%2e/a", strings.Repeat("p", 198)} {
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

func TestNameFilter(t *testing.T) {
	tests := []struct {
		names []string
		want  string
	}{
		{[]string{"web-1"}, `^web-1$`},
		{[]string{"web.1+"}, `^web\.1\+$`},
		{[]string{"web-2", "web-1", "web-3"}, `^web-[1-3]$`},
		{[]string{"web-1.example.com", "db-2.example.com"}, `^(db-2|web-1)\.example\.com$`},
		{[]string{"node-01", "node-02", "node-11", "node-12"}, `^node-(0[12]|1[12])$`},
		{[]string{"(?:a)", "(?:b)"}, `^\(\?:[ab]\)$`},
	}
	for _, test := range tests {
		if got := nameFilter(test.names); got != test.want {
			t.Errorf("nameFilter(%q) = %s, want %s", test.names, got, test.want)
		}
	}
}

// FuzzNameFilter checks that the filter of some names, given in lines, matches
// them and nothing near them.
func FuzzNameFilter(f *testing.F) {
	for _, names := range []string{
		"web-1", "web-1\nweb-10", "a\nba\ncba", "(?:a)\n(?:b)", "é\nè\nê", "a|b\na\nb", "\\Q\n\\E", "a.b\na-b\nab", "Web\nweb", "x[0-9]\nx]\nx^",
	} {
		f.Add(names)
	}
	f.Fuzz(func(t *testing.T, lines string) {
		names := slices.Compact(slices.Sorted(strings.SplitSeq(lines, "\n")))
		if !utf8.ValidString(lines) || names[0] == "" {
			return // New refuses them
		}
		filter := nameFilter(names)
		re, err := regexp.Compile(filter)
		if err != nil {
			t.Fatalf("nameFilter(%q) = %s: %v", names, filter, err)
		}
		for _, name := range names {
			_, size := utf8.DecodeRuneInString(name)
			for _, other := range []string{name, name + "0", "0" + name, name + "\n", name + name, name[size:], strings.ToUpper(name), name + names[0]} {
				if got := re.MatchString(other); got != slices.Contains(names, other) {
					t.Errorf("nameFilter(%q) = %s matches %q: %t", names, filter, other, got)
				}
			}
		}
	})
}

func TestGroupNames(t *testing.T) {
	number := func(n int, format string) []string {
		names := make([]string, n)
		for i := range names {
			names[i] = fmt.Sprintf(format, i)
		}
		rand.Shuffle(n, func(i, j int) { names[i], names[j] = names[j], names[i] })
		return names
	}
	random := make([]string, 60)
	for i := range random {
		for range 30 {
			random[i] += string(rune('a' + rand.IntN(26)))
		}
	}
	tests := []struct {
		name   string
		names  []string
		events int // at most
	}{
		{"none", nil, 0},
		{"one", []string{"a"}, 1},
		{"in sequence", number(2000, "node-%04d"), 5},
		{"with a domain", number(500, "web-%03d.eu-west-1.example.com"), 2},
		{"nothing in common", random, 7},
	}
	e := newEvent(defaultPrefix, nodeFilter{}, strings.Repeat("x", sessionIDLength))
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			fits := func(filter string) bool {
				e.NodeFilter = filter
				return eventSize(e) <= maxEventSize
			}
			groups := groupNames(test.names, fits)
			if len(groups) > test.events {
				t.Errorf("%d events, want at most %d", len(groups), test.events)
			}
			for _, names := range groups {
				if !fits(nameFilter(names)) {
					t.Errorf("%s does not fit", nameFilter(names))
				}
			}
			if !slices.Equal(slices.Concat(groups...), slices.Sorted(slices.Values(test.names))) {
				t.Error("the groups do not have each name once")
			}
		})
	}
}
