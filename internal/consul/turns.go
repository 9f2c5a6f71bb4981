package consul

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Turns lets several runs do something in turn, at a pace that all of them share.
// Each run asks for one turn at a time. They come in the order in which they were
// asked for, so a run that needs thousands does not keep others waiting. But
// runs that begin and runs that are under way alternate: a run does not wait in
// its middle for a thousand that begin. Several goroutines may use it.
type Turns struct {
	burst time.Duration // how much may be given at once after a while of rest

	mu        sync.Mutex // guards the fields below
	starting  []*Turn    // of runs that begin, in order
	underWay  []*Turn    // of runs that are under way, in order
	lastFirst bool       // whether the last turn was for a run that begins
	usedUp    time.Time  // when the time of all turns so far is used up
	timer     *time.Timer
}

// A Turn is one run's turn.
type Turn struct {
	C <-chan struct{} // closed when the turn has come

	of    *Turns
	come  chan struct{}
	cost  time.Duration
	first bool
}

// Ask asks for a turn that takes the given time of all, or the burst if that is
// less. first says that a run begins with it.
func (t *Turns) Ask(cost time.Duration, first bool) *Turn {
	come := make(chan struct{})
	turn := &Turn{C: come, of: t, come: come, cost: min(cost, t.burst), first: first}
	t.mu.Lock()
	defer t.mu.Unlock()
	line := t.line(first)
	*line = append(*line, turn)
	t.give()
	return turn
}

// line returns the turns of runs that begin, or of the others.
func (t *Turns) line(first bool) *[]*Turn {
	if first {
		return &t.starting
	}
	return &t.underWay
}

// give gives the turns whose time has come. t.mu is locked.
func (t *Turns) give() {
	if t.timer != nil {
		t.timer.Stop()
	}
	now := time.Now()
	for len(t.starting)+len(t.underWay) > 0 {
		line := t.line(!t.lastFirst)
		if len(*line) == 0 {
			line = t.line(t.lastFirst)
		}
		turn := (*line)[0]
		usedUp := later(t.usedUp, now).Add(turn.cost)
		if early := usedUp.Sub(now) - t.burst; early > 0 {
			t.timer = time.AfterFunc(early, func() {
				t.mu.Lock()
				defer t.mu.Unlock()
				t.give()
			})
			return
		}
		t.usedUp, t.lastFirst = usedUp, turn.first
		*line = (*line)[1:]
		close(turn.come)
	}
}

// Wait waits for the turn. It reports false, and leaves, if ctx ends first.
func (t *Turn) Wait(ctx context.Context) bool {
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	if ctx.Err() != nil {
		t.Leave()
		return false
	}
	return true
}

// Leave gives up a turn that is not used, whether it has come or not. It may be
// called on nil.
func (t *Turn) Leave() {
	if t == nil {
		return
	}
	t.of.mu.Lock()
	defer t.of.mu.Unlock()
	line := t.of.line(t.first)
	if i := slices.Index(*line, t); i >= 0 {
		*line = slices.Delete(*line, i, i+1)
	} else {
		t.of.usedUp = t.of.usedUp.Add(-t.cost)
	}
	t.of.give()
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
