package reader

import (
	"time"

	"github.com/consulexec/consulexec/internal/consul"
)

const (
	// pollWait is how long Consul may hold a blocking query while nothing
	// changes. A connection that has gone silent is noticed after about as
	// long.
	pollWait = 10 * time.Second

	// pollTimeout bounds a blocking query. Consul adds up to a sixteenth to the
	// wait.
	pollTimeout = pollWait + pollWait/16 + consul.RequestTimeout

	// minPollWait is the shortest wait, and also the shortest time after which
	// a query that fails counts as cut.
	minPollWait = time.Second
)

// A poll is a series of blocking queries. Something between the client and
// Consul may cut a query that waits: a proxy, or a timeout of the HTTP client
// or the agent. That is no outage. The zero poll begins with pollWait.
type poll struct {
	cuts    int
	longest time.Duration // that a query may wait; pollWait if 0
}

// wait returns how long the next query may wait.
func (p *poll) wait() time.Duration {
	if p.longest == 0 {
		return pollWait
	}
	return p.longest
}

// cut reports whether a query that failed with err had waited for some time, so
// that it was cut rather than refused. After the second cut, queries wait for
// less time.
func (p *poll) cut(err error, waited time.Duration) bool {
	if waited < minPollWait || waited > pollWait || !consul.IsTransient(err) {
		return false
	}
	if p.cuts++; p.cuts > 1 {
		p.longest = max(minPollWait, min(p.wait(), waited)/2)
	}
	return true
}
