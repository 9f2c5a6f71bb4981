package consulexec

import "time"

// What a listing costs, client and server together, in round figures, and what
// part of the time listings may take. Only their proportions matter: a listing of
// few keys is asked for at once, but no more than 20 in a second go on; one of
// 3,000 keys 12 times in a second.
const (
	listCost  = 5 * time.Millisecond
	keyCost   = time.Microsecond
	listShare = 10 // a tenth

	// listBurst is what may be spent at once after a while of rest: 20 short
	// listings, so that a short command on few nodes is never held up.
	listBurst = 100 * time.Millisecond

	// maxPause is how long a node's end may go unnoticed for the sake of the rest.
	maxPause = 750 * time.Millisecond
)

// pacer spaces listings out, so that they take no more than a small part of the
// time, however much there is to go through. The zero pacer has its whole budget.
type pacer struct {
	spent time.Duration // of listBurst
	last  time.Time     // when that was so
}

// pause takes note of a listing of so many keys, those counted that Consul still has
// a record of, and returns how long to wait before the next.
func (p *pacer) pause(now time.Time, keys int) time.Duration {
	if !p.last.IsZero() {
		p.spent = max(0, p.spent-now.Sub(p.last)/listShare)
	}
	p.last = now
	p.spent += listCost + time.Duration(keys)*keyCost
	p.spent = min(p.spent, listBurst+maxPause/listShare)
	return max(0, p.spent-listBurst) * listShare
}
