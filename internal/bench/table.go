package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// table is a Markdown table.
type table struct {
	labels  []string // the heads of the left-aligned columns
	figures []string // the heads of the others
	rows    []row
}

// row is a row of a table.
type row struct {
	labels, figures []string
	problems        []string // follow the table
}

// tables are the tables of all kinds of workloads.
type tables struct{ costs, atOnce, accidents *table }

func newTables() tables {
	return tables{newTable(costColumns), newTable(atOnceColumns), newAccidentTable()}
}

// newTable returns a table of workloads and clients.
func newTable(columns []column) *table {
	t := &table{labels: []string{"work", "client"}}
	for _, c := range columns {
		t.figures = append(t.figures, c.name)
	}
	return t
}

// of returns the workload's table.
func (t tables) of(w work) *table {
	switch {
	case w.Accidents:
		return t.accidents
	case w.AtOnce > 0:
		return t.atOnce
	default:
		return t.costs
	}
}

func (t tables) print(to io.Writer) {
	t.costs.print(to)
	t.atOnce.print(to)
	t.accidents.print(to)
}

// makeRows returns a workload's rows: each client's medians, and the ratio of
// `consul exec` to consulexec unless the runs are at once.
func makeRows(w work, r results) []row {
	r.subtractWriting()
	var rows []row
	for _, client := range []string{writesAlone, ownClient, withClient, consulExec} {
		if len(r[client]) == 0 {
			continue
		}
		row := row{labels: []string{w.title(), client}}
		for _, c := range w.columns() {
			row.figures = append(row.figures, c.of(r[client]))
		}
		for _, m := range r[client] {
			row.problems = append(row.problems, m.problems...)
		}
		rows = append(rows, row)
	}
	if w.AtOnce > 0 || len(r[ownClient]) == 0 || len(r[consulExec]) == 0 {
		return rows
	}
	ratios := row{labels: []string{w.title(), consulExec + " ÷ " + ownClient}}
	for _, c := range w.columns() {
		ratio := math.NaN()
		if c.ratio {
			ratio = median(r[consulExec], c.value) / median(r[ownClient], c.value)
		}
		ratios.figures = append(ratios.figures, cell(ratio, times))
	}
	return append(rows, ratios)
}

// print prints the table, if it has rows, and then their problems.
func (t *table) print(to io.Writer) {
	if len(t.rows) == 0 {
		return
	}
	printRow(to, t.labels, t.figures)
	printRow(to, slices.Repeat([]string{"---"}, len(t.labels)), slices.Repeat([]string{"---:"}, len(t.figures)))
	for _, r := range t.rows {
		printRow(to, r.labels, r.figures)
	}
	for _, r := range t.rows {
		for _, p := range r.problems {
			fmt.Fprintf(to, "\n%s: %s\n", strings.Join(r.labels, ", "), p)
		}
	}
	fmt.Fprintln(to)
}

func printRow(to io.Writer, labels, figures []string) {
	fmt.Fprintf(to, "| %s | %s |\n", strings.Join(labels, " | "), strings.Join(figures, " | "))
}
