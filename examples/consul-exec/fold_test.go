package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func TestFold(t *testing.T) {
	for _, test := range []struct{ names, want string }{
		{"", ""},
		{"web", "web"},
		{"web-1", "web-1"},
		{"web-1 web-2", "web-[1-2]"},
		{"web-2 web-1", "web-[1-2]"},
		{"web-01 web-02 web-03 web-04 web-05 web-07", "web-[01-05,07]"},
		{"web-1 web-10 web-11 web-2 web-3 web-9", "web-[1-3,9-11]"},
		{"web-8 web-9 web-10 web-08 web-09", "web-[8-9,08-10]"},
		{"web-099 web-100 web-101", "web-[099-101]"},
		{"web-999 web-1000", "web-[999-1000]"},
		{"web-00 web-01", "web-[00-01]"},
		{"web-1.example.com web-2.example.com web-3.example.com", "web-[1-3].example.com"},
		{"web-1.dc2.example.com web-2.dc2.example.com", "web-[1-2].dc2.example.com"},
		{"a-1 a-2 b-1 b-2", "a-[1-2],b-[1-2]"},
		{"r1-n1 r1-n2 r2-n1 r2-n2", "r1-n[1-2],r2-n[1-2]"},
		{"ip-10-0-0-7 ip-10-0-1-7 ip-10-0-2-7", "ip-10-0-[0-2]-7"},
		{"db web-1 web-2", "db,web-[1-2]"},
		{"1 2 3", "[1-3]"},
		{"web-99999999999999999999 web-100000000000000000000", "web-[99999999999999999999-100000000000000000000]"},
		{"web- web-1", "web-,web-1"},
		{"web- web-1 web-2", "web-,web-[1-2]"},
		{"a,1 a,2 b-1 b-2", `"a,1","a,2",b-[1-2]`},
		{"a[1] a[2]", `"a[1]","a[2]"`},
		{"a]1 a]2 #1 #2 \"1 \"2", `"a]1","a]2","#1","#2","\"1","\"2"`},
		{"x\u202e1 x\u202e2", `"x\u202e1","x\u202e2"`},
	} {
		names := strings.Fields(test.names)
		got := fold(names)
		if got != test.want {
			t.Errorf("fold(%q) = %q, want %q", names, got, test.want)
		}
		if back, err := parseNames(got); err != nil || !sameNames(back, names) {
			t.Errorf("%q is read as %q, error %v, want %q", got, back, err, names)
		}
	}
}

func TestFoldTwenty(t *testing.T) {
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprintf("web-%02d", i+1))
	}
	if got := fold(names); got != "web-[01-20]" {
		t.Error(got)
	}
}

// TestFoldBack folds random lists and wants the same names back.
func TestFoldBack(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		set := make(map[string]bool)
		for range random.IntN(12) {
			layout := []string{"a%d", "a%02d", "%da", "b-%03d.c2", "%d-7", "a", "a,%d", "a [%d]", "\"%d\xff"}[random.IntN(9)]
			name, _, _ := strings.Cut(fmt.Sprintf(layout, random.IntN(120)), "%!")
			set[name] = true
		}
		var names []string
		for name := range set {
			names = append(names, name)
		}
		slices.Sort(names)
		folded := fold(names)
		if back, err := parseNames(folded); err != nil || !sameNames(back, names) {
			t.Fatalf("fold(%q) = %q, which is read as %q, error %v", names, folded, back, err)
		}
	}
}

func sameNames(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}
