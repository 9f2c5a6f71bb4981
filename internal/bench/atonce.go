package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/consul/api"
)

const (
	// maxProcesses bounds the processes of `consul exec` that run at once. Each
	// takes some 80 MB.
	maxProcesses = 100

	// endingTime is how long clients may take to end after the work's limit.
	endingTime = 30 * time.Second

	// clearTime is how long a server that was overloaded may take to end the
	// sessions that are left.
	clearTime = time.Minute
)

// runAtOnce begins all runs of a work at once and measures them together:
// consulexec's in one process, those of `consul exec` in one process each. A
// run that fails is a figure and no error.
func (b *bench) runAtOnce(ctx context.Context, client string) (measurement, error) {
	b.relay.reset()
	bounded, cancel := context.WithTimeout(ctx, b.work.limit()+endingTime)
	defer cancel()
	count := 1
	if client == consulExec {
		count = b.work.AtOnce
	}
	var processes []*process
	for range count {
		p, err := b.startProcess(client, b.relay.addr)
		if err != nil {
			return measurement{}, err
		}
		defer p.kill()
		processes = append(processes, p)
	}
	for _, p := range processes {
		p.wait(bounded)
		p.kill()
	}
	if err := context.Cause(ctx); err != nil {
		return measurement{}, err
	}
	m := b.summarizeAtOnce(processes)
	left, err := b.clearSessions(ctx)
	if left > 0 {
		m.problems = append(m.problems, fmt.Sprintf("%d sessions are left at the end", left))
	}
	if err != nil {
		m.problems = append(m.problems, err.Error())
	}
	return m, context.Cause(ctx)
}

// summarizeAtOnce returns the measurement of runs that were begun at once. How
// far a run is behind counts only if it is whole.
func (b *bench) summarizeAtOnce(processes []*process) measurement {
	m := measurement{atOnce: b.work.AtOnce}
	var t *traffic
	t, m.connections = b.relay.reset()
	m.countTraffic(t)
	var begun, ended time.Time
	var behind []time.Duration
	var failed []string
	for _, p := range processes {
		m.clientCPU += p.cpu / time.Duration(b.work.AtOnce)
		m.peak += p.peak
		for _, r := range p.runs() {
			if begun.IsZero() || r.Started.Before(begun) {
				begun = r.Started
			}
			if r.Returned.After(ended) {
				ended = r.Returned
			}
			if r.whole() {
				behind = append(behind, r.Returned.Sub(r.LastCommand))
			} else {
				failed = append(failed, r.reason())
			}
		}
	}
	m.allEnded = ended.Sub(begun)
	if m.whole = len(behind); m.whole > 0 {
		slices.Sort(behind)
		m.behind, m.longestBehind = behind[len(behind)/2], behind[len(behind)-1]
	}
	m.problems = commonest(failed)
	return m
}

// commonest returns the most frequent reasons for which runs are not whole.
func commonest(failed []string) []string {
	const most = 3
	runs := make(map[string]int)
	for _, f := range failed {
		runs[f]++
	}
	reasons := slices.SortedFunc(maps.Keys(runs), func(a, b string) int {
		return cmp.Or(cmp.Compare(runs[b], runs[a]), cmp.Compare(a, b))
	})
	var texts []string
	for _, f := range reasons[:min(most, len(reasons))] {
		texts = append(texts, fmt.Sprintf("%d runs: %s", runs[f], f))
	}
	return texts
}

// runs returns the reports of the process's runs, and what became of the
// process. A process that ends without a report counts as one run.
func (p *process) runs() []report {
	runs := p.reports
	if len(runs) == 0 {
		runs = []report{{}}
	}
	for i := range runs {
		r := &runs[i]
		if r.Started.IsZero() {
			r.Started = p.started
		}
		if r.Returned.IsZero() {
			r.Returned = p.exited
		}
		if p.failure != nil {
			r.Err = cmp.Or(r.Err, p.failure.Error())
		}
	}
	return runs
}

// clearSessions destroys the sessions that runs left behind, so that they do not
// disturb the next ones. It returns how many there were.
func (b *bench) clearSessions(ctx context.Context) (left int, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, clearTime, fmt.Errorf("the sessions that are left were not gone within %v", clearTime))
	defer cancel()
	read := (&api.QueryOptions{}).WithContext(ctx)
	write := (&api.WriteOptions{}).WithContext(ctx)
	for {
		sessions, _, err := b.client.Session().List(read)
		if err == nil && len(sessions) == 0 {
			return left, nil
		}
		left = max(left, len(sessions))
		for _, s := range sessions {
			b.client.Session().Destroy(s.ID, write) // the next list shows what became of it
		}
		if err := sleepUntil(ctx, time.Now().Add(500*time.Millisecond)); err != nil {
			return left, err
		}
	}
}
