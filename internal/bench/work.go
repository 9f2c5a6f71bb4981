package main

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// work describes what the nodes of a run do. A client process gets it as JSON.
type work struct {
	Name   string
	Nodes  int
	Chunks int           // per node
	Size   int           // of a chunk, in bytes
	Over   time.Duration // duration of all writes
	Life   time.Duration // longest time from a node's first write to its last; 0 means Over

	// Batch is the number of writes of different nodes per transaction; 0 means
	// 1, as agents write. Batches reach higher rates.
	Batch int

	// Real means that real agents run a command, not virtual nodes.
	Real bool

	// AtOnce is the number of runs that begin at once, on real nodes; 0 means
	// one run after the other.
	AtOnce int

	// Accidents means that accidents happen to the runs.
	Accidents bool

	// Slow is the duration of consulexec's output callback for each chunk. With
	// Slow, `consul exec` does not run, since it has no callbacks.
	Slow time.Duration

	// Undiscovered keeps the nodes out of the catalog.
	Undiscovered bool
}

// presets are the workloads of the README's tables.
var presets = []work{
	{Name: "3nodes", Nodes: 3, Real: true},
	{Name: "1000x1", Nodes: 1000, Chunks: 1, Size: 200, Over: 2 * time.Second},
	{Name: "5000x5", Nodes: 5000, Chunks: 5, Size: 1000, Over: 10 * time.Second},
	{Name: "1x2560", Nodes: 1, Chunks: 2560, Size: 4096, Over: 15 * time.Second},
	{Name: "10000x1", Nodes: 10000, Chunks: 1, Size: 200, Over: 10 * time.Second},
	{Name: "20000x1", Nodes: 20000, Chunks: 1, Size: 200, Over: 20 * time.Second, Batch: 16},
	{Name: "20000x5", Nodes: 20000, Chunks: 5, Size: 500, Over: 40 * time.Second, Batch: 16},
	// 100 MB, written three times as fast as the callback reads them.
	{Name: "slow", Nodes: 10, Chunks: 2560, Size: 4096, Over: 15 * time.Second, Slow: 2 * time.Millisecond},
	{Name: "50runs", Nodes: 3, Real: true, AtOnce: 50},
	{Name: "250runs", Nodes: 3, Real: true, AtOnce: 250},
	{Name: "1000runs", Nodes: 3, Real: true, AtOnce: 1000},
	{Name: "accidents", Nodes: 5, Real: true, Accidents: true},
}

// custom is the workload for the flags to override.
var custom = work{Name: "custom", Nodes: 100, Chunks: 1, Size: 200, Over: 2 * time.Second}

func presetNames() []string {
	var names []string
	for _, w := range presets {
		names = append(names, w.Name)
	}
	return append(names, custom.Name)
}

// chooseWorks returns the named workloads with the non-zero fields of override.
// Names are comma-separated.
func chooseWorks(names string, override work) ([]work, error) {
	if names == "" {
		names = "all"
		if override != (work{}) {
			names = custom.Name
		}
	}
	var works []work
	for name := range strings.SplitSeq(names, ",") {
		if name == "all" {
			for _, w := range presets {
				if !w.Accidents { // they take longer than all others
					works = append(works, w)
				}
			}
			continue
		}
		i := slices.Index(presetNames(), name)
		if i < 0 {
			return nil, fmt.Errorf("-work: unknown workload %q", name)
		}
		works = append(works, append(presets, custom)[i])
	}
	for i := range works {
		works[i] = works[i].with(override)
		if err := works[i].check(); err != nil {
			return nil, err
		}
	}
	return works, nil
}

// with returns the work with the non-zero fields of override. It does not
// change work for real agents.
func (w work) with(override work) work {
	if w.Real {
		return w
	}
	w.Nodes = cmp.Or(override.Nodes, w.Nodes)
	w.Chunks = cmp.Or(override.Chunks, w.Chunks)
	w.Size = cmp.Or(override.Size, w.Size)
	w.Over = cmp.Or(override.Over, w.Over)
	w.Life = cmp.Or(override.Life, w.Life)
	w.Slow = cmp.Or(override.Slow, w.Slow)
	w.Undiscovered = cmp.Or(override.Undiscovered, w.Undiscovered)
	return w
}

