package exectest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"strconv"
	"time"
)

const (
	// chunkSize is how much output an agent writes into one key.
	chunkSize = 4096

	// flushDelay is how long after the last write an agent waits for a chunk to fill.
	flushDelay = 500 * time.Millisecond

	// raftWrite is how long a write takes at the least, so that a job with a Wait of 0 floods the store as it does a real
	// one, and does not stop the clock of a bubble.
	raftWrite = time.Millisecond
)

// A node is a machine of a datacenter. Server.mu guards what can change.
type node struct {
	name, id, address string
	dc                *datacenter
	services          []service
	consulServer      bool
	external          bool
	execDisabled      bool
	ackDelay          time.Duration
	run               Handler

	alive       bool
	generation  int // of its agent, which Kill ends
	executions  int
	createIndex uint64
	modifyIndex uint64
}

type service struct {
	id, name string
	tags     []string
}

// A NodeOption says what a node is like.
type NodeOption func(*node)

// WithService registers a service with the node's agent, under an ID that is its name as well. The service filter of a job
// matches IDs.
func WithService(id string, tags ...string) NodeOption { return WithNamedService(id, id, tags...) }

// WithNamedService registers a service whose ID is not its name, such as web-1 of web.
func WithNamedService(id, name string, tags ...string) NodeOption {
	return func(n *node) { n.services = append(n.services, service{id: id, name: name, tags: tags}) }
}

// Run says what a job does on the node. The default is [RunCommand].
func Run(h Handler) NodeOption { return func(n *node) { n.run = h } }

// AckAfter is how long the event of a job takes to reach the node: nothing by default; some 0.2 s in a small network, up to
// 30 s where a node missed it at first.
func AckAfter(d time.Duration) NodeOption { return func(n *node) { n.ackDelay = d } }

// ExecDisabled makes the node ignore jobs, as Consul agents do by default. It never acks.
func ExecDisabled() NodeOption { return func(n *node) { n.execDisabled = true } }

// Down makes the node one whose agent has failed: its serfHealth check is critical. [Server.Start] brings it up.
func Down() NodeOption { return func(n *node) { n.alive = false } }

// External makes the node one without an agent, that is only in the catalog: it has no serfHealth check and never acks.
func External() NodeOption { return func(n *node) { n.external = true } }

// ConsulServer makes the node a Consul server: an instance of service consul, in the catalog only, so that the service
// filter of a job does not match it.
func ConsulServer() NodeOption { return func(n *node) { n.consulServer = true } }

// A Handler is what a job does on a node, between its ack and its exit; it returns the exit code. Handlers of several nodes
// run at once. The context ends with the cluster, and only then: an agent never kills a command, so a Handler runs on,
// unseen, when the session or the agent is gone. [Server.Close] waits for it to return.
type Handler func(ctx context.Context, j *Job) int

// A Job is a job on one node.
type Job struct {
	Node    string
	Prefix  string
	Session string

	// What the agent is to run: one of these three, as Consul has it. Where the run has consulexec.WithTimeout or
	// consulexec.WithKillOnCancel it is not the command itself, but the shell program that can end it, with the command
	// among its Args or at the end of its Script; and when a run WithKillOnCancel is cancelled, the handler is called for
	// the job that ends the command, too.
	Command string
	Args    []string
	Script  []byte
	Wait    time.Duration

	// Output is the command's stdout and stderr. It cuts what is written into chunks as an agent does: at 4096 bytes, and
	// 500 ms after the last write. Between them the agent writes heartbeats, every Wait. Writes never fail.
	Output io.Writer

	agent *agent
}

// Die kills the agent, as [Server.Kill] does.
func (j *Job) Die() {
	j.agent.srv.mu.Lock()
	defer j.agent.srv.mu.Unlock()
	j.agent.node.dc.setAlive(j.agent.node, false)
}

// Silence makes the agent's next write fail, as when Consul loses its leader at that moment: the agent stays alive and
// never reports anything of this job again. Where it should still report its last words, [Job.Put] them before.
func (j *Job) Silence() {
	j.agent.srv.mu.Lock()
	defer j.agent.srv.mu.Unlock()
	j.agent.silenced = true
}

// Put writes a key under the job's prefix and session with the session's lock, such as web-1/exit, whatever sense it may
// make. It tells whether the session still allowed it.
func (j *Job) Put(key string, value []byte) bool { return j.agent.put(key, value) }

// Answer returns a Handler that writes output and exits at once.
func Answer(output string, code int) Handler {
	return func(_ context.Context, j *Job) int {
		io.WriteString(j.Output, output)
		return code
	}
}

// NeverExit is a Handler that never exits.
func NeverExit(ctx context.Context, _ *Job) int {
	<-ctx.Done()
	return 1
}

