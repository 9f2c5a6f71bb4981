package exectest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path"
	"strconv"
	"time"

	"github.com/consulexec/consulexec/internal/runner"
)

const (
	// chunkSize is the most output that an agent writes to one key, in bytes.
	chunkSize = 4096

	// flushDelay is the time from the command's last write until an agent sends
	// a partial chunk.
	flushDelay = 500 * time.Millisecond

	// raftWrite is the least time between two heartbeats. A job with a Wait of
	// 0 floods the store, as it does in Consul, but the bubble's clock still
	// moves.
	raftWrite = time.Millisecond
)

// A node is a machine in a datacenter. Server.mu guards alive and the fields
// below it.
type node struct {
	name, id, address string
	dc                *datacenter
	services          []service
	meta              map[string]string
	consulServer      bool
	external          bool
	execDisabled      bool
	ackDelay          time.Duration
	repeats           int     // how many more copies of each event reach the node
	run               Handler // nil if RunCommand runs all jobs

	alive       bool
	misses      int // how many more events miss the node
	generation  int // of its agent; grows when the agent starts or ends
	executions  int
	health      string             // the status of its own check, or empty without one
	ctx         context.Context    // of the node's commands
	killAll     context.CancelFunc // ends ctx
	guards      map[string]*guard  // by the run's ID
	tempDir     string             // empty until its first command
	createIndex uint64
	modifyIndex uint64
}

type service struct {
	id, name string
	tags     []string
	health   string // the status of its check, or empty without one
}

// A NodeOption configures a node for [Node].
type NodeOption func(*node)

// WithService registers a service with the node's agent. Its ID is also its
// name. A job's service filter matches IDs, not names.
func WithService(id string, tags ...string) NodeOption { return WithNamedService(id, id, tags...) }

// WithNamedService registers a service with an ID and a name, such as instance
// web-1 of service web.
func WithNamedService(id, name string, tags ...string) NodeOption {
	return func(n *node) { n.services = append(n.services, service{id: id, name: name, tags: tags}) }
}

// WithMeta adds the pairs to the node's metadata in the catalog, as node_meta in
// an agent's configuration does. The agent itself adds consul-version and
// consul-network-segment.
func WithMeta(meta map[string]string) NodeOption {
	return func(n *node) { maps.Copy(n.meta, meta) }
}

// Run sets the Handler of the node's jobs. The default is [RunCommand] for all of
// them.
func Run(h Handler) NodeOption { return func(n *node) { n.run = h } }

// AckAfter sets how long a job's event takes to reach the node. The default is
// zero. In a small network it takes some 0.2 s, or up to 30 s if gossip first
// misses the node.
func AckAfter(d time.Duration) NodeOption { return func(n *node) { n.ackDelay = d } }

// MissEvents makes gossip miss the node with the first n job events for it. An
// event counts if the node's agent would act on it. By default no event misses
// a node. In a real cluster of 5 to 9 nodes, one or two events in a hundred do.
// A run of the library fires an event for such a node again, after one fifth
// and after two fifths of its ack timeout. So with an n of 1 or 2 the node still
// runs the command, once.
func MissEvents(n int) NodeOption { return func(node *node) { node.misses = n } }

// RepeatEvents delivers each job event to the node n more times, as if a proxy
// had sent the request to fire it again. The copies arrive one after the other,
// each [AckAfter]'s delay after the one before it. By default the node gets no
// copy. As an agent does, the node runs the command once for each copy that
// finds the job's key, even while the command still runs. The second run
// overwrites the keys of the first. Its ack changes no key, since the job's
// session holds the ack already.
func RepeatEvents(n int) NodeOption { return func(node *node) { node.repeats = max(n, 0) } }

// ExecDisabled makes the node ignore jobs, as Consul agents do by default since
// 0.8. The node never acks.
func ExecDisabled() NodeOption { return func(n *node) { n.execDisabled = true } }

// Down gives the node a failed agent: its serfHealth check is critical.
// [Server.Start] starts the agent.
func Down() NodeOption { return func(n *node) { n.alive = false } }

// External registers the node in the catalog without an agent. It has no
// serfHealth check and never acks.
func External() NodeOption { return func(n *node) { n.external = true } }

// ConsulServer makes the node a Consul server. Its service consul is only in
// the catalog, not registered with its agent, so a job's service filter does
// not match it.
func ConsulServer() NodeOption { return func(n *node) { n.consulServer = true } }

// A Handler runs a job on a node, between ack and exit, and returns the exit
// status. Each job has its own goroutine, so Handlers of several jobs run at
// once. An agent never ends a command: a Handler runs on after its session or
// agent has ended. The context ends with [Server.KillControlGroup] and with
// [Server.Close], which waits for every Handler.
//
// # Jobs under the runner
//
// The options WithScript, WithEnv, WithDir, WithStdin, WithMaxOutput,
// WithTimeout, WithKillOnCancel and WithRecovery of consulexec wrap the command
// in a shell program, the runner. A node with a Handler plays the runner's part.
// The Handler gets the command itself, and is called once for each run, however
// often the node gets the job. The node
//
//   - ends the context after the timeout, or for a job of WithKillOnCancel. A real
//     command gets SIGTERM then. After the timeout the status is 124, otherwise
//     143, whatever the Handler returns. A Handler that has not
//     returned 5 s later counts as ended by SIGKILL: nothing that it does after
//     that is seen, and 137 takes the place of 143;
//   - passes on as much output as WithMaxOutput allows;
//   - reports the lowest 8 bits of other statuses, as a shell does;
//   - keeps output and status for WithRecovery, and answers when it is asked. It
//     forgets a run at the time at which a real node does; a run that
//     KillControlGroup has ended, two minutes later.
//
// If the Handler calls [RunCommand], the node's real shells do all that instead.
type Handler func(ctx context.Context, j *Job) int

