package reader

import (
	"testing"
	"time"
)

// TestPacer lists again and again, as fast as the pacer lets, for 100 s.
func TestPacer(t *testing.T) {
	for _, test := range []struct {
		keys        int
		burst       int           // listings without a pause
		least, most int           // listings in all
		longest     time.Duration // pause
	}{
		{10, 18, 1_900, 2_100, 60 * time.Millisecond},
		{3_000, 10, 1_230, 1_280, 100 * time.Millisecond},
		{35_000, 2, 245, 255, 500 * time.Millisecond},
		{200_000, 0, 195, 205, 600 * time.Millisecond},
	} {
		p := pacer{least: minPause}
		var longest time.Duration
		burst, total := 0, 0
		for at := time.Duration(0); at < 100*time.Second; total++ {
			pause := p.pause(time.Unix(0, 0).Add(at), test.keys)
			if longest <= minPause && pause == minPause {
				burst++
			}
			longest = max(longest, pause)
			at += pause
		}
		if burst < test.burst || total < test.least || total > test.most || longest > test.longest {
			t.Errorf("%d keys: %d at once, %d in 100 s, longest pause %v", test.keys, burst, total, longest)
		}
	}
}

// TestPacerRests checks that a rest gives the burst back, and no more.
func TestPacerRests(t *testing.T) {
	p := pacer{least: minPause}
	now := time.Now()
	for range 200 {
		now = now.Add(p.pause(now, 10))
	}
	now = now.Add(time.Hour)
	burst := 0
	for p.pause(now, 10) == minPause {
		burst++
	}
	if burst < 18 || burst > 22 {
		t.Errorf("%d listings at once after an hour's rest", burst)
	}
}
