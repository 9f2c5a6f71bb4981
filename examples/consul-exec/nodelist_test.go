package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
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
	} {
		names := strings.Fields(test.names)
		got := fold(names)
		if got != test.want {
			t.Errorf("fold(%q) = %q, want %q", names, got, test.want)
		}
		if back := unfold(got); !sameNames(back, names) {
			t.Errorf("unfold(%q) = %q, want %q", got, back, names)
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
			layout := []string{"a%d", "a%02d", "%da", "b-%03d.c2", "%d-7", "x"}[random.IntN(6)]
			name, _, _ := strings.Cut(fmt.Sprintf(layout, random.IntN(120)), "%!")
			set[name] = true
		}
		var names []string
		for name := range set {
			names = append(names, name)
		}
		slices.Sort(names)
		if folded := fold(names); !sameNames(unfold(folded), names) {
			t.Fatalf("fold(%q) = %q, which unfolds to %q", names, folded, unfold(folded))
		}
	}
}

func sameNames(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// unfold returns the names of a folded list, as a reader understands it.
func unfold(list string) []string {
	var names []string
	for list != "" {
		end, depth := 0, 0
		for ; end < len(list) && (list[end] != ',' || depth > 0); end++ {
			switch list[end] {
			case '[':
				depth++
			case ']':
				depth--
			}
		}
		before, rest, folded := strings.Cut(list[:end], "[")
		if !folded {
			names = append(names, before)
		}
		middle, after, _ := strings.Cut(rest, "]")
		for part := range strings.SplitSeq(middle, ",") {
			if !folded {
				break
			}
			first, last, isRange := strings.Cut(part, "-")
			if !isRange {
				last = first
			}
			for number := first; ; number = fmt.Sprintf("%0*s", len(first), plusOne(number)) {
				names = append(names, before+number+after)
				if number == last {
					break
				}
			}
		}
		list = strings.TrimPrefix(list[end:], ",")
	}
	return names
}

// plusOne adds 1 to a decimal number of any size.
func plusOne(number string) string {
	head, last := number[:len(number)-1], number[len(number)-1:]
	n, _ := strconv.Atoi(last)
	switch {
	case n < 9:
		return head + strconv.Itoa(n+1)
	case head == "":
		return "10"
	}
	return plusOne(head) + "0"
}
