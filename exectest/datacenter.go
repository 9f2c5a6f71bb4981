package exectest

import "time"

// firstIndex is the first value of a datacenter's index. It is high so that
// rewind can lower the index.
const firstIndex = 100

// A datacenter holds the replicated state of its Consul servers, and its nodes.
// Server.mu guards it.
type datacenter struct {
	name  string
	nodes []*node

	index        uint64 // of the last write of any kind
	catalogIndex uint64
	sessionIndex uint64
	eventTime    uint64 // the Lamport clock of the events

	kv        store
	sessions  map[string]*session
	lockDelay map[string]time.Time // no session can acquire the key before

	changed        signal // a key or session changed
	catalogChanged signal
	abandoned      signal // rewind replaced every index
}

func newDatacenter(name string) *datacenter {
	return &datacenter{
		name:      name,
		index:     firstIndex,
		sessions:  map[string]*session{},
		lockDelay: map[string]time.Time{},

		changed:        make(signal),
		catalogChanged: make(signal),
		abandoned:      make(signal),
	}
}

// next increments the index and returns it for the next write.
func (dc *datacenter) next() uint64 {
	dc.index++
	return dc.index
}

// A signal wakes blocking queries: notify closes the channel and replaces it.
type signal chan struct{}

func (s *signal) notify() {
	close(*s)
	*s = make(signal)
}

// rewind renumbers all indexes from 1.
func (dc *datacenter) rewind() {
	dc.index = max(dc.kv.rewind(), 1)
	dc.catalogIndex, dc.sessionIndex = dc.index, dc.index
	for _, n := range dc.nodes {
		n.createIndex, n.modifyIndex = 1, 1
	}
	dc.abandoned.notify()
}
