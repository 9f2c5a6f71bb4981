// Package devcluster runs clusters of real Consul agents on this machine, for
// tests and examples.
//
//	cluster, err := devcluster.New(ctx, devcluster.Config{Nodes: devcluster.Nodes(3, 2)})
//	if err != nil { ... }
//	defer cluster.Close()
//	client := cluster.Client("client-1")
//
// In a test, use [Start]: it fails the test on an error and closes the cluster
// when the test ends.
//
// Every agent is a separate process with its own ports on 127.0.0.1. Agents
// speak plain HTTP, Serf and Raft over loopback. Several clusters can run at
// once, in one process or in many. Set CONSUL_BINARY or CONSUL_VERSION to
// choose the Consul binary; see [Binary].
package devcluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

const (
	// readyTimeout bounds the wait for a cluster or a restarted node. An idle
	// machine needs two to five seconds, a fully loaded one many times as long.
	readyTimeout = 90 * time.Second

	// portAttempts bounds the attempts to start a cluster when another program
	// takes a port that was just free.
	portAttempts = 4
)

// Config configures a cluster.
type Config struct {
	// Nodes are the cluster's agents. Every datacenter needs at least one
	// server; an odd number is usual.
	Nodes []Node

	// ACL turns access control on, with deny as the default policy.
	// [Cluster.Client] then uses the management token. Each agent gets its own
	// token; see [Node.AgentPolicy].
	ACL bool
}

// Node configures one agent.
type Node struct {
	// Name is the node's name, unique across all datacenters. It must be valid
	// as a directory name.
	Name string

	// Datacenter defaults to "dc1". Datacenters are joined over WAN. The first
	// node's datacenter is the primary one.
	Datacenter string

	// Server makes the agent a server instead of a client.
	Server bool

	// ExecDisabled leaves remote exec off, as Consul does by default since 0.8.
	// By default this package turns it on.
	ExecDisabled bool

	// Services are the services registered with the agent. They have no health
	// checks.
	Services []Service

	// AgentPolicy holds ACL rules for the agent's own token, added to the rules
	// that register the node and its services. The default allows writes below
	// "_rexec". Without that permission an agent neither acks nor runs a job:
	// to test that, set `key_prefix "_rexec" { policy = "deny" }`. Without
	// Config.ACL, AgentPolicy has no effect.
	AgentPolicy string

	// Config is additional agent configuration in HCL or JSON. It overrides
	// this package's settings.
	Config string

	// Env is added to this program's environment for the agent, in the form
	// "name=value". The agent's commands inherit it.
	Env []string
}

// Service is a service of one agent. ID defaults to Name, and Name to ID. One
// of them is required.
type Service struct {
	ID   string
	Name string
	Tags []string
}

// Nodes returns nodes for the datacenter dc1, named "server-1", "server-2", ...
// and "client-1", "client-2", .... The caller may change them.
func Nodes(servers, clients int) []Node {
	return nodes("", "", servers, clients)
}

// NodesIn returns nodes as [Nodes] does, in the given datacenter. Its name
// prefixes the nodes' names: "dc2-server-1".
func NodesIn(datacenter string, servers, clients int) []Node {
	return nodes(datacenter, datacenter+"-", servers, clients)
}

func nodes(datacenter, prefix string, servers, clients int) []Node {
	var nodes []Node
	for i := range servers {
		nodes = append(nodes, Node{Name: fmt.Sprintf("%sserver-%d", prefix, i+1), Datacenter: datacenter, Server: true})
	}
	for i := range clients {
		nodes = append(nodes, Node{Name: fmt.Sprintf("%sclient-%d", prefix, i+1), Datacenter: datacenter})
	}
	return nodes
}

