package consul

import (
	"context"
	"sync"
	"time"
)

// Turns lets several runs do something in turn, at a pace that all of them share.
// Each run asks for one turn at a time. They come in the order in which they were
// asked for, so a run that needs thousands does not keep others waiting. Several
// goroutines may use it.
type Turns struct {
	burst time.Duration // how much may be given at once after a while of rest

	mu      sync.Mutex // guards the fields below
	waiting []*Turn    // in order
	usedUp  time.Time  // when the time of all turns so far is used up
	timer   *time.Timer
}

// A Turn is one run's turn.
type Turn struct {
	C <-chan struct{} // closed when the turn has come

	of   *Turns
	come chan struct{}
	cost time.Duration
}

// Ask asks for a turn that takes the given time of all, or the burst if that is
// less.
func (t *Turns) Ask(cost time.Duration) *Turn {
	come := make(chan struct{})
	turn := &Turn{C: come, of: t, come: come, cost: min(cost, t.burst)}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting = append(t.waiting, turn)
	t.give()
	return turn
}

// give gives the turns whose time has come. t.mu is locked.
func (t *Turns) give() {
	if t.timer != nil {
		t.timer.Stop()
	}
	now := time.Now()
	for len(t.waiting) > 0 {
		turn := t.waiting[0]
		usedUp := later(t.usedUp, now).Add(turn.cost)
		if early := usedUp.Sub(now) - t.burst; early > 0 {
			t.timer = time.AfterFunc(early, func() {
				t.mu.Lock()
				defer t.mu.Unlock()
				t.give()
			})
			return
		}
		t.usedUp = usedUp
		t.waiting = t.waiting[1:]
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
	for i, waiting := range t.of.waiting {
		if waiting == t {
			t.of.waiting = append(t.of.waiting[:i:i], t.of.waiting[i+1:]...)
			t.of.give()
			return
		}
	}
	t.of.usedUp = t.of.usedUp.Add(-t.cost)
	t.of.give()
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
