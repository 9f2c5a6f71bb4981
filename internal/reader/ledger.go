package reader

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

const (
	// maxStrangers bounds how many keys of strangers the ledger remembers.
	maxStrangers = 1000

	// maxIndexes bounds how many keys that were read and not deleted the ledger
	// remembers.
	maxIndexes = 10_000

	// strangerPause is how long a stranger's key is left alone before it is
	// read again: an agent may have overwritten it.
	strangerPause = 10 * time.Second
)

// ledger records what was read of each node. It decides which keys of a listing
// are new. It does no I/O and has no clock.
type ledger struct {
	session   string
	hasRunner bool
	fences    string // the session of the fences, or empty
	streams   map[stream]*progress
	fenced    map[string]bool      // keys that are fences
	indexes   map[string]uint64    // of keys that were read and not deleted: their ModifyIndex
	strangers map[string]time.Time // keys of somebody else, and when they were read
	findings  []finding            // not yet logged
	twice     []string             // nodes that seem to have run the job twice, not yet reported

	turnedAway map[string]turnedAway // by key
	toDelete   []*entry              // keys of turnedAway, with their ModifyIndex
	refused    []string              // nodes that turned a copy of the job away, not yet reported
}

// A stream is what one node writes for one dispatch.
type stream struct{ node, dispatch string }

// of returns the stream that a key belongs to.
func of(k Key) stream { return stream{k.Node, k.Dispatch} }

// progress is how far a stream has been read.
type progress struct {
	acked   bool
	exited  bool
	missing bool // a chunk was not there
	next    int  // the number of the first chunk not yet read
	twice   bool // the node seems to have run the job twice
	deleted deleted

	turnedAway bool // the node turned a copy of the job away
}

// deleted is what was deleted of a node's keys.
type deleted struct {
	ack, exit bool
	chunks    int    // the number of the first chunk that was not
	index     uint64 // of the last listing that had any of them
}

// has reports whether a key was deleted.
func (d *deleted) has(k Key) bool {
	switch k.Kind {
	case Ack:
		return d.ack
	case Exit:
		return d.exit
	}
	return k.Chunk < d.chunks
}

// add records that a key was deleted, which a listing had at an index.
func (d *deleted) add(k Key, index uint64) {
	d.index = index
	switch k.Kind {
	case Ack:
		d.ack = true
	case Exit:
		d.exit = true
	case Output:
		d.chunks = max(d.chunks, k.Chunk+1)
	}
}

// A finding is something out of order, for the log.
type finding struct {
	text string
	args []any
}

func newLedger(session string, hasRunner bool) *ledger {
	return &ledger{
		session:    session,
		hasRunner:  hasRunner,
		streams:    make(map[stream]*progress),
		fenced:     make(map[string]bool),
		indexes:    make(map[string]uint64),
		strangers:  make(map[string]time.Time),
		turnedAway: make(map[string]turnedAway),
	}
}

// hasRead reports whether a key of the node was read or says nothing new. A
// node that has exited has nothing more to say.
func (p *progress) hasRead(k Key) bool {
	switch k.Kind {
	case Ack:
		return p.acked
	case Exit:
		return p.exited
	}
	return p.exited || k.Chunk < p.next
}

// unread returns the entries of a listing that have not been read yet, in the
// order in which each node wrote them. It leaves out the ack of a node that has
// written more, as the ack says the same; implied has these streams.
func (l *ledger) unread(entries []entry, now time.Time) (fresh []*entry, implied []stream) {
	for i := range entries {
		e := &entries[i]
		switch {
		case e.parsed.Kind == Job:
		case e.parsed.Kind == Unknown:
			l.addStranger(e.Key, "unknown key", now)
		case l.isUnread(e, now):
			fresh = append(fresh, e)
		}
	}
	slices.SortFunc(fresh, inOrder)
	return l.withoutAcks(fresh)
}

func (l *ledger) isUnread(e *entry, now time.Time) bool {
	if len(l.strangers) > 0 {
		if read, ok := l.strangers[e.Key]; ok && now.Sub(read) < strangerPause {
			return false
		}
	}
	if l.fenced[e.Key] {
		return false
	}
	p := l.streams[of(e.parsed)]
	if p == nil {
		return true
	}
	if p.exited && e.parsed.Kind == Output && e.parsed.Chunk >= p.next {
		l.addStranger(e.Key, "output after the exit", now)
	}
	if t, ok := l.turnedAway[e.Key]; ok && !t.isDue(e, now) {
		return false
	}
	return !p.hasRead(e.parsed) || !p.twice && p.deleted.has(e.parsed) && !l.isOfTwo(e.parsed)
}

// isRead reports whether an entry was read as a node's own.
func (l *ledger) isRead(e *entry) bool {
	p := l.streams[of(e.parsed)]
	return p != nil && p.hasRead(e.parsed)
}

