package consul

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// TestTurnsPace asks for turns of different cost at once, and again after a rest.
func TestTurnsPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := &Turns{burst: 200 * time.Millisecond}
		for range 2 {
			start := time.Now()
			var at []string
			for _, cost := range []time.Duration{50, 50, 100, 50, 100, 1000, 50} {
				if !turns.Ask(cost*time.Millisecond, false).Wait(t.Context()) {
					t.Fatal("no turn")
				}
				at = append(at, fmt.Sprint(time.Since(start).Milliseconds()))
			}
			// A turn comes when its time and what was used before fit in the burst.
			if got, want := fmt.Sprint(at), "[0 0 0 50 150 350 400]"; got != want {
				t.Errorf("turns after %s ms, want %s", got, want)
			}
			time.Sleep(time.Hour)
		}
	})
}

// TestTurnsFair has a run that needs a thousand turns beside some that need one.
func TestTurnsFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := &Turns{burst: 200 * time.Millisecond}
		const cost = 50 * time.Millisecond
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			for turns.Ask(cost, false).Wait(ctx) {
			}
		}()
		time.Sleep(10 * time.Second)
		for others := range 5 {
			start := time.Now()
			for range others {
				go turns.Ask(cost, false).Wait(ctx)
			}
			synctest.Wait()
			turns.Ask(cost, false).Wait(ctx)
			if took := time.Since(start); took > time.Duration(others+2)*cost {
				t.Errorf("beside %d others the turn came after %v", others, took)
			}
		}
		cancel()
	})
}

// TestTurnsAlternate has a run that is under way ask for turns behind a hundred
// that begin, and a run that begins behind a hundred that are under way.
func TestTurnsAlternate(t *testing.T) {
	for _, begins := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			turns := &Turns{burst: 50 * time.Millisecond}
			const cost = 50 * time.Millisecond
			var hundred []*Turn
			for range 100 {
				hundred = append(hundred, turns.Ask(cost, begins))
			}
			start := time.Now()
			for range 10 {
				turns.Ask(cost, !begins).Wait(t.Context())
			}
			if took := time.Since(start); took != 19*cost && took != 20*cost {
				t.Errorf("ten turns came in %v", took)
			}
			for _, turn := range hundred {
				turn.Wait(t.Context())
			}
			if took := time.Since(start); took != 109*cost {
				t.Errorf("all turns came in %v", took)
			}
		})
	}
}

// TestTurnsLeave gives up turns that have come and turns that wait: neither costs
// the others time.
func TestTurnsLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := &Turns{burst: 100 * time.Millisecond}
		const cost = 100 * time.Millisecond
		come, waiting, last := turns.Ask(cost, false), turns.Ask(cost, false), turns.Ask(cost, false)
		start := time.Now()
		waiting.Leave()
		come.Leave()
		if !last.Wait(t.Context()) || time.Since(start) != 0 {
			t.Errorf("the turn came after %v", time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), cost/2)
		defer cancel()
		if turns.Ask(cost, false).Wait(ctx) {
			t.Error("a turn has come too early")
		}
		if turns.Ask(cost, false).Wait(t.Context()); time.Since(start) != cost {
			t.Errorf("the turn after one that was given up came after %v", time.Since(start))
		}
		cancel()
		if turns.Ask(cost, false).Wait(ctx) {
			t.Error("a turn has come although the context had ended")
		}
		(*Turn)(nil).Leave()
	})
}
