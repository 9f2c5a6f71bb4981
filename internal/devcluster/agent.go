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
	"syscall"
	"time"

	"github.com/hashicorp/consul/api"
)

// leaveTimeout bounds a graceful leave. A leave takes leave_drain_time, here
// one second, and the time of its gossip.
const leaveTimeout = 30 * time.Second

// processEnv marks every process of a cluster: the environment variable's value
// is the node's directory. An agent's commands inherit it and keep it after
// their parent dies.
const processEnv = "CONSULEXEC_DEVCLUSTER"

// errPortTaken is the error of an agent that could not bind one of its ports.
var errPortTaken = errors.New("port taken")

// agent is one node's Consul agent. Each restart gives it a new process.
type agent struct {
	node   Node
	binary string
	dir    string
	ports  portBlock
	secret string // the agent's own ACL token; empty without ACLs
	client *api.Client

	mu     sync.Mutex // guards run and paused
	run    *process   // the current process, even if it ended by itself; nil after kill or leave
	paused bool
}

// process is one process of an agent.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	err  error         // from Wait; valid after done is closed
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
		Scheme:    "http", // overrides CONSUL_HTTP_SSL
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
	defer log.Close() // the process has its own descriptor

	cmd := exec.Command(a.binary, "agent",
		"-config-file="+filepath.Join(a.dir, configFile),
		"-config-file="+filepath.Join(a.dir, extraConfigFile))
	cmd.Dir = a.dir
	cmd.Env = append(append(os.Environ(), a.node.Env...), processEnv+"="+a.dir)
	cmd.Stdout = log
	cmd.Stderr = log
	cmd.SysProcAttr = sysProcAttr()
	if err := l.start(cmd); err != nil {
		return fmt.Errorf("start the agent of %s: %w", a.node.Name, err)
	}
	r := &process{cmd: cmd, done: make(chan struct{})}
	go func() { // waits for the process and ends with it
		r.err = cmd.Wait()
		close(r.done)
	}()
	a.run, a.paused = r, false
	return nil
}

// current returns the agent's current process, or nil. The process may have
// ended by itself.
func (a *agent) current() *process {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.run
}

func (r *process) ended() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// pid returns the ID of the running process, or 0.
func (a *agent) pid() int {
	if r := a.current(); r != nil && !r.ended() {
		return r.cmd.Process.Pid
	}
	return 0
}

// responsive reports whether the process runs and is not paused.
func (a *agent) responsive() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.run != nil && !a.run.ended() && !a.paused
}

// expected reports whether the agent should answer: it was not killed, stopped
// or paused. It may have ended by itself.
func (a *agent) expected() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.run != nil && !a.paused
}

// kill kills the process, if any, and waits for its end.
func (a *agent) kill() error {
	r := a.current()
	if r == nil {
		return nil
	}
	if err := r.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-r.done
	a.clear(r)
	return nil
}

// clear removes r as the current process after a requested end.
func (a *agent) clear(r *process) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.run == r {
		a.run, a.paused = nil, false
	}
}

func (a *agent) leave() error {
	r := a.current()
	if r == nil || !a.responsive() {
		return errors.New("the agent is not running or is paused")
	}
	// The agent may end before it answers.
	return a.awaitEnd(r, a.client.Agent().Leave())
}

func (a *agent) terminate() error {
	r := a.current()
	if r == nil || !a.responsive() {
		return errors.New("the agent is not running or is paused")
	}
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return a.awaitEnd(r, nil)
}

// awaitEnd waits until a process that was told to end has ended. The error of
// telling it counts only if it still runs.
func (a *agent) awaitEnd(r *process, err error) error {
	timeout := time.NewTimer(leaveTimeout)
	defer timeout.Stop()
	select {
	case <-r.done:
		a.clear(r)
		return nil
	case <-timeout.C:
		return errors.Join(err, fmt.Errorf("the agent still runs after %s", leaveTimeout))
	}
}

func (a *agent) pause(pause bool) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.run == nil || a.run.ended() {
		return errors.New("the agent is not running")
	}
	process := a.run.cmd.Process
	if err := signalPause(process, pause); err != nil {
		return err
	}
	a.paused = pause
	if !pause {
		return nil
	}
	// The signal takes effect later: a running thread stops when it next enters
	// the kernel.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return poll(ctx, func() error {
		if !frozen(process.Pid) {
			return errors.New("not all threads have stopped")
		}
		return nil
	})
}

// exited returns an error if the process has ended by itself, or if there is
// none. The error wraps errPortTaken if the agent could not bind a port.
func (a *agent) exited() error {
	r := a.current()
	if r == nil {
		return errors.New("the agent was killed or stopped")
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

// status describes the state of the process for Logs.
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

// logTail returns the last lines of the log, at most 4 KiB. An agent logs the
// reason of a failure last.
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
