package consul

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// An agent grants each client address 200 connections, by its default for
	// http_max_conns_per_client. maxHeld is how many of a process's runs may hold
	// one for long. maxInFlight is how many further requests it makes at once to
	// each datacenter: those to one that is cut off hang. maxRenewals are for
	// renewals alone, so that no other request that hangs costs a session. With
	// one datacenter that leaves half of the connections to others.
	maxHeld     = 50
	maxInFlight = 32
	maxRenewals = 16

	// crowdedTime is how long after a refused connection no run holds one, and
	// requests go one at a time.
	crowdedTime = 10 * time.Second

	// If runs may not hold a connection, they list without waiting: together no
	// more than 250 times a second in the long run.
	listingCost  = 4 * time.Millisecond
	listingBurst = 40 * time.Millisecond

	// Gossip carries small events 50 ms apart, and the largest 200 ms apart. On
	// nine idle agents it missed none of the events of some 180 bytes that were 50
	// ms apart, and none of those of some 410 bytes that were 100 ms apart. On busy
	// ones it misses large events at that pace.
	eventCost     = 50 * time.Millisecond
	smallEvent    = 200 // bytes
	largeByteCost = 500 * time.Microsecond
	largestEvent  = 512 // bytes

	// eventBurst is the time of two of the largest events: they fit in a packet
	// of gossip.
	eventBurst = 2 * (eventCost + (largestEvent-smallEvent)*largeByteCost)
)

// EventCost returns what an event of this size takes of the time that gossip has.
func EventCost(size int) time.Duration {
	return eventCost + time.Duration(max(0, size-smallEvent))*largeByteCost
}

// A Pool is what the runs of a process share that go to the same Consul with the
// same settings: connections, and the paces of events and listings. It lives as
// long as one of them does.
type Pool struct {
	Events *Turns // whose events gossip carries next

	key       any
	transport *http.Transport // nil if its connections are the caller's
	users     int             // guarded by pools.mu

	mu    sync.Mutex             // guards lanes
	lanes map[lane]chan struct{} // each has an element for each request in it

	listings *Turns       // whose listing is next, of those that do not wait
	readers  atomic.Int64 // how many runs list
	crowded  atomic.Int64 // until when no run holds a connection, in Unix nanoseconds
}

// A lane has room for some requests at once.
type lane struct {
	datacenter string
	renewals   bool
	crowded    bool
}

// room returns how many requests may be in a lane at once. After Consul has
// refused a connection it is one: a caller's client keeps two or three
// connections open, and Consul would refuse more.
func (l lane) room() int {
	switch {
	case l.crowded:
		return 1
	case l.renewals:
		return maxRenewals
	}
	return maxInFlight
}

// pools has the pools that are in use.
var pools = struct {
	mu sync.Mutex
	m  map[any]*Pool
}{m: make(map[any]*Pool)}

// join returns the pool with this key, which the caller leaves in the end. If it
// is the first to join, the pool has the transport.
func join(key any, transport *http.Transport) *Pool {
	pools.mu.Lock()
	defer pools.mu.Unlock()
	p := pools.m[key]
	if p == nil {
		p = &Pool{
			Events:    &Turns{burst: eventBurst},
			key:       key,
			transport: transport,
			lanes:     make(map[lane]chan struct{}),
			listings:  &Turns{burst: listingBurst},
		}
		pools.m[key] = p
	}
	p.users++
	return p
}

// Leave ends the use of the pool. The last to leave closes its connections.
func (p *Pool) Leave() {
	pools.mu.Lock()
	defer pools.mu.Unlock()
	if p.users--; p.users > 0 {
		return
	}
	delete(pools.m, p.key)
	if p.transport != nil {
		p.transport.CloseIdleConnections()
	}
}

// lane returns the channel of a lane.
func (p *Pool) lane(l lane) chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	requests := p.lanes[l]
	if requests == nil {
		requests = make(chan struct{}, l.room())
		p.lanes[l] = requests
	}
	return requests
}

// enter waits until a request to a datacenter may be made. The caller calls
// leave after it.
func (p *Pool) enter(ctx context.Context, datacenter string, op Operation) (leave func(), err error) {
	if p == nil || op.Held {
		return func() {}, nil
	}
	for {
		crowded := p.isCrowded()
		requests := p.lane(lane{datacenter, op.Renews, crowded})
		select {
		case requests <- struct{}{}:
			if p.isCrowded() == crowded {
				return func() { <-requests }, nil
			}
			<-requests // that has changed meanwhile: the other lane counts
		case <-ctx.Done():
			return nil, ContextError(ctx)
		}
	}
}

// AddReader counts a run that begins to list. The caller calls remove in the end.
func (p *Pool) AddReader() (remove func()) {
	if p == nil {
		return func() {}
	}
	p.readers.Add(1)
	return func() { p.readers.Add(-1) }
}

// MayHold reports whether a run may hold a connection for long. If not, it waits
// for its turn to list without waiting for a change.
func (p *Pool) MayHold(ctx context.Context) (bool, error) {
	if p == nil || p.readers.Load() <= maxHeld && !p.isCrowded() {
		return true, nil
	}
	if !p.listings.Ask(listingCost, false).Wait(ctx) {
		return false, ContextError(ctx)
	}
	return false, nil
}

// refused records that Consul has refused a connection. A rate limit is another
// matter: to list without waiting takes more requests, not less.
func (p *Pool) refused() {
	if p != nil {
		p.crowded.Store(time.Now().Add(crowdedTime).UnixNano())
	}
}

// isCrowded reports whether Consul has refused a connection a moment ago.
func (p *Pool) isCrowded() bool { return time.Now().UnixNano() < p.crowded.Load() }

// wasCrowded reports whether a request failed with err because Consul refuses
// requests for now.
func (p *Pool) wasCrowded(err error) bool {
	return saysTooMuch(err) || isReset(err) && p != nil && p.isCrowded()
}
