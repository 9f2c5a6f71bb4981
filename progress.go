package consulexec

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

const (
	// maxOddKeys bounds what is remembered of keys that don't belong, and oddPause
	// is how often they are looked at again: an agent may have written them anew.
	maxOddKeys = 1000
	oddPause   = 10 * time.Second
)

// progress is how far a node has been read.
type progress struct {
	acked  bool
	exited bool
	next   int // the number of the first chunk not yet read
}

// hasRead tells whether a key of the node was read, or says nothing new.
func (p *progress) hasRead(k jobKey) bool {
	switch k.kind {
	case keyAck:
		return p.acked
	case keyExit:
		return p.exited
	}
	return p.exited || k.chunk < p.next
}

// unread is a key that has not been read yet.
type unread struct {
	jobKey
	value *value // nil until it is known
}

// isFresh tells whether a key has not been read yet. A node that has exited has
// nothing more to say.
func (r *reader) isFresh(k jobKey) bool {
	p := r.nodes[k.node]
	if len(r.odd) > 0 {
		if read, odd := r.odd[r.base+k.path()]; odd && r.asked.Sub(read) < oddPause {
			return false
		}
	}
	if p == nil {
		return true
	}
	if p.exited && k.chunk >= p.next && k.kind == keyOutput {
		r.logOdd(r.base+k.path(), "output after the exit")
	}
	return !p.hasRead(k)
}

// inOrder sorts keys by node, and those of a node as it wrote them: ack, output
// by number, exit. (Consul sorts "exit" before "out", and chunk 100000 before
// fffff.)
func inOrder(a, b unread) int {
	return cmp.Or(
		strings.Compare(a.node, b.node),
		cmp.Compare(a.kind, b.kind),
		cmp.Compare(a.chunk, b.chunk),
	)
}

// withoutAcks leaves out the acks of nodes that have written more: what they
// wrote says the same, and is read anyway. It returns also whose were left out.
func (r *reader) withoutAcks(fresh []unread) (kept []unread, left []string) {
	kept = fresh[:0]
	for i, k := range fresh {
		if k.kind == keyAck && i+1 < len(fresh) && fresh[i+1].node == k.node && len(r.odd) < maxOddKeys {
			left = append(left, k.node)
		} else {
			kept = append(kept, k)
		}
	}
	return kept, left
}

// unconfirmed tells whether one of the nodes whose ack was left out has not been
// seen after all, because what followed was somebody else's.
func (r *reader) unconfirmed(left []string) bool {
	return slices.ContainsFunc(left, func(name string) bool {
		p := r.nodes[name]
		return p == nil || !p.acked
	})
}

// note takes a value as read and appends a record of it. What was not written
// under the session is somebody else's: only agents that have the job do that.
func (r *reader) note(records []record, k jobKey, v *value) []record {
	if v.Session != r.session {
		r.logOdd(r.base+k.path(), "key of somebody else")
		return records
	}
	p := r.nodes[k.node]
	if p == nil {
		k.node = strings.Clone(k.node) // not the whole key
		p = new(progress)
		r.nodes[k.node] = p
	}
	if !p.acked {
		p.acked = true
		records = append(records, record{node: k.node, kind: keyAck})
	}
	switch k.kind {
	case keyExit:
		p.exited = true
	case keyOutput:
		if k.chunk > p.next {
			r.log.Warn("output is missing", "node", k.node, "from", p.next, "before", k.chunk)
		}
		p.next = k.chunk + 1
		r.came += len(v.Value)
	default:
		return records
	}
	return append(records, record{node: k.node, kind: k.kind, value: v.Value})
}

// logOdd logs a key that does not belong, once.
func (r *reader) logOdd(key, why string) {
	_, logged := r.odd[key]
	if !logged && len(r.odd) == maxOddKeys {
		return
	}
	r.odd[strings.Clone(key)] = r.asked
	if !logged {
		r.log.Warn(why, "key", key)
	}
}
