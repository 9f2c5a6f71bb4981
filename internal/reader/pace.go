package reader

import "time"

const (
	// A listing costs listCost, and keyCost for each key, client and server
	// together, in round figures. Listings may take one part in listShare of
	// the time. Only the proportions matter: a listing of few keys is asked for
	// at once, but no more than 20 a second in the long run; one of 3,000 keys
	// 12 times a second.
	listCost  = 5 * time.Millisecond
	keyCost   = time.Microsecond
	listShare = 10

	// listBurst may be spent at once after a while of rest. It is 20 short
	// listings, so that a short command on few nodes is never held up.
	listBurst = 100 * time.Millisecond

	// minPause is how long nodes have that end together, so that one listing has
	// them all. A job with a runner is listed at once: the exit of a copy that is
	// turned away may take the place of the first copy's.
	minPause = 5 * time.Millisecond

	// maxPause is how long the end of a node may go unnoticed to save listings.
	maxPause = 500 * time.Millisecond
)

// pacer spaces listings out, so that they take a small part of the time however
// many keys there are. The zero pacer has its whole budget.
type pacer struct {
	least time.Duration // the shortest pause
	spent time.Duration // of listBurst
	last  time.Time     // when spent was computed
}

// pause charges the budget for a listing of keys (tombstones included) and
// returns how long to wait before the next.
func (p *pacer) pause(now time.Time, keys int) time.Duration {
	if !p.last.IsZero() {
		p.spent = max(0, p.spent-now.Sub(p.last)/listShare)
	}
	p.last = now
	p.spent += listCost + time.Duration(keys)*keyCost
	p.spent = min(p.spent, listBurst+maxPause/listShare)
	return max(p.least, (p.spent-listBurst)*listShare)
}
