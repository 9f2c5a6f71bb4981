package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"
)

// measurement holds the figures of one run. Zero means not measured.
type measurement struct {
	writing   time.Duration // from the job to the last exit
	behind    time.Duration // from the last exit to the client's end
	seen      time.Duration // from the last exit to its report
	clientCPU time.Duration
	serverCPU time.Duration

	// serverForClient is serverCPU without the CPU time of the writes alone.
	serverForClient time.Duration

	requests [kinds]int64
	total    int64
	wire     int64
	plain    int64
	listed   int64
	peak     int64
	problems []string
}

// summarize returns the measurement of a client's run.
func (b *bench) summarize(p *process, end nodesEnd) measurement {
	t := b.proxy.reset()
	m := measurement{
		clientCPU: p.cpu,
		wire:      t.wire.Load(),
		plain:     t.plain.Load(),
		listed:    t.listed.Load(),
		peak:      p.peak,
		problems:  p.report.Problems,
	}
	for k := range kinds {
		m.requests[k] = t.requests[k].Load()
		m.total += m.requests[k]
	}
	if end.err != nil {
		m.problems = append(m.problems, "nodes: "+end.err.Error())
	} else {
		ended := p.report.Returned
		if ended.IsZero() {
			ended = p.exited
		}
		m.writing = end.lastExit.Sub(end.started)
		m.behind = ended.Sub(end.lastExit)
		if p.report.Exits > 0 {
			m.seen = p.report.LastExit.Sub(end.lastExit)
		}
	}
	if p.report.Err != "" {
		m.problems = append(m.problems, p.report.Err)
	}
	if p.failure != nil {
		m.problems = append(m.problems, p.failure.Error())
	}
	return m
}

// A column is one figure in the table.
type column struct {
	name   string
	value  func(m measurement) float64 // NaN if not measured
	format func(v float64) string
	ratio  bool // whether the ratio row has it
}

var columns = makeColumns()

func makeColumns() []column {
	of := func(d func(m measurement) time.Duration) func(m measurement) float64 {
		return func(m measurement) float64 { return known(d(m).Seconds()) }
	}
	count := func(n func(m measurement) int64) func(m measurement) float64 {
		return func(m measurement) float64 { return known(float64(n(m))) }
	}
	all := []column{
		{"writing", of(func(m measurement) time.Duration { return m.writing }), seconds, false},
		{"behind", of(func(m measurement) time.Duration { return m.behind }), seconds, true},
		{"last exit seen", of(func(m measurement) time.Duration { return m.seen }), seconds, true},
		{"client CPU", of(func(m measurement) time.Duration { return m.clientCPU }), seconds, true},
		{"server CPU", of(func(m measurement) time.Duration { return m.serverCPU }), seconds, true},
		{"server CPU for client", of(func(m measurement) time.Duration { return m.serverForClient }), seconds, true},
		{"requests", count(func(m measurement) int64 { return m.total }), integer, true},
	}
	for k := range kinds {
		all = append(all, column{kindNames[k], func(m measurement) float64 {
			if m.total == 0 {
				return math.NaN()
			}
			return float64(m.requests[k])
		}, integer, false})
	}
	return append(all,
		column{"received", count(func(m measurement) int64 { return m.wire }), megabytes, true},
		column{"uncompressed", count(func(m measurement) int64 { return m.plain }), megabytes, true},
		column{"uncompressed lists", count(func(m measurement) int64 { return m.listed }), megabytes, true},
		column{"peak memory", count(func(m measurement) int64 { return m.peak }), megabytes, true},
	)
}

// known returns v, or NaN for 0, which means not measured.
func known(v float64) float64 {
	if v == 0 {
		return math.NaN()
	}
	return v
}

func seconds(v float64) string   { return fmt.Sprintf("%.3f s", v) }
func integer(v float64) string   { return fmt.Sprintf("%.0f", v) }
func megabytes(v float64) string { return fmt.Sprintf("%.2f MB", v/1e6) }
func times(v float64) string     { return fmt.Sprintf("%.1f ×", v) }

// row is a row of the table.
type row struct {
	work, client string
	cells        []string // in the order of columns
	problems     []string
}

// makeRows returns a workload's rows: each client's medians, and the ratio of
// `consul exec` to consulexec.
func makeRows(w work, o options, r results) []row {
	title := w.title()
	if o.batch > 1 && !w.Real {
		title += fmt.Sprintf(", %d writes per transaction", o.batch)
	}
	r.subtractWriting()
	var rows []row
	for _, client := range []string{writesAlone, ownClient, withClient, consulExec} {
		if len(r[client]) == 0 {
			continue
		}
		row := row{work: title, client: client}
		for _, c := range columns {
			row.cells = append(row.cells, cell(median(r[client], c.value), c.format))
		}
		for _, m := range r[client] {
			row.problems = append(row.problems, m.problems...)
		}
		rows = append(rows, row)
	}
	if len(r[ownClient]) == 0 || len(r[consulExec]) == 0 {
		return rows
	}
	ratios := row{work: title, client: consulExec + " ÷ " + ownClient}
	for _, c := range columns {
		ratio := math.NaN()
		if c.ratio {
			ratio = median(r[consulExec], c.value) / median(r[ownClient], c.value)
		}
		ratios.cells = append(ratios.cells, cell(ratio, times))
	}
	return append(rows, ratios)
}

// subtractWriting sets serverForClient in every measurement.
func (r results) subtractWriting() {
	writing := median(r[writesAlone], func(m measurement) float64 { return known(m.serverCPU.Seconds()) })
	if math.IsNaN(writing) {
		return
	}
	for _, client := range []string{ownClient, withClient, consulExec} {
		for i := range r[client] {
			m := &r[client][i]
			m.serverForClient = m.serverCPU - time.Duration(writing*float64(time.Second))
		}
	}
}

// median returns the median of a figure's known values, or NaN without any. For
// an even number it is the mean of the middle two.
func median(runs []measurement, value func(m measurement) float64) float64 {
	var known []float64
	for _, m := range runs {
		if v := value(m); !math.IsNaN(v) {
			known = append(known, v)
		}
	}
	if len(known) == 0 {
		return math.NaN()
	}
	slices.Sort(known)
	n := len(known)
	return (known[(n-1)/2] + known[n/2]) / 2
}

func cell(v float64, format func(v float64) string) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return ""
	}
	return format(v)
}

// printTable prints the rows, and then their problems.
func printTable(to io.Writer, rows []row) {
	head := []string{"work", "client"}
	line := []string{"---", "---"}
	for _, c := range columns {
		head = append(head, c.name)
		line = append(line, "---:")
	}
	printRow(to, head)
	printRow(to, line)
	for _, r := range rows {
		printRow(to, append([]string{r.work, r.client}, r.cells...))
	}
	for _, r := range rows {
		for _, p := range r.problems {
			fmt.Fprintf(to, "\n%s, %s: %s\n", r.work, r.client, p)
		}
	}
}

func printRow(to io.Writer, cells []string) {
	fmt.Fprintf(to, "| %s |\n", strings.Join(cells, " | "))
}
