package exectest

import "time"

// firstIndex is where a datacenter's index starts. It is high enough for rewind to have somewhere to go back to.
const firstIndex = 100

// A datacenter is the state that Consul's servers replicate, and the nodes. Server.mu guards it.
type datacenter struct {
	name  string
	nodes []*node

	index        uint64 // of the last write of any kind
	catalogIndex uint64
	sessionIndex uint64
	eventTime    uint64 // the Lamport clock of the events

	kv        store
	sessions  map[string]*session
	lockDelay map[string]time.Time // until when a key may not be acquired

	changed        signal // keys or sessions have
	catalogChanged signal
	abandoned      signal // everything was replaced
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

// next returns the index of the write that is about to happen.
func (dc *datacenter) next() uint64 {
	dc.index++
	return dc.index
}

// A signal is a channel that is closed, and replaced, to wake the blocking queries.
type signal chan struct{}

func (s *signal) notify() {
	close(*s)
	*s = make(signal)
}

// rewind numbers everything anew from 1.
func (dc *datacenter) rewind() {
	dc.index = max(dc.kv.rewind(), 1)
	dc.catalogIndex, dc.sessionIndex = dc.index, dc.index
	for _, n := range dc.nodes {
		n.createIndex, n.modifyIndex = 1, 1
	}
	dc.abandoned.notify()
}