// withDefaults returns the nodes with defaults filled in, or an error that
// lists every mistake.
func (cfg Config) withDefaults() ([]Node, error) {
	var (
		nodes   = slices.Clone(cfg.Nodes)
		names   = map[string]bool{}
		servers = map[string]int{}
		errs    []error
	)
	if len(nodes) == 0 {
		errs = append(errs, errors.New("the cluster has no nodes"))
	}
	for i := range nodes {
		n := &nodes[i]
		if n.Name == "" {
			errs = append(errs, fmt.Errorf("node %d has no name", i))
		}
		if n.Name != filepath.Base(n.Name) {
			errs = append(errs, fmt.Errorf("node name %q is not a valid directory name", n.Name))
		}
		if names[n.Name] {
			errs = append(errs, fmt.Errorf("duplicate node name %q", n.Name))
		}
		names[n.Name] = true

		if n.Datacenter == "" {
			n.Datacenter = "dc1"
		}
		if n.Server {
			servers[n.Datacenter]++
		}
		n.Services = slices.Clone(n.Services)
		for j := range n.Services {
			s := &n.Services[j]
			if s.ID == "" {
				s.ID = s.Name
			}
			if s.Name == "" {
				s.Name = s.ID
			}
			if s.Name == "" {
				errs = append(errs, fmt.Errorf("node %q has a service without a name", n.Name))
			}
		}
	}
	for _, n := range nodes {
		if servers[n.Datacenter] == 0 {
			errs = append(errs, fmt.Errorf("datacenter %q has no server", n.Datacenter))
			servers[n.Datacenter] = -1 // report each datacenter once
		}
	}
	return nodes, errors.Join(errs...)
}

// Cluster is a running cluster. Its methods are safe for concurrent use. After
// Close, only Close and Processes may be called.
//
// A method with a node's name as its argument panics if the cluster has no such
// node: that is a mistake in the program.
type Cluster struct {
	binary     string
	dir        string
	lock       *fileLock // held while dir is in use
	nodes      []Node
	agents     []*agent // in the order of nodes
	management string   // the management token; empty without ACLs
	launcher   *launcher
	transport  *http.Transport

	closing  sync.Once
	closeErr error
}

// New starts the agents and waits until the cluster is ready. Then every
// datacenter has a leader. Every agent's gossip knows all nodes of its
// datacenter. Every node is in the catalog with its services, and its
// serfHealth check passes. Every agent can create sessions, write keys, and
// read keys in the other datacenters.
//
// If ctx ends first, or the cluster is not ready after 90 seconds, New returns
// an error and leaves no process running. The error says what is missing and
// holds the agents' last log lines; if the caller canceled ctx, it is only the
// cause. After New has returned, ctx has no effect.
func New(ctx context.Context, cfg Config) (*Cluster, error) {
	nodes, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("devcluster: %w", err)
	}
	binary, err := Binary(ctx)
	if err != nil {
		return nil, fmt.Errorf("devcluster: %w", err)
	}
	version, err := binaryVersion(ctx, binary)
	if err != nil {
		return nil, fmt.Errorf("devcluster: %w", err)
	}
	sweep(os.TempDir())

	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for attempt := 1; ; attempt++ {
		c, err := start(ctx, binary, version, nodes, cfg.ACL)
		if err == nil {
			return c, nil
		}
		if !errors.Is(err, errPortTaken) || attempt == portAttempts {
			return nil, fmt.Errorf("devcluster: %w", err)
		}
	}
}

func start(ctx context.Context, binary string, version version, nodes []Node, acl bool) (_ *Cluster, err error) {
	c := &Cluster{
		binary:    binary,
		nodes:     nodes,
		launcher:  newLauncher(),
		transport: &http.Transport{MaxIdleConnsPerHost: 16},
	}
	defer func() {
		if err != nil {
			if errors.Is(ctx.Err(), context.Canceled) {
				err = context.Cause(ctx) // the caller gave up and needs no logs
			} else {
				err = fmt.Errorf("%w\n%s", err, c.Logs())
			}
			err = errors.Join(err, c.Close())
		}
	}()
	if c.dir, c.lock, err = makeDir(os.TempDir()); err != nil {
		return nil, err
	}
	if acl {
		c.management = newUUID()
	}
	for _, n := range nodes {
		a, err := newAgent(c, n)
		if err != nil {
			return nil, err
		}
		c.agents = append(c.agents, a)
	}
	for _, a := range c.agents {
		if err := a.writeConfig(c, version); err != nil {
			return nil, err
		}
		if err := a.start(c.launcher); err != nil {
			return nil, err
		}
	}
	if acl {
		if err := c.bootstrapACL(ctx); err != nil {
			return nil, err
		}
	}
	if err := c.registerServices(ctx); err != nil {
		return nil, err
	}
	return c, c.waitReady(ctx)
}

