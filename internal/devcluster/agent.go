package devcluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

// leaveTimeout bounds a graceful leave. Consul's own is leave_drain_time, a second here, and the gossip of the leave.
const leaveTimeout = 30 * time.Second

// processEnv is the environment variable by which every process of a cluster is known: its value is the directory of the
// node. Commands that an agent runs inherit it, whoever has become their parent meanwhile.
const processEnv = "CONSULEXEC_DEVCLUSTER"

// errPortTaken reports that an agent could not bind one of its ports.
var errPortTaken = errors.New("port taken")

// agent is one node's Consul process, over all its restarts.
type agent struct {
	node   Node
	binary string
	dir    string
	ports  portBlock
	secret string // the agent's own ACL token; empty without ACLs
	client *api.Client

	mu     sync.Mutex // guards what follows
	run    *run       // the process, also one that has ended unasked; nil when none is meant to run
	paused bool
}

// run is one process of an agent.
type run struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	err  error         // how it ended; valid once done is closed
}

func newAgent(c *Cluster, node Node) (*agent, error) {
	a := &agent{node: node, binary: c.binary, dir: filepath.Join(c.dir, node.Name)}
	if c.management != "" {
		a.secret = newUUID()
	}
	if err := os.Mkdir(a.dir, 0o700); err != nil {
		return nil, err
	}
	var err error
	if a.ports, err = reservePorts(); err != nil {
		return nil, err
	}
	a.client, err = api.NewClient(&api.Config{
		Address:   a.ports.addr(portHTTP),
		Scheme:    "http", // whatever CONSUL_HTTP_SSL says
		Token:     c.management,
		Transport: c.transport,
	})
	if err != nil {
		a.ports.release()
	}
	return a, err
}

func (a *agent) start(l *launcher) error {
	a.mu.Lock()
	defer a.mu.Unlock()

	log, err := os.OpenFile(a.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() // the process has its own

	cmd := exec.Command(a.binary, "agent",
		"-config-file="+filepath.Join(a.dir, configFile),
		"-config-file="+filepath.Join(a.dir, extraConfigFile))
	cmd.Dir = a.dir
	cmd.Env = append(os.Environ(), processEnv+"="+a.dir)
	cmd.Stdout = log
	cmd.Stderr = log
	cmd.SysProcAttr = sysProcAttr()
	if err := l.start(cmd); err != nil {
		return fmt.Errorf("start the agent of %s: %w", a.node.Name, err)
	}
	r := &run{cmd: cmd, done: make(chan struct{})}
	go func() { // reaps the process and ends with it
		r.err = cmd.Wait()
		close(r.done)
	}()
	a.run, a.paused = r, false
	return nil
}

// process returns the process that is meant to run, or nil; it may have ended all the same.
func (a *agent) process() *run {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.run
}

func (r *run) ended() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// pid returns the id of the process that runs, or 0.
func (a *agent) pid() int {
	if r := a.process(); r != nil && !r.ended() {
		return r.cmd.Process.Pid
	}
	return 0
}

// responsive tells whether the process runs and is not paused.
func (a *agent) responsive() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.run != nil && !a.run.ended() && !a.paused
}

// expected tells whether the process is meant to answer: it is neither killed nor stopped nor paused. It may have ended all
// the same.
func (a *agent) expected() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.run != nil && !a.paused
}

// kill kills the process, if one runs, and waits for its end.
func (a *agent) kill() error {
	r := a.process()
	if r == nil {
		return nil
	}
	if err := r.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-r.done
	a.gone(r)
	return nil
}

// gone notes that r has ended because it was told to.
func (a *agent) gone(r *run) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.run == r {
		a.run, a.paused = nil, false
	}
}

func (a *agent) leave() error {
	r := a.process()
	if r == nil || !a.responsive() {
		return errors.New("the agent does not run or is paused")
	}
	// An agent may be gone before it has answered, so the error counts only while it is there.
	err := a.client.Agent().Leave()
	timeout := time.NewTimer(leaveTimeout)
	defer timeout.Stop()
	select {
	case <-r.done:
		a.gone(r)
		return nil
	case <-timeout.C:
		return errors.Join(err, fmt.Errorf("the agent still runs %s after it was told to leave", leaveTimeout))
	}
}

func (a *agent) pause(pause bool) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.run == nil || a.run.ended() {
		return errors.New("the agent does not run")
	}
	process := a.run.cmd.Process
	if err := signalPause(process, pause); err != nil {
		return err
	}
	a.paused = pause
	if !pause {
		return nil
	}
	// The signal is only the request: a thread that is running stops when it next enters the kernel.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return poll(ctx, func() error {
		if !frozen(process.Pid) {
			return errors.New("not all of its threads have stopped")
		}
		return nil
	})
}

// exited returns an error when the process has ended unasked, which wraps errPortTaken when that was the reason.
func (a *agent) exited() error {
	r := a.process()
	if r == nil {
		return errors.New("the agent was ended")
	}
	if !r.ended() {
		return nil
	}
	for _, text := range []string{
		"address already in use",
		"Only one usage of each socket address", // Windows
	} {
		if strings.Contains(a.logTail(), text) {
			return fmt.Errorf("the agent has ended: %w", errPortTaken)
		}
	}
	return fmt.Errorf("the agent has ended: %v", r.err)
}

// status says in a word or two what the process does.
func (a *agent) status() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.run == nil:
		return "not running"
	case a.run.ended():
		return fmt.Sprintf("ended: %v", a.run.err)
	case a.paused:
		return "paused"
	default:
		return "running"
	}
}

func (a *agent) logPath() string { return filepath.Join(a.dir, "agent.log") }

// logTail returns the last lines of the log. What there is to say about a failure is in the last few kilobytes.
func (a *agent) logTail() string {
	const size = 4096
	f, err := os.Open(a.logPath())
	if err != nil {
		return err.Error() + "\n"
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > size {
		f.Seek(-size, io.SeekEnd)
	}
	tail, _ := io.ReadAll(f)
	if len(tail) >= size {
		if _, whole, ok := bytes.Cut(tail, []byte("\n")); ok {
			tail = whole
		}
	}
	return string(tail)
}
