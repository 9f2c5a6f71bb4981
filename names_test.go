package consulexec

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestOnly(t *testing.T) {
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
		if got := only(test.names); got != test.want {
			t.Errorf("only(%q) = %s, want %s", test.names, got, test.want)
		}
	}
}

// FuzzOnly checks that the filter of some names, given in lines, matches them and
// nothing near them.
func FuzzOnly(f *testing.F) {
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
		filter := only(names)
		re, err := regexp.Compile(filter)
		if err != nil {
			t.Fatalf("only(%q) = %s: %v", names, filter, err)
		}
		for _, name := range names {
			_, size := utf8.DecodeRuneInString(name)
			for _, other := range []string{name, name + "0", "0" + name, name + "\n", name + name, name[size:], strings.ToUpper(name), name + names[0]} {
				if got := re.MatchString(other); got != slices.Contains(names, other) {
					t.Errorf("only(%q) = %s matches %q: %t", names, filter, other, got)
				}
			}
		}
	})
}

func TestPack(t *testing.T) {
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
	c, err := newConfig("x", nil)
	if err != nil {
		t.Fatal(err)
	}
	e := c.event(strings.Repeat("x", sessionIDLength))
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			fits := func(filter string) bool {
				e.NodeFilter = filter
				return eventSize(e, maxLamportSize) <= maxEventSize
			}
			groups := pack(test.names, fits)
			if len(groups) > test.events {
				t.Errorf("%d events, want at most %d", len(groups), test.events)
			}
			for _, names := range groups {
				if !fits(only(names)) {
					t.Errorf("%s does not fit", only(names))
				}
			}
			if !slices.Equal(slices.Concat(groups...), slices.Sorted(slices.Values(test.names))) {
				t.Error("the groups do not have each name once")
			}
		})
	}
}