func (w work) check() error {
	// Consul accepts values up to 512 KiB. Agents write at most 4 KiB.
	const maxSize = 512 << 10
	switch {
	case w.Nodes < 1 || w.Nodes > 100_000:
		return fmt.Errorf("-nodes %d: must be from 1 to 100000", w.Nodes)
	case w.Chunks < 0 || w.Chunks > 1<<20:
		return fmt.Errorf("-chunks %d: must be from 0 to %d", w.Chunks, 1<<20)
	case w.Size < 0 || w.Size > maxSize:
		return fmt.Errorf("-size %d: must be from 0 to %d", w.Size, maxSize)
	case w.Over < 0 || w.Over > time.Hour:
		return fmt.Errorf("-over %v: must be from 0 to 1h", w.Over)
	case w.Life < 0 || w.Life > w.Over:
		return fmt.Errorf("-life %v: must be from 0 to -over", w.Life)
	case w.Slow < 0 || w.Slow > time.Second:
		return fmt.Errorf("-slow %v: must be from 0 to 1s", w.Slow)
	}
	return nil
}

// title describes the work in the table.
func (w work) title() string {
	switch {
	case w.AtOnce > 0:
		return fmt.Sprintf("%d runs at once on %d real nodes, `sleep 3`", w.AtOnce, w.Nodes)
	case w.Real:
		return fmt.Sprintf("%d real nodes, `uptime`", w.Nodes)
	}
	s := fmt.Sprintf("%d × %d × %d B over %v", w.Nodes, w.Chunks, w.Size, w.Over)
	if w.Slow > 0 {
		s += fmt.Sprintf(", callback of %v", w.Slow)
	}
	if w.Batch > 1 {
		s += fmt.Sprintf(", %d writes per transaction", w.Batch)
	}
	return s
}

// limit bounds a client's run. It allows several times the duration of the
// writes and of the callbacks, and some time for each run of many.
func (w work) limit() time.Duration {
	const perRun = 200 * time.Millisecond
	return 2*time.Minute + 3*(w.Over+time.Duration(w.Nodes*w.Chunks)*w.Slow) + time.Duration(w.AtOnce)*perRun
}

// command returns the command that the client runs. Virtual nodes do not look at
// it. Of runs at once each node prints when it ended, in nanoseconds since 1970.
func (w work) command() string {
	if w.AtOnce > 0 {
		return "sleep 3; date +%s%N"
	}
	return "uptime"
}

// simNodes is the prefix of virtual nodes' names.
const simNodes = "sim-"

func nodeName(i int) string { return fmt.Sprintf("%s%05d", simNodes, i) }

// schedule returns the times of a node's writes after the event: ack, chunks,
// exit. Over all nodes the rate of writes is about constant. The schedule is
// the same in every run.
func (w work) schedule(node int) []time.Duration {
	rng := rand.New(rand.NewPCG(4, uint64(node)))
	life := cmp.Or(w.Life, w.Over)
	start := time.Duration(rng.Float64() * float64(w.Over-life))
	times := make([]time.Duration, w.Chunks+2)
	for i := range times {
		times[i] = start + time.Duration(rng.Float64()*float64(life))
	}
	slices.Sort(times)
	return times
}

// appendChunk appends the n-th chunk of a node's output. It is one line: the
// node's name, the number, and words that compress like a log.
func (w work) appendChunk(to []byte, node string, n int) []byte {
	start := len(to)
	to = append(to, node...)
	to = append(to, ' ')
	to = appendNumber(to, n)
	to = append(to, ' ')
	h := fnv.New32a()
	h.Write(to[start:])
	rest := words[int(h.Sum32())%len(words):]
	for len(to)-start < w.Size {
		to = append(to, rest[:min(len(rest), w.Size-(len(to)-start))]...)
		rest = words
	}
	to = to[:start+w.Size]
	if w.Size > 0 {
		to[len(to)-1] = '\n'
	}
	return to
}

// appendNumber appends n in seven digits, enough for any chunk number.
func appendNumber(to []byte, n int) []byte {
	for unit := 1_000_000; unit > 0; unit /= 10 {
		to = append(to, byte('0'+n/unit%10))
	}
	return to
}

// words is the text of the chunks.
var words = func() string {
	const vocabulary, length = 500, 64 << 10
	rng := rand.New(rand.NewPCG(4, 0))
	var known []string
	for range vocabulary {
		word := make([]byte, 2+rng.IntN(9))
		for i := range word {
			word[i] = "etaoinshrdlucmfwypvbgkqjxz0123456789"[rng.IntN(36)]
		}
		known = append(known, string(word))
	}
	var b strings.Builder
	for b.Len() < length {
		b.WriteString(known[rng.IntN(vocabulary)])
		b.WriteByte(' ')
	}
	return b.String()
}()
