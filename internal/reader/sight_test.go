package reader

import (
	"testing"
	"time"
)

// TestOutage checks how long an outage is held to be.
func TestOutage(t *testing.T) {
	start := time.Now()
	at := func(second int) time.Time { return start.Add(time.Duration(second) * time.Second) }
	s := sight{asked: at(9), listedAt: at(0)}
	if got := s.outage(); got != 0 {
		t.Errorf("outage of %v without any failure", got)
	}
	s.blindSince = at(5) // interrupted, which is no failure
	if got := s.outage(); got != 0 {
		t.Errorf("outage of %v by an interruption", got)
	}
	s.listedAt = at(0)
	s.blindSince, s.failed = at(5), true
	if got := s.outage(); got != 4*time.Second {
		t.Errorf("outage of %v, want 4s", got)
	}
	if got := s.outage(); got != 0 {
		t.Errorf("the outage is over, but counts again with %v", got)
	}
	s = sight{asked: at(9), listedAt: at(8), blindSince: at(8), failed: true}
	if got := s.outage(); got != 0 {
		t.Errorf("outage of %v, although listings come every second", got)
	}
}
