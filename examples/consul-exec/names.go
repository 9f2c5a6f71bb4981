package main

import (
	"cmp"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxNames bounds what one range stands for: web-[1-999999999] is a mistake.
const maxNames = 100_000

// quote returns the name of a node as it is printed and read: in quotation
// marks if a list of names could be misread otherwise.
func quote(name string) string {
	if name != "" && checkName(name) == nil {
		return name
	}
	return strconv.Quote(name)
}

// checkName returns an error unless a list can have the name as it is.
func checkName(name string) error {
	at := strings.IndexFunc(name, func(r rune) bool {
		return separates(r) || strings.ContainsRune(`"[]#`, r) || !unicode.IsPrint(r) || r == utf8.RuneError
	})
	if at < 0 {
		return nil
	}
	r, size := utf8.DecodeRuneInString(name[at:])
	if r == utf8.RuneError && size == 1 {
		return fmt.Errorf("%q is not UTF-8", name)
	}
	return fmt.Errorf("%q has a %q: put a name with this character in quotation marks", name, r)
}

// separates reports whether r stands between two names.
func separates(r rune) bool { return r == ',' || unicode.IsSpace(r) }

// readNames reads the names in a file: see parseNames. It takes the line ends
// of any system, and drops a byte-order mark.
func readNames(file []byte) (names []string, err error) {
	text := strings.TrimPrefix(string(file), "\ufeff")
	text = strings.ReplaceAll(text, "\r\n", "\n")
	text = strings.ReplaceAll(text, "\r", "\n")
	number := 0
	for line := range strings.SplitSeq(text, "\n") {
		number++
		found, err := parseNames(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		names = append(names, found...)
	}
	return names, nil
}

// parseNames reads names between commas and spaces, as they are, folded or
// quoted, up to a "#".
func parseNames(line string) (names []string, err error) {
	for {
		line = strings.TrimLeftFunc(line, separates)
		if line == "" || line[0] == '#' {
			return names, nil
		}
		var found []string
		if found, line, err = parseName(line); err != nil {
			return nil, err
		}
		names = append(names, found...)
	}
}

// word matches a name that may be folded, up to its end or to what can't be in
// a name.
var word = regexp.MustCompile(`^(?:[^\s,"\[\]]|\[[^\s"\[\]]*\])+`)

// parseName reads what stands for one name or several at the beginning of the
// line, which is not empty.
func parseName(line string) (names []string, rest string, err error) {
	text := word.FindString(line)
	if line[0] == '"' {
		text, _ = strconv.QuotedPrefix(line)
	}
	rest = line[len(text):]
	if next, _ := utf8.DecodeRuneInString(rest); text == "" || rest != "" && !separates(next) {
		return nil, "", fmt.Errorf("%q: a bracket or a quotation mark is out of place", strings.Fields(line)[0])
	}
	if line[0] != '"' {
		names, err = unfold(text)
		return names, rest, err
	}
	name, err := strconv.Unquote(text)
	return []string{name}, rest, err
}

// unfold returns the names that a folded name stands for: see fold.
func unfold(folded string) ([]string, error) {
	before, rest, isFolded := strings.Cut(folded, "[")
	if err := checkName(before); err != nil || !isFolded {
		return []string{before}, err
	}
	list, after, _ := strings.Cut(rest, "]")
	ends, err := unfold(after)
	if err != nil {
		return nil, err
	}
	var names []string
	for part := range strings.SplitSeq(list, ",") {
		numbers, err := numbers(part)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", folded, err)
		}
		for _, number := range numbers {
			for _, end := range ends {
				names = append(names, before+number+end)
			}
			if len(names) > maxNames {
				return nil, fmt.Errorf("%s: more than %d names", folded, maxNames)
			}
		}
	}
	return names, nil
}

var number = regexp.MustCompile(`^[0-9]+$`)

// numbers returns the numbers of a range such as 08-10, which has the numbers
// 08, 09 and 10, or of a single number.
func numbers(part string) (all []string, err error) {
	first, last, isRange := strings.Cut(part, "-")
	if !isRange {
		last = first
	}
	if !number.MatchString(first) || !number.MatchString(last) {
		return nil, fmt.Errorf("%q is neither a number nor a range", part)
	}
	if before := cmp.Or(cmp.Compare(len(first), len(last)), strings.Compare(first, last)); before > 0 || len(first) < len(last) && last[0] == '0' {
		return nil, fmt.Errorf("the range %q does not end", part)
	}
	for next := first; ; next = successor(next) {
		all = append(all, next)
		if next == last {
			return all, nil
		}
		if len(all) > maxNames {
			return nil, fmt.Errorf("the range %q has more than %d numbers", part, maxNames)
		}
	}
}
