package main

import (
	"bytes"
	"cmp"
	"slices"
	"time"
	"unicode/utf8"
)

const (
	// maxOutput is how many bytes of output a run keeps, of all its nodes
	// together.
	maxOutput = 1 << 20

	// maxPieces is how many pieces of output a run keeps. It bounds the memory
	// if pieces are small: each takes some 150 bytes beside its output.
	maxPieces = 1 << 15
)

// outputs is the output that a run keeps: the end of what each node has
// printed. If it becomes too much, the node with the most gives way.
type outputs struct {
	byName  map[string]*nodeOutput
	nodes   []*nodeOutput
	bytes   int   // kept
	pieces  int   // kept
	dropped int64 // bytes that are not kept any more
}

// A nodeOutput is the output of one node.
type nodeOutput struct {
	name      string
	pieces    []*piece
	bytes     int   // of pieces
	dropped   int64 // bytes before the first piece that are not kept any more
	droppedID int   // the ID of the last piece that lost bytes
}

// A piece is output that has come at one time.
type piece struct {
	node *nodeOutput
	time time.Time
	id   int    // of its message
	data []byte // empty if it is dropped
}

// add adds a piece, and returns it and how many others are dropped for it.
func (o *outputs) add(node string, at time.Time, id int, data []byte) (p *piece, dropped int) {
	n := o.byName[node]
	if n == nil {
		n = &nodeOutput{name: node}
		if o.byName == nil {
			o.byName = map[string]*nodeOutput{}
		}
		o.byName[node] = n
		o.nodes = append(o.nodes, n)
	}
	p = &piece{n, at, id, data}
	n.pieces = append(n.pieces, p)
	n.bytes += len(data)
	o.bytes += len(data)
	o.pieces++
	before := o.pieces
	for o.bytes > maxOutput {
		loudest := slices.MaxFunc(o.nodes, func(a, b *nodeOutput) int { return cmp.Compare(a.bytes, b.bytes) })
		o.drop(loudest, min(o.bytes-maxOutput, (loudest.bytes+1)/2)) // not all of it, as others may have almost as much
	}
	for o.pieces > maxPieces {
		longest := slices.MaxFunc(o.nodes, func(a, b *nodeOutput) int { return cmp.Compare(len(a.pieces), len(b.pieces)) })
		o.drop(longest, len(longest.pieces[0].data))
	}
	return p, before - o.pieces
}

// drop drops the first n bytes of a node's output, but at most its first piece,
// and the rest of a character that this cuts.
func (o *outputs) drop(node *nodeOutput, n int) {
	p := node.pieces[0]
	n = min(n, len(p.data))
	for end := min(n+utf8.UTFMax-1, len(p.data)); n < end && !utf8.RuneStart(p.data[n]); {
		n++
	}
	p.data = bytes.Clone(p.data[n:]) // frees what is dropped
	node.bytes -= n
	node.dropped += int64(n)
	node.droppedID = p.id
	o.bytes -= n
	o.dropped += int64(n)
	if len(p.data) == 0 {
		node.pieces = node.pieces[1:]
		o.pieces--
	}
}