// An agent runs one job on its node.
type agent struct {
	srv        *Server
	node       *node
	generation int // of the node, when the event came
	job        payload
	silenced   bool // Server.mu guards it

	writes chan []byte   // what the command wrote
	gone   chan struct{} // closed when nobody reads writes any more
	chunk  int           // the number of the next
}

// deliver hands an event to the node's agent.
func (s *Server) deliver(n *node, e *event) {
	s.mu.Lock()
	a := &agent{srv: s, node: n, generation: n.generation, writes: make(chan []byte), gone: make(chan struct{})}
	s.mu.Unlock()
	s.start(func() {
		defer close(a.gone)
		var err error
		if a.job, err = e.payload(); err == nil && sleep(s.ctx, n.ackDelay) {
			a.execute()
		}
	})
}

// execute is all that an agent does: job, ack, output, exit.
func (a *agent) execute() {
	j, ok := a.readJob()
	if !ok || !a.report("ack", nil) {
		return
	}
	a.srv.mu.Lock()
	a.node.executions++
	a.srv.mu.Unlock()

	exited := make(chan int, 1)
	a.srv.start(func() {
		code := 1
		defer func() { exited <- code }()
		code = a.node.run(a.srv.ctx, j)
	})
	code, ok := a.follow(j.Wait, exited)
	if !ok {
		code = 255
	}
	a.report("exit", []byte(strconv.Itoa(code)))
}

// follow reports output and heartbeats until the command has exited, and returns its exit code; or until a write fails.
func (a *agent) follow(wait time.Duration, exited <-chan int) (code int, ok bool) {
	heartbeat := time.NewTimer(max(wait, raftWrite))
	defer heartbeat.Stop()
	flush := time.NewTimer(flushDelay)
	flush.Stop()
	defer flush.Stop()

	var buf []byte
	for {
		var chunk []byte
		select {
		case data := <-a.writes:
			buf = append(buf, data...)
			flush.Reset(flushDelay)
			if len(buf) < chunkSize {
				continue
			}
			chunk = buf[:len(buf)/chunkSize*chunkSize]
			if len(chunk) == len(buf) {
				flush.Stop()
			}
		case <-flush.C:
			chunk = buf
		case code := <-exited:
			return code, len(buf) == 0 || a.reportOutput(buf)
		case <-heartbeat.C:
		case <-a.srv.ctx.Done():
			return 0, false
		}
		if !a.reportOutput(chunk) {
			return 0, false
		}
		buf = bytes.Clone(buf[len(chunk):])
		heartbeat.Reset(max(wait, raftWrite))
	}
}

// reportOutput writes output in chunks; no output is one empty chunk, a heartbeat.
func (a *agent) reportOutput(output []byte) bool {
	for {
		n := min(len(output), chunkSize)
		if !a.report(fmt.Sprintf("out/%05x", a.chunk), output[:n]) {
			return false
		}
		a.chunk++
		if output = output[n:]; len(output) == 0 {
			return true
		}
	}
}

// Write hands what the command wrote to the agent, and drops it when the agent listens no more.
func (a *agent) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	select {
	case a.writes <- bytes.Clone(p):
	case <-a.gone:
	}
	return len(p), nil
}

func (a *agent) readJob() (*Job, bool) {
	a.srv.mu.Lock()
	defer a.srv.mu.Unlock()
	e := a.node.dc.kv.get(path.Join(a.job.Prefix, a.job.Session, "job"))
	if e == nil || a.generation != a.node.generation {
		return nil, false
	}
	j := &Job{Node: a.node.name, Prefix: a.job.Prefix, Session: a.job.Session, Output: a, agent: a}
	var spec struct {
		Command string
		Args    []string
		Script  []byte
		Wait    time.Duration
	}
	if err := json.Unmarshal(e.Value, &spec); err != nil {
		return nil, false
	}
	j.Command, j.Args, j.Script, j.Wait = spec.Command, spec.Args, spec.Script, spec.Wait
	return j, true
}

// report writes a key of the node's own.
func (a *agent) report(key string, value []byte) bool {
	return a.put(path.Join(a.node.name, key), value)
}

// put writes a key of the job and locks it with the session, the way agents write everything.
func (a *agent) put(key string, value []byte) bool {
	a.srv.mu.Lock()
	defer a.srv.mu.Unlock()
	if a.srv.closed || a.silenced || a.generation != a.node.generation {
		return false
	}
	dc := a.node.dc
	e := entry{Key: path.Join(a.job.Prefix, a.job.Session) + "/" + key, Value: bytes.Clone(value), Session: a.job.Session}
	_, ok, err := dc.acquire(e, dc.next())
	dc.changed.notify()
	return ok && err == nil
}