// Close kills the agents and all processes started by them, and removes the
// cluster's directories. On systems other than Linux, commands of remote exec
// run on. Later calls return the first call's result.
//
// If a program dies without Close, Linux kills its agents, but not their
// commands. A later New on the machine kills the commands and removes the
// directories.
func (c *Cluster) Close() error {
	c.closing.Do(func() {
		var errs []error
		for _, a := range c.agents {
			errs = append(errs, a.kill())
		}
		c.launcher.close()
		if c.dir != "" {
			errs = append(errs, killProcesses(c.dir))
		}
		c.transport.CloseIdleConnections()
		for _, a := range c.agents {
			a.ports.release()
		}
		if c.dir != "" {
			errs = append(errs, removeDir(c.dir, c.lock))
		}
		if err := errors.Join(errs...); err != nil {
			c.closeErr = fmt.Errorf("devcluster: close: %w", err)
		}
	})
	return c.closeErr
}

// Nodes returns the nodes' names in the order of Config.Nodes.
func (c *Cluster) Nodes() []string {
	var names []string
	for _, n := range c.nodes {
		names = append(names, n.Name)
	}
	return names
}

// Address returns the host and port of the node's HTTP API. A restart does not
// change it.
func (c *Cluster) Address(node string) string {
	return c.agent(node).ports.addr(portHTTP)
}

// Client returns a client for the node's HTTP API. With Config.ACL it uses the
// management token.
func (c *Cluster) Client(node string) *api.Client {
	return c.agent(node).client
}

// Leader returns the name of the datacenter's leader. An empty name means the
// primary datacenter. Leader waits up to 90 seconds for a running election.
func (c *Cluster) Leader(datacenter string) (string, error) {
	if datacenter == "" {
		datacenter = c.nodes[0].Datacenter
	}
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()

	var leader string
	err := poll(ctx, func() error {
		for _, a := range c.agents {
			if !a.node.Server || a.node.Datacenter != datacenter || !a.responsive() {
				continue
			}
			addr, err := a.client.Status().LeaderWithQueryOptions(new(api.QueryOptions).WithContext(ctx))
			if err != nil {
				continue
			}
			for _, l := range c.agents {
				// A follower still names a dead leader until the election ends.
				if l.ports.addr(portServer) == addr && l.responsive() {
					leader = l.node.Name
					return nil
				}
			}
		}
		return errors.New("no running server names a running leader")
	})
	if err != nil {
		return "", fmt.Errorf("devcluster: leader of %s: %w", datacenter, err)
	}
	return leader, nil
}

// Kill kills the node's agent (SIGKILL), as a crash does, and waits for the
// process to end. Its remote exec commands run on. The other nodes detect the
// failure after some seconds. Kill does nothing if the agent does not run.
func (c *Cluster) Kill(node string) error {
	if err := c.agent(node).kill(); err != nil {
		return fmt.Errorf("devcluster: kill %s: %w", node, err)
	}
	return nil
}

// Terminate ends the node's agent by SIGTERM, as a service manager does, and
// waits for the process to end. A client leaves the cluster then. A server shuts
// down and stays a Raft peer. On Windows Terminate returns an error.
func (c *Cluster) Terminate(node string) error {
	if err := c.agent(node).terminate(); err != nil {
		return fmt.Errorf("devcluster: terminate %s: %w", node, err)
	}
	return nil
}

// Stop makes the node leave the cluster, as "consul leave" does. It waits until
// the process has ended and the node is no longer in the catalog. A server that
// leaves is no longer a Raft peer. Stop takes about five seconds, or ten for a
// server: Serf waits in each of its pools for the leave to spread.
func (c *Cluster) Stop(node string) error {
	a := c.agent(node)
	if err := a.leave(); err != nil {
		return fmt.Errorf("devcluster: stop %s: %w", node, err)
	}
	if err := c.awaitDeregistered(a); err != nil {
		return fmt.Errorf("devcluster: stop %s: %w", node, err)
	}
	return nil
}

