package main

import (
	"math"
	"slices"
	"time"
)

// measurement holds the figures of one run, or of several runs at once. Zero
// means not measured.
type measurement struct {
	writing   time.Duration // from the job to the last exit
	behind    time.Duration // from the last exit to the client's end
	seen      time.Duration // from the last exit to its report
	clientCPU time.Duration // of one run
	serverCPU time.Duration

	// serverForClient is serverCPU without the CPU time of the writes alone.
	serverForClient time.Duration

	// Only of runs at once. Then behind is the median of the whole runs, from the
	// end of the last command.
	atOnce, whole int
	allEnded      time.Duration // from the begin to the end of the last run
	longestBehind time.Duration
	connections   int // at once

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
	var r report
	if len(p.reports) > 0 {
		r = p.reports[0]
	}
	m := measurement{clientCPU: p.cpu, peak: p.peak, problems: r.Problems}
	m.countTraffic(b.proxy.meter.reset())
	if end.err != nil {
		m.problems = append(m.problems, "nodes: "+end.err.Error())
	} else {
		ended := r.Returned
		if ended.IsZero() {
			ended = p.exited
		}
		m.writing = end.lastExit.Sub(end.started)
		m.behind = ended.Sub(end.lastExit)
		if r.Exits > 0 {
			m.seen = r.LastExit.Sub(end.lastExit)
		}
	}
	if r.Err != "" {
		m.problems = append(m.problems, r.Err)
	}
	if p.failure != nil {
		m.problems = append(m.problems, p.failure.Error())
	}
	return m
}

// countTraffic sets the figures of the traffic.
func (m *measurement) countTraffic(t *traffic) {
	m.wire, m.plain, m.listed = t.wire.Load(), t.plain.Load(), t.listed.Load()
	for k := range kinds {
		m.requests[k] = t.requests[k].Load()
		m.total += m.requests[k]
	}
}

// results holds each client's measurements in order.
type results map[string][]measurement

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
