package main

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
)

var digits = regexp.MustCompile(`[0-9]+`)

// fold abbreviates a list of node names: web-[01-05,07].example.com,db. Numbers
// in a range are padded with zeros to the width of the first: [08-10] means 08,
// 09 and 10, but [8-10] means 8, 9 and 10. A name that could be misread is
// quoted.
func fold(names []string) string {
	type family struct {
		before, after string // the text around a number
		whole         bool   // or before is a whole name
	}
	around := func(name string, number []int) family {
		return family{before: name[:number[0]], after: name[number[1]:]}
	}
	numbersIn := func(name string) [][]int {
		if quote(name) != name {
			return nil
		}
		return digits.FindAllStringIndex(name, -1)
	}
	size := make(map[family]int)
	for _, name := range names {
		for _, number := range numbersIn(name) {
			size[around(name, number)]++
		}
	}

	// Of several numbers in a name, fold the one that puts most names into one
	// family. If several do so, fold the last one.
	numbers := make(map[family][]string)
	var order []family
	for _, name := range names {
		f, number, most := family{before: quote(name), whole: true}, "", 1
		for _, at := range numbersIn(name) {
			if g := around(name, at); size[g] > 1 && size[g] >= most {
				f, number, most = g, name[at[0]:at[1]], size[g]
			}
		}
		if numbers[f] == nil {
			order = append(order, f)
		}
		numbers[f] = append(numbers[f], number)
	}

	var folded []string
	for _, f := range order {
		middle := numbers[f][0]
		if len(numbers[f]) > 1 {
			middle = "[" + ranges(numbers[f]) + "]"
		}
		folded = append(folded, f.before+middle+f.after)
	}
	return strings.Join(folded, ",")
}

// ranges abbreviates a list of numbers: 01-05,07.
func ranges(numbers []string) string {
	numbers = slices.SortedFunc(slices.Values(numbers), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
	})
	var parts []string
	for i := 0; i < len(numbers); {
		last := i
		for last+1 < len(numbers) && numbers[last+1] == successor(numbers[last]) {
			last++
		}
		part := numbers[i]
		if last > i {
			part += "-" + numbers[last]
		}
		parts = append(parts, part)
		i = last + 1
	}
	return strings.Join(parts, ",")
}

// successor returns the next number, which is at least as wide: 10 follows both
// 09 and 9.
func successor(number string) string {
	next := []byte(number)
	for i := len(next) - 1; i >= 0; i-- {
		if next[i] < '9' {
			next[i]++
			return string(next)
		}
		next[i] = '0'
	}
	return "1" + string(next)
}