// awaitDeregistered waits until the catalog no longer has the node, and
// deregisters it if necessary. An agent that leaves within seconds of its start
// may register itself again while it ends. It would then stay in the catalog
// for a minute, until the leader reconciles the catalog with gossip.
func (c *Cluster) awaitDeregistered(a *agent) error {
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	return poll(ctx, func() error {
		via := c.runningServer(a.node.Datacenter)
		if via == nil {
			return nil // no server is left that could answer
		}
		node, _, err := via.client.Catalog().Node(a.node.Name, new(api.QueryOptions).WithContext(ctx))
		if err != nil || node == nil {
			return err
		}
		_, err = via.client.Catalog().Deregister(&api.CatalogDeregistration{Node: a.node.Name}, new(api.WriteOptions).WithContext(ctx))
		if err == nil {
			err = errors.New("the node is still in the catalog")
		}
		return err
	})
}

// Restart restarts the nodes' agents with their data and ports. It kills an
// agent that still runs. Then it waits until every agent that runs and is not
// paused is ready, as New does. If several servers must start to reach a
// quorum, restart them in one call.
func (c *Cluster) Restart(nodes ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	for _, node := range nodes {
		if err := c.Kill(node); err != nil {
			return err
		}
	}
	for _, node := range nodes {
		if err := c.agent(node).start(c.launcher); err != nil {
			return fmt.Errorf("devcluster: restart %s: %w", node, err)
		}
	}
	if err := c.waitReady(ctx); err != nil {
		return fmt.Errorf("devcluster: restart %s: %w\n%s", strings.Join(nodes, ", "), err, c.Logs())
	}
	return nil
}

// Pause stops the node's agent (SIGSTOP) until Resume. Its connections stay
// open, but it does not answer. On Windows Pause returns an error.
func (c *Cluster) Pause(node string) error {
	if err := c.agent(node).pause(true); err != nil {
		return fmt.Errorf("devcluster: pause %s: %w", node, err)
	}
	return nil
}

// Resume continues a paused agent (SIGCONT).
func (c *Cluster) Resume(node string) error {
	if err := c.agent(node).pause(false); err != nil {
		return fmt.Errorf("devcluster: resume %s: %w", node, err)
	}
	return nil
}

// Process is a running process of a cluster.
type Process struct {
	PID   int
	Node  string   // the node of the agent, or of the agent that started it
	Agent bool     // true for an agent, false for a process started by it
	Args  []string // the command line; only on Linux
}

// Processes returns the cluster's running processes: the agents and, on Linux,
// every process started by them, even if its agent has ended. After Close there
// are none.
func (c *Cluster) Processes() ([]Process, error) {
	var processes []Process
	agents := map[int]bool{}
	for _, a := range c.agents {
		if pid := a.pid(); pid != 0 {
			agents[pid] = true
			processes = append(processes, Process{PID: pid, Node: a.node.Name, Agent: true})
		}
	}
	found, ok, err := findProcesses(c.dir)
	if err != nil {
		return nil, fmt.Errorf("devcluster: processes: %w", err)
	}
	if ok {
		processes = found
		for i := range processes {
			processes[i].Agent = agents[processes[i].PID]
		}
	}
	return processes, nil
}

// Logs returns the last log lines of every agent, at most 4 KiB each. It must
// not be called after Close.
func (c *Cluster) Logs() string {
	var b strings.Builder
	for _, a := range c.agents {
		fmt.Fprintf(&b, "--- %s (%s):\n%s", a.node.Name, a.status(), a.logTail())
	}
	return b.String()
}

// runningServer returns a running server of the datacenter, or nil.
func (c *Cluster) runningServer(datacenter string) *agent {
	for _, a := range c.agents {
		if a.node.Server && a.node.Datacenter == datacenter && a.responsive() {
			return a
		}
	}
	return nil
}

func (c *Cluster) agent(node string) *agent {
	for _, a := range c.agents {
		if a.node.Name == node {
			return a
		}
	}
	panic(fmt.Sprintf("devcluster: no node %q; the cluster has %s", node, strings.Join(c.Nodes(), ", ")))
}
