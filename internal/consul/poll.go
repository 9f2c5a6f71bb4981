package consul

import "time"

const (
	// PollWait is how long Consul may hold a blocking query while nothing
	// changes. A connection that has gone silent is noticed after about as
	// long.
	PollWait = 10 * time.Second

	// PollTimeout bounds a blocking query. Consul adds up to a sixteenth to the
	// wait.
	PollTimeout = PollWait + PollWait/16 + requestTimeout

	// minPollWait is the shortest wait, and also the shortest time after which
	// a query that fails counts as cut.
	minPollWait = time.Second
)

// A Poll is a series of blocking queries. Something between the client and
// Consul may cut a query that waits: a proxy, or a timeout of the HTTP client
// or the agent. That is no outage. The zero Poll begins with PollWait.
type Poll struct {
	cuts    int
	longest time.Duration // that a query may wait; PollWait if 0
}

// Wait returns how long the next query may wait.
func (p *Poll) Wait() time.Duration {
	if p.longest == 0 {
		return PollWait
	}
	return p.longest
}

// Cut reports whether a query that failed with err had waited for some time, so
// that it was cut rather than refused. After the second cut, queries wait for
// less time.
func (p *Poll) Cut(err error, waited time.Duration) bool {
	if waited < minPollWait || waited > PollWait || !IsTransient(err) {
		return false
	}
	if p.cuts++; p.cuts > 1 {
		p.longest = max(minPollWait, min(p.Wait(), waited)/2)
	}
	return true
}
