package main

import (
	"fmt"
	"math"
	"time"
)

// A column is one figure in a table.
type column struct {
	name   string
	value  func(m measurement) float64 // NaN if not measured; the table has the median
	format func(v float64) string
	ratio  bool // whether the ratio row has it

	text func(runs []measurement) string // in place of the median, if not nil
}

// columns returns the columns of the work's table.
func (w work) columns() []column {
	if w.AtOnce > 0 {
		return atOnceColumns
	}
	return costColumns
}

// of returns the column's figure of several runs.
func (c column) of(runs []measurement) string {
	if c.text != nil {
		return c.text(runs)
	}
	return cell(median(runs, c.value), c.format)
}

// costColumns are the figures of one run after the other.
var costColumns = func() []column {
	columns := []column{
		{name: "writing", value: func(m measurement) float64 { return known(m.writing.Seconds()) }, format: seconds},
		durationColumn("behind", func(m measurement) time.Duration { return m.behind }),
		durationColumn("last exit seen", func(m measurement) time.Duration { return m.seen }),
		clientCPUColumn("client CPU"),
		serverCPUColumn,
		durationColumn("server CPU for client", func(m measurement) time.Duration { return m.serverForClient }),
		requestsColumn,
	}
	for k := range kinds {
		columns = append(columns, column{name: kindNames[k], format: integer, value: func(m measurement) float64 {
			if m.total == 0 {
				return math.NaN()
			}
			return float64(m.requests[k])
		}})
	}
	return append(columns,
		receivedColumn,
		countColumn("uncompressed", megabytes, func(m measurement) int64 { return m.plain }),
		countColumn("uncompressed lists", megabytes, func(m measurement) int64 { return m.listed }),
		peakColumn,
	)
}()

// atOnceColumns are the figures of runs that begin at once.
var atOnceColumns = []column{
	{name: "whole", text: wholeRuns},
	durationColumn("all ended after", func(m measurement) time.Duration { return m.allEnded }),
	durationColumn("behind, median", func(m measurement) time.Duration { return m.behind }),
	durationColumn("behind, longest", func(m measurement) time.Duration { return m.longestBehind }),
	clientCPUColumn("client CPU a run"),
	serverCPUColumn,
	requestsColumn,
	countColumn("connections at once", integer, func(m measurement) int64 { return int64(m.connections) }),
	receivedColumn,
	peakColumn,
}

// Both tables have these columns.
var (
	serverCPUColumn = durationColumn("server CPU", func(m measurement) time.Duration { return m.serverCPU })
	requestsColumn  = countColumn("requests", integer, func(m measurement) int64 { return m.total })
	receivedColumn  = countColumn("received", megabytes, func(m measurement) int64 { return m.wire })
	peakColumn      = countColumn("peak memory", megabytes, func(m measurement) int64 { return m.peak })
)

func clientCPUColumn(name string) column {
	return durationColumn(name, func(m measurement) time.Duration { return m.clientCPU })
}

func durationColumn(name string, d func(m measurement) time.Duration) column {
	return column{name: name, format: seconds, ratio: true, value: func(m measurement) float64 { return known(d(m).Seconds()) }}
}

func countColumn(name string, format func(v float64) string, n func(m measurement) int64) column {
	return column{name: name, format: format, ratio: true, value: func(m measurement) float64 { return known(float64(n(m))) }}
}

// wholeRuns says how many of all runs are whole.
func wholeRuns(runs []measurement) string {
	whole, of := 0, 0
	for _, m := range runs {
		whole += m.whole
		of += m.atOnce
	}
	return fmt.Sprintf("%d of %d", whole, of)
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

// cell formats a figure. It is empty if the figure is not known.
func cell(v float64, format func(v float64) string) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return ""
	}
	return format(v)
}