// inOrder sorts entries by node and dispatch, and then in the order in which
// the node wrote them: ack, output by number, exit. (Consul sorts "exit" before "out",
// and chunk 100000 before fffff.)
func inOrder(a, b *entry) int {
	return cmp.Or(
		strings.Compare(a.parsed.Node, b.parsed.Node),
		strings.Compare(a.parsed.Dispatch, b.parsed.Dispatch),
		cmp.Compare(a.parsed.Kind, b.parsed.Kind),
		cmp.Compare(a.parsed.Chunk, b.parsed.Chunk),
	)
}

// withoutAcks drops the ack of each stream that has a further entry.
func (l *ledger) withoutAcks(fresh []*entry) (kept []*entry, implied []stream) {
	kept = fresh[:0]
	for i, e := range fresh {
		more := i+1 < len(fresh) && of(fresh[i+1].parsed) == of(e.parsed)
		if e.parsed.Kind == Ack && more && len(l.strangers) < maxStrangers {
			implied = append(implied, of(e.parsed))
		} else {
			kept = append(kept, e)
		}
	}
	return kept, implied
}

// lacksAck reports whether the ack of one of the streams was not recorded: the
// entry that implied it was a stranger's.
func (l *ledger) lacksAck(implied []stream) bool {
	return slices.ContainsFunc(implied, func(of stream) bool {
		p := l.streams[of]
		return p == nil || !p.acked
	})
}

// record marks entries as read and returns a Record of each. A key that was not
// written under the session is a fence or a stranger's: agents that have the
// job write under it.
func (l *ledger) record(entries []*entry, now time.Time) []Record {
	var records []Record
	for _, e := range entries {
		if e.parsed.Kind == Ack && l.fences != "" && e.Session == l.fences {
			l.fenced[strings.Clone(e.Key)] = true
			continue
		}
		if e.Session != l.session {
			l.addStranger(e.Key, "key of somebody else", now)
			continue
		}
		k := e.parsed
		p := l.streams[of(k)]
		if p == nil {
			// not the memory of the whole key
			k.Node, k.Dispatch = strings.Clone(k.Node), strings.Clone(k.Dispatch)
			p = new(progress)
			l.streams[of(k)] = p
		}
		if !p.acked {
			p.acked = true
			records = append(records, Record{Node: k.Node, Dispatch: k.Dispatch, Kind: Ack})
		}
		if l.isTurnedAway(e) {
			l.turnAway(e, now)
			continue
		}
		if p.deleted.has(k) {
			if e.CreateIndex > p.deleted.index { // not an old listing
				l.ranTwice(e)
			}
			continue
		}
		if k.Kind != Ack && e.isOverwritten() {
			l.ranTwice(e)
		}
		if len(l.indexes) < maxIndexes {
			l.indexes[strings.Clone(e.Key)] = e.ModifyIndex
		}
		switch k.Kind {
		case Ack:
			continue
		case Exit:
			p.exited = true
			delete(l.turnedAway, e.Key)
		case Output:
			if k.Chunk > p.next {
				p.missing = true
				l.find("output is missing", "node", k.Node, "from", p.next, "before", k.Chunk)
			}
			// A heartbeat of a copy that is turned away may be there instead.
			p.missing = p.missing || l.hasRunner && e.isOverwritten()
			p.next = k.Chunk + 1
		}
		records = append(records, Record{Node: k.Node, Dispatch: k.Dispatch, Kind: k.Kind, Value: e.Value, Incomplete: p.missing})
	}
	return records
}

// addStranger remembers a key that does not belong. It finds the key worth a
// log line once.
func (l *ledger) addStranger(key, why string, now time.Time) {
	_, known := l.strangers[key]
	if !known && len(l.strangers) == maxStrangers {
		return
	}
	l.strangers[strings.Clone(key)] = now
	if !known {
		l.find(why, "key", key)
	}
}

func (l *ledger) find(text string, args ...any) {
	l.findings = append(l.findings, finding{text, args})
}

// ranTwice records that an entry's key was written again, by a second copy of the
// job.
func (l *ledger) ranTwice(e *entry) {
	p := l.streams[of(e.parsed)]
	if p.twice || l.isOfTwo(e.parsed) {
		return
	}
	p.twice = true
	l.twice = append(l.twice, strings.Clone(e.parsed.Node))
	l.find("a key was written again: the command may have run twice", "key", e.Key)
}

// keysDeleted records that keys are gone, which a listing had at an index.
func (l *ledger) keysDeleted(entries []*entry, index uint64) {
	for _, e := range entries {
		delete(l.indexes, e.Key)
		if index > 0 { // otherwise a key of an old listing could not be told from a new key
			l.streams[of(e.parsed)].deleted.add(e.parsed, index)
		}
	}
}

// takeTwice returns the nodes that seem to have run the job twice, and those that
// turned a copy of it away, since the last call.
func (l *ledger) takeTwice() (twice, turnedAway []string) {
	twice, turnedAway = l.twice, l.refused
	l.twice, l.refused = nil, nil
	return twice, turnedAway
}

// takeFindings returns the findings since the last call.
func (l *ledger) takeFindings() []finding {
	taken := l.findings
	l.findings = nil
	return taken
}