// A Job is one execution of a job on one node.
type Job struct {
	Node    string
	Prefix  string
	Session string

	// The agent runs Args if not empty, otherwise Script if not empty, otherwise
	// Command. If it has Args and Script, the program in Args finds Script in a
	// file: see [RunCommand]. WithShell of consulexec sets Args for a command.
	//
	// Under the runner they are what the caller of consulexec has given: a
	// command, a program with arguments, or a script whose arguments Args are.
	Command string
	Args    []string
	Script  []byte

	// These are the values of WithEnv, WithDir, WithStdin and WithTimeout of
	// consulexec, or zero. Timeout is in whole seconds, rounded up. It is up to the
	// Handler what they mean, except that Timeout ends its context.
	Env     map[string]string
	Dir     string
	Stdin   []byte
	Timeout time.Duration

	// Wait is the heartbeat interval without output. It kills nothing.
	Wait time.Duration

	// Output takes the command's stdout and stderr. As an agent does, it sends
	// a chunk when 4096 bytes are written, and a partial one 500 ms after the
	// last write. Without output the agent writes a heartbeat every Wait. Under
	// the runner, its limit of output comes first. Writes never fail and are safe
	// for concurrent use.
	Output io.Writer

	agent *agent
	raw   runner.Job // as the agent has it
	guard *guard     // of the run, if the node plays the runner
}

// Die ends the node's agent at once, as [Server.Kill] does. The Handler runs
// on.
func (j *Job) Die() {
	j.agent.srv.mu.Lock()
	defer j.agent.srv.mu.Unlock()
	j.agent.node.dc.setAlive(j.agent.node, false)
}

// Silence makes the agent's next write fail, as if Consul had no leader at that
// moment. The agent stays alive and writes nothing more of this job, not even
// its exit. To report an exit nevertheless, call [Job.Put] before.
func (j *Job) Silence() {
	j.agent.srv.mu.Lock()
	defer j.agent.srv.mu.Unlock()
	j.agent.silenced = true
}

// Put writes a key below the job's prefix and session and locks it with the
// session. The key, such as web-1/exit, is not checked. Put returns false if
// the key was not written: the session, the agent or the cluster has ended,
// another session holds the key, or [Job.Silence] was called.
func (j *Job) Put(key string, value []byte) bool { return j.agent.put(key, value) }

// Answer returns a Handler that writes output and exits with code at once.
func Answer(output string, code int) Handler {
	return func(_ context.Context, j *Job) int {
		io.WriteString(j.Output, output)
		return code
	}
}

// NeverExit is a Handler that waits for the cluster to close, so its job never
// exits.
func NeverExit(ctx context.Context, _ *Job) int {
	<-ctx.Done()
	return 1
}

// An agent runs one job on its node.
type agent struct {
	srv        *Server
	node       *node
	generation int // the node's, when the event arrived
	job        payload
	silenced   bool // Server.mu guards it

	writes chan []byte   // the command's output
	done   chan struct{} // closed when nobody receives from writes
	chunk  int           // the number of the next chunk
}

// deliver starts the node's agent on an event, and on each copy of it.
func (s *Server) deliver(n *node, e *event) {
	job, err := e.payload()
	if err != nil {
		return
	}
	s.mu.Lock()
	generation := n.generation
	s.mu.Unlock()
	for i := range 1 + n.repeats {
		a := &agent{srv: s, node: n, generation: generation, job: job, writes: make(chan []byte), done: make(chan struct{})}
		s.start(func() {
			defer close(a.done)
			if sleep(s.ctx, time.Duration(1+i)*n.ackDelay) {
				a.execute()
			}
		})
	}
}

// execute runs the agent's whole job: read, ack, output, exit.
func (a *agent) execute() {
	j, ok := a.readJob()
	if !ok || !a.report("ack", nil) {
		return
	}
	exited := make(chan int, 1)
	run := a.prepare(j)
	a.srv.start(func() {
		code := 1
		defer func() { exited <- code }()
		code = run()
	})
	code, ok := a.follow(j.Wait, exited)
	if !ok {
		code = 255
	}
	a.report("exit", []byte(strconv.Itoa(code)))
}

// follow reports output and heartbeats until the command exits or a write
// fails. It returns the exit status, and false if a write failed.
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

// reportOutput writes output in chunks. Empty output makes one empty chunk: a
// heartbeat.
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

// Write passes output to the agent. It discards the output when the agent has
// ended.
func (a *agent) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	select {
	case a.writes <- bytes.Clone(p):
	case <-a.done:
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
	var spec struct {
		runner.Job
		Wait time.Duration
	}
	if err := json.Unmarshal(e.Value, &spec); err != nil {
		return nil, false
	}
	return &Job{
		Node: a.node.name, Prefix: a.job.Prefix, Session: a.job.Session,
		Command: spec.Command, Args: spec.Args, Script: spec.Script, Wait: spec.Wait,
		Output: a, agent: a, raw: spec.Job,
	}, true
}

// report writes a key below the node's name.
func (a *agent) report(key string, value []byte) bool {
	return a.put(path.Join(a.node.name, key), value)
}

// put writes a key of the job and locks it with the session, as agents do for
// every write.
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
