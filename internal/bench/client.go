package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime/pprof"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
)

// clientEnv holds a clientJob, in the environment of this binary when it is to
// run consulexec.
const clientEnv = "CONSULEXEC_BENCH_CLIENT"

// clientJob is what a client process is to do.
type clientJob struct {
	Work    work
	Given   bool   // whether with a client of the caller's
	Profile string // a file for the CPU profile, or empty
}

// report is what a client came to. A client process prints it as JSON.
type report struct {
	LastExit time.Time // when the last exit was reported
	Returned time.Time // when the run was over

	Acks, Chunks, Exits int
	Problems            []string // what was wrong, the first few
	Err                 string   // of the run
}

// runsAsClient tells whether this process is to run consulexec.
func runsAsClient() bool { return os.Getenv(clientEnv) != "" }

// clientMain runs consulexec as the environment says, prints the report and
// exits.
func clientMain() {
	var job clientJob
	err := json.Unmarshal([]byte(os.Getenv(clientEnv)), &job)
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(job.run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// run runs consulexec against the Consul that the environment names.
func (job clientJob) run() report {
	if job.Profile != "" {
		file, err := os.Create(job.Profile)
		if err == nil {
			defer file.Close()
			err = pprof.StartCPUProfile(file)
		}
		if err != nil {
			return report{Err: err.Error()}
		}
		defer pprof.StopCPUProfile()
	}
	c := newChecker(job.Work)
	options := c.options()
	if job.Given {
		client, err := api.NewClient(api.DefaultConfig())
		if err != nil {
			return report{Err: err.Error()}
		}
		options = append(options, consulexec.WithClient(client))
	}
	e, err := consulexec.New("uptime", options...)
	if err != nil {
		return report{Err: err.Error()}
	}
	result, err := e.Run(context.Background())
	c.Returned = time.Now()
	if err == nil {
		err = result.Err()
	}
	if err != nil {
		c.Err = err.Error()
	}
	c.check()
	return c.report
}

// checker checks what a client reports against the work.
type checker struct {
	report
	work  work
	nodes map[string]*reported
	want  []byte // the chunk expected
}

// reported is what has been reported of a node.
type reported struct {
	acked, exited bool
	chunks        int
}

func newChecker(w work) *checker {
	return &checker{work: w, nodes: make(map[string]*reported, w.Nodes)}
}

// options has consulexec report to the checker. The timeouts leave room for
// virtual nodes that take their time to ack and, unlike agents, send no
// heartbeats.
func (c *checker) options() []consulexec.Option {
	o := []consulexec.Option{
		consulexec.WithAckTimeout(c.work.Over + 5*time.Second),
		consulexec.WithLostTimeout(c.work.Over + 15*time.Second),
		consulexec.OnAck(c.ack),
		consulexec.OnOutput(c.output),
		consulexec.OnExit(c.exit),
		consulexec.OnLost(func(node string, err error) { c.problem("%s: %v", node, err) }),
		consulexec.OnNoResponse(func(node string) { c.problem("%s: no response", node) }),
	}
	if !c.work.Real {
		o = append(o, consulexec.WithNode("^"+simNodes))
	}
	if c.work.Undiscovered {
		o = append(o, consulexec.WithoutDiscovery(), consulexec.WithMinNodes(c.work.Nodes))
	}
	return o
}

func (c *checker) node(name string) *reported {
	n := c.nodes[name]
	if n == nil {
		n = new(reported)
		c.nodes[name] = n
	}
	return n
}

func (c *checker) ack(name string) {
	n := c.node(name)
	if n.acked {
		c.problem("%s: a second ack", name)
	}
	n.acked = true
	c.Acks++
}

func (c *checker) output(name string, output []byte) {
	n := c.node(name)
	switch {
	case !n.acked:
		c.problem("%s: output before the ack", name)
	case n.exited:
		c.problem("%s: output after the exit", name)
	}
	if !c.work.Real {
		c.want = c.work.appendChunk(c.want[:0], name, n.chunks)
		if !bytes.Equal(output, c.want) {
			c.problem("%s: chunk %d is %.40q", name, n.chunks, output)
		}
	}
	n.chunks++
	c.Chunks++
	if c.work.Slow > 0 {
		time.Sleep(c.work.Slow)
	}
}

func (c *checker) exit(name string, code int) {
	n := c.node(name)
	switch {
	case n.exited:
		c.problem("%s: a second exit", name)
	case code != 0:
		c.problem("%s: exit %d", name, code)
	case !c.work.Real && n.chunks != c.work.Chunks:
		c.problem("%s: exit after %d chunks", name, n.chunks)
	}
	n.exited = true
	c.Exits++
	c.LastExit = time.Now()
}

// check looks at the whole, at the end.
func (c *checker) check() {
	chunks := c.work.Nodes * c.work.Chunks
	if c.work.Real {
		chunks = c.work.Nodes // `uptime` prints one line
	}
	if c.Acks != c.work.Nodes || c.Chunks != chunks || c.Exits != c.work.Nodes {
		c.problem("%d acks, %d chunks, %d exits, of %d, %d, %d", c.Acks, c.Chunks, c.Exits, c.work.Nodes, chunks, c.work.Nodes)
	}
}

// problem notes what is wrong.
func (c *checker) problem(format string, args ...any) {
	const enough = 5
	if len(c.Problems) < enough {
		c.Problems = append(c.Problems, fmt.Sprintf(format, args...))
	}
}
