package consulexec

import (
	"regexp"
	"regexp/syntax"
	"slices"
	"sort"
	"strings"
	"unicode/utf8"
)

// only returns the filter that matches the nodes of these names and no others.
// What the names have in common stands in it once: regexp/syntax writes each
// common beginning once, and a common end is cut off before.
func only(names []string) string {
	if len(names) == 1 {
		return "^" + regexp.QuoteMeta(names[0]) + "$"
	}
	end := commonEnd(names)
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = regexp.QuoteMeta(strings.TrimSuffix(name, end))
	}
	slices.Sort(quoted)
	re, err := syntax.Parse(strings.Join(quoted, "|"), syntax.Perl)
	if err != nil {
		panic(err) // each part is quoted
	}
	// A group that captures is shorter. What is literal has its brackets escaped.
	text := strings.ReplaceAll(re.String(), "(?:", "(")
	if re.Op == syntax.OpAlternate {
		text = "(" + text + ")"
	}
	return "^" + text + regexp.QuoteMeta(end) + "$"
}

// commonEnd returns what all names end in.
func commonEnd(names []string) string {
	end := names[0]
	for _, name := range names[1:] {
		for !strings.HasSuffix(name, end) {
			_, size := utf8.DecodeRuneInString(end)
			end = end[size:]
		}
	}
	return end
}

// pack cuts names into groups whose filters fit: by name, so that names with much in
// common stand together, and as many as fit in each. A name that does not fit
// alone has a group of its own.
func pack(names []string, fits func(filter string) bool) [][]string {
	names = slices.Sorted(slices.Values(names))
	var groups [][]string
	for len(names) > 0 {
		most := 1
		for most < len(names) && fits(only(names[:most])) {
			most = min(2*most, len(names))
		}
		n := sort.Search(most, func(i int) bool { return !fits(only(names[:i+1])) })
		n = max(n, 1)
		groups = append(groups, names[:n])
		names = names[n:]
	}
	return groups
}
