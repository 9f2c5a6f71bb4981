package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
)

// clientEnv is the environment variable with a clientJob as JSON. If it is set,
// this binary runs consulexec.
const clientEnv = "CONSULEXEC_BENCH_CLIENT"

// clientJob configures a client process.
type clientJob struct {
	Work       work
	WithClient bool   // use consulexec.WithClient
	Profile    string // file for the CPU profile; empty for none
}

// report is the result of a client's run. A client process prints those of all
// its runs as JSON.
type report struct {
	Started     time.Time
	LastCommand time.Time // when the last command ended, if the commands print that
	LastExit    time.Time // when the client reported the last exit
	Returned    time.Time // when the run ended

	Acks, Chunks, Exits int
	Problems            []string // the first few mistakes
	Err                 string   // the error of the run, or empty
}

// whole reports whether the client reported all that happened, and nothing else.
func (r report) whole() bool { return r.Err == "" && len(r.Problems) == 0 }

// reason says in one line why a report is not whole.
func (r report) reason() string {
	reasons := r.Problems
	if r.Err != "" {
		reasons = append(reasons, r.Err)
	}
	return strings.ReplaceAll(strings.Join(reasons, "; "), "\n", "; ")
}

// runsAsClient reports whether this process must run consulexec.
func runsAsClient() bool { return os.Getenv(clientEnv) != "" }

// clientMain runs the clientJob of the environment, prints the report and
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

// run runs consulexec against the Consul of CONSUL_HTTP_ADDR: once, or as many
// times at once as the work says. All share one client if there is one.
func (job clientJob) run() []report {
	if job.Profile != "" {
		file, err := os.Create(job.Profile)
		if err == nil {
			defer file.Close()
			err = pprof.StartCPUProfile(file)
		}
		if err != nil {
			return []report{{Err: err.Error()}}
		}
		defer pprof.StopCPUProfile()
	}
	var shared []consulexec.Option
	if job.WithClient {
		client, err := api.NewClient(api.DefaultConfig())
		if err != nil {
			return []report{{Err: err.Error()}}
		}
		shared = append(shared, consulexec.WithClient(client))
	}
	ctx, cancel := context.WithTimeout(context.Background(), job.Work.limit())
	defer cancel()
	reports := make([]report, max(1, job.Work.AtOnce))
	var running sync.WaitGroup
	for i := range reports {
		running.Go(func() { reports[i] = runOnce(ctx, job.Work, shared...) })
	}
	running.Wait()
	return reports
}

// runOnce runs consulexec once.
func runOnce(ctx context.Context, w work, more ...consulexec.Option) report {
	c := newChecker(w)
	c.Started = time.Now()
	e, err := consulexec.New(w.command(), append(c.options(), more...)...)
	if err != nil {
		return report{Err: err.Error()}
	}
	result, err := e.Run(ctx)
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

// checker compares a client's reports with the work.
type checker struct {
	report
	work  work
	nodes map[string]*nodeReport
	want  []byte // the expected chunk; reused
}

// nodeReport is what a client has reported about one node.
type nodeReport struct {
	acked, exited bool
	chunks        int
}

func newChecker(w work) *checker {
	return &checker{work: w, nodes: make(map[string]*nodeReport, w.Nodes)}
}

// options returns consulexec options whose callbacks call the checker.
func (c *checker) options() []consulexec.Option {
	o := []consulexec.Option{
		consulexec.OnAck(c.ack),
		consulexec.OnOutput(c.output),
		consulexec.OnExit(c.exit),
		consulexec.OnLost(func(_ string, err error) { c.problem("%v", err) }),
		consulexec.OnNoResponse(func(node string) { c.problem("%s: no response", node) }),
	}
	if !c.work.Real {
		o = append(o,
			consulexec.WithNode("^"+simNodes),
			// Virtual nodes acknowledge at any time of the work, and know the first
			// dispatch only. The second one comes after a fifth of the timeout.
			consulexec.WithAckTimeout(5*(c.work.Over+5*time.Second)),
			// Unlike agents, they send no heartbeats.
			consulexec.WithLostTimeout(c.work.Over+15*time.Second))
	}
	if c.work.Undiscovered {
		o = append(o, consulexec.WithoutDiscovery(), consulexec.WithMinNodes(c.work.Nodes))
	}
	return o
}

func (c *checker) node(name string) *nodeReport {
	n := c.nodes[name]
	if n == nil {
		n = new(nodeReport)
		c.nodes[name] = n
	}
	return n
}

func (c *checker) ack(name string) {
	n := c.node(name)
	if n.acked {
		c.problem("%s: duplicate ack", name)
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
	if c.work.Real {
		c.realOutput(name, string(output))
	} else {
		c.want = c.work.appendChunk(c.want[:0], name, n.chunks)
		if !bytes.Equal(output, c.want) {
			c.problem("%s: wrong chunk %d: %.40q", name, n.chunks, output)
		}
	}
	n.chunks++
	c.Chunks++
	if c.work.Slow > 0 {
		time.Sleep(c.work.Slow)
	}
}

// realOutput checks what a real node has printed.
func (c *checker) realOutput(name, output string) {
	if c.work.AtOnce == 0 {
		return
	}
	nanoseconds, err := strconv.ParseInt(strings.TrimSpace(output), 10, 64)
	if err != nil {
		c.problem("%s: output %.40q is no time", name, output)
		return
	}
	if ended := time.Unix(0, nanoseconds); ended.After(c.LastCommand) {
		c.LastCommand = ended
	}
}

func (c *checker) exit(name string, code int) {
	n := c.node(name)
	switch {
	case n.exited:
		c.problem("%s: duplicate exit", name)
	case code != 0:
		c.problem("%s: exit %d", name, code)
	case !c.work.Real && n.chunks != c.work.Chunks:
		c.problem("%s: exit after %d chunks", name, n.chunks)
	}
	n.exited = true
	c.Exits++
	c.LastExit = time.Now()
}

// check compares the totals with the work after the run.
func (c *checker) check() {
	chunks := c.work.Nodes * c.work.Chunks
	if c.work.Real {
		chunks = c.work.Nodes // their commands print one line
	}
	if c.Acks != c.work.Nodes || c.Chunks != chunks || c.Exits != c.work.Nodes {
		c.problem("%d acks, %d chunks, %d exits; want %d, %d, %d", c.Acks, c.Chunks, c.Exits, c.work.Nodes, chunks, c.work.Nodes)
	}
}

// problem records a mistake.
func (c *checker) problem(format string, args ...any) {
	const maxProblems = 5
	if len(c.Problems) < maxProblems {
		c.Problems = append(c.Problems, fmt.Sprintf(format, args...))
	}
}
