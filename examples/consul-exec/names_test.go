package main

import (
	"slices"
	"strings"
	"testing"
)

func TestReadNames(t *testing.T) {
	for _, test := range []struct {
		file string
		want string // between "|"
		err  string
	}{
		{file: "a\nb\n", want: "a|b"},
		{file: "a", want: "a"},
		{file: "\ufeffa\r\nb\r\n", want: "a|b"},
		{file: "a # x\rb", want: "a|b"},
		{file: "a b\tc,d, e\n\n  f  # and others\n# g\n", want: "a|b|c|d|e|f"},
		{file: "web-[08-10,12].x db[1]", want: "web-08.x|web-09.x|web-10.x|web-12.x|db1"},
		{file: "r[1-2]-n[3-4]", want: "r1-n3|r1-n4|r2-n3|r2-n4"},
		{file: "[98-101]", want: "98|99|100|101"},
		{file: `"a,b" "c [d]" "e\"\n"`, want: "a,b|c [d]|e\"\n"},
		{file: "grün", want: "grün"},
		{file: "", want: ""},
		{file: "a\nb[1-\n", err: "line 2"},
		{file: "a\r\nb\r\nc]\r\n", err: "line 3"},
		{file: "a\nweb-[1,a]", err: `line 2: web-[1,a]: "a"`},
		{file: "web-[]", err: `""`},
		{file: "web-[10-8]", err: `"10-8"`},
		{file: "web-[8-08]", err: `"8-08"`},
		{file: "web-[1-99999999999999999999]", err: "100000"},
		{file: "web-[1-9999][1-9999]", err: "100000"},
		{file: "a\n\"b", err: "line 2"},
		{file: "\"a\"b", err: "line 1"},
		{file: "a\"b\"", err: "line 1"},
		{file: "a#b", err: "line 1"},
		{file: "a\n\xff\xfea\x00", err: "line 2"},
		{file: "a\nb\x00", err: "line 2"},
		{file: "a\n\ufeffb", err: "line 2"},
	} {
		names, err := readNames([]byte(test.file))
		if (err != nil) != (test.err != "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%q: error %v, want %q", test.file, err, test.err)
		}
		if got := strings.Join(names, "|"); got != test.want {
			t.Errorf("%q: %q, want %q", test.file, got, test.want)
		}
	}
}

// TestQuote wants every name back that is printed, alone and among others.
func TestQuote(t *testing.T) {
	for _, name := range []string{"web-1", "web.example.com", "-", "a,b", "[", "a]", "#", "a b", "\"", "\\", "\x1b[2J", "\xff", "\ufffd", "\u202e", "'", "grün"} {
		names, err := parseNames("x " + quote(name) + ",y")
		if err != nil || !slices.Equal(names, []string{"x", name, "y"}) {
			t.Errorf("%q is printed as %s and read as %q, error %v", name, quote(name), names, err)
		}
	}
}
