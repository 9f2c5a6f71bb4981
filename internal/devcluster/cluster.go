// Package devcluster starts real Consul agents on this machine, for tests and examples.
//
//	cluster, err := devcluster.New(ctx, devcluster.Config{Nodes: devcluster.Nodes(3, 2)})
//	if err != nil { ... }
//	defer cluster.Close()
//	client := cluster.Client("client-1")
//
// A test uses [Start] instead, which fails the test on an error and closes the cluster when the test ends.
//
// Every agent is a process of its own, binds 127.0.0.1 on ports of its own and speaks plain HTTP, Serf and Raft over
// loopback. Many clusters, of one process or of many, run side by side. Set CONSUL_BINARY or CONSUL_VERSION to choose the
// Consul that runs; see [Binary].
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
	// readyTimeout bounds the wait for a cluster or a restarted node. An idle machine needs two to five seconds; one that
	// builds and tests on every core needs many times that.
	readyTimeout = 90 * time.Second

	// portAttempts is how often a cluster is started anew because a port that was free a moment ago no longer is.
	portAttempts = 4
)

// Config says which agents to start.
type Config struct {
	// Nodes are the agents. Every datacenter among them needs at least one server; an odd number is usual.
	Nodes []Node

	// ACL turns access control on: whatever is not allowed is denied. [Cluster.Client] then uses the management token, and
	// each agent gets a token of its own; see [Node.AgentPolicy].
	ACL bool
}

// Node is one agent.
type Node struct {
	// Name is unique in the cluster, across its datacenters.
	Name string

	// Datacenter defaults to "dc1". Datacenters are joined over WAN; that of the first node is the primary one.
	Datacenter string

	// Server makes the agent a server instead of a client.
	Server bool

	// ExecDisabled leaves remote exec off, as Consul does by default since 0.8. The others have it on.
	ExecDisabled bool

	// Services are registered with the agent, without checks.
	Services []Service

	// AgentPolicy holds the ACL rules of the agent's own token, beside those that it needs to register itself and its
	// services. The default lets the agent write below "_rexec", without which it neither acks nor runs anything; so
	// `key_prefix "_rexec" { policy = "deny" }` is an agent that lacks it. Without ACLs it has no meaning.
	AgentPolicy string

	// Config is further agent configuration, in HCL or JSON; it overrides what this package sets.
	Config string
}

// Service is a service of an agent. ID defaults to Name and Name to ID.
type Service struct {
	ID   string
	Name string
	Tags []string
}

// Nodes returns the nodes of a plain datacenter, "server-1" to "server-<servers>" and "client-1" to "client-<clients>",
// for the caller to use as they are or to adapt.
func Nodes(servers, clients int) []Node {
	return nodes("", "", servers, clients)
}

// NodesIn is [Nodes] in the datacenter, whose name precedes those of the nodes: "dc2-server-1".
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

// withDefaults returns the nodes as they will run, or an error that tells everything that is wrong with them.
func (cfg Config) withDefaults() ([]Node, error) {
	var (
		nodes   = slices.Clone(cfg.Nodes)
		names   = map[string]bool{}
		servers = map[string]int{}
		errs    []error
	)
	if len(nodes) == 0 {
		errs = append(errs, errors.New("a cluster without nodes"))
	}
	for i := range nodes {
		n := &nodes[i]
		if n.Name == "" {
			errs = append(errs, fmt.Errorf("node %d has no name", i))
		}
		if n.Name != filepath.Base(n.Name) {
			errs = append(errs, fmt.Errorf("node name %q cannot name a directory", n.Name))
		}
		if names[n.Name] {
			errs = append(errs, fmt.Errorf("node %q is there twice", n.Name))
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
			servers[n.Datacenter] = -1 // said once
		}
	}
	return nodes, errors.Join(errs...)
}

// Cluster is a running cluster. Its methods may be called from any goroutine; after Close, only Close and Processes.
//
// A method that takes a node's name panics when there is no such node: that is a mistake in the program, not a state of
// the cluster.
type Cluster struct {
	binary     string
	dir        string
	lock       *fileLock // held as long as dir is in use
	nodes      []Node
	agents     []*agent // as nodes
	management string   // the management token; empty without ACLs
	launcher   *launcher
	transport  *http.Transport

	closing  sync.Once
	closeErr error
}

// New starts the agents and waits until the cluster is ready for work: every datacenter has a leader; every agent sees all
// the others of its datacenter; every node is in the catalog, passing, with its services; and through every agent sessions
// can be created, keys be written, and the keys of the other datacenters be read.
//
// When ctx ends first, or the cluster is not ready in time, the error says what was missing and holds the agents' last log
// lines, and nothing keeps running. After New has returned, ctx has no effect.
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
				err = context.Cause(ctx) // the caller gave up: the logs are of no interest
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

// Close ends every process of the cluster, the agents and whatever they have started, and removes their directories.
// Outside Linux, a command that an agent runs by remote exec is left to end by itself. Further calls return what the
// first did.
//
// A program that dies without Close takes its agents along on Linux, but not their commands; the next New on the machine
// ends those and removes the directories.
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

// Nodes returns the names of the nodes, in the order of the Config.
func (c *Cluster) Nodes() []string {
	var names []string
	for _, n := range c.nodes {
		names = append(names, n.Name)
	}
	return names
}

// Address returns the host and port of the node's HTTP API. It stays the same over restarts.
func (c *Cluster) Address(node string) string {
	return c.agent(node).ports.addr(portHTTP)
}

// Client returns a client of the node's HTTP API. With ACLs on it uses the management token.
func (c *Cluster) Client(node string) *api.Client {
	return c.agent(node).client
}

// Leader returns the name of the leader of the datacenter, "" being the primary one. It waits for an election that is
// under way.
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
				// A follower names a leader that has died until the election is over.
				if l.ports.addr(portServer) == addr && l.responsive() {
					leader = l.node.Name
					return nil
				}
			}
		}
		return errors.New("no running server knows one that runs")
	})
	if err != nil {
		return "", fmt.Errorf("devcluster: leader of %s: %w", datacenter, err)
	}
	return leader, nil
}

// Kill ends the node's agent at once, as a crash does (SIGKILL), and waits until it is gone. The commands that it runs by
// remote exec run on. The other nodes find out after some seconds. Killing an agent that does not run does nothing.
func (c *Cluster) Kill(node string) error {
	if err := c.agent(node).kill(); err != nil {
		return fmt.Errorf("devcluster: kill %s: %w", node, err)
	}
	return nil
}

// Stop makes the node leave the cluster and its agent end, as "consul leave" does, and waits until both are gone: the
// process and the node in the catalog. A server that has left is no longer a Raft peer. It takes some five seconds, for a server ten:
// Serf waits for the news to spread, in each of its pools.
func (c *Cluster) Stop(node string) error {
	a := c.agent(node)
	if err := a.leave(); err != nil {
		return fmt.Errorf("devcluster: stop %s: %w", node, err)
	}
	if err := c.forget(a); err != nil {
		return fmt.Errorf("devcluster: stop %s: %w", node, err)
	}
	return nil
}

// forget waits until the catalog no longer has the node that has left. An agent that leaves within seconds of its start may
// register itself once more on its way out, and then stays for a minute, until the leader compares the catalog with gossip.
func (c *Cluster) forget(a *agent) error {
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	return poll(ctx, func() error {
		via := c.runningServer(a.node.Datacenter)
		if via == nil {
			return nil // nobody is left to ask
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

// Restart starts the agents of the nodes again, with their data and on their ports, and waits until every node of the
// cluster that runs and is not paused is ready as New has it; so nodes that only together make a quorum must be restarted by one call. An agent
// that still runs is killed before.
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

// Pause freezes the node's agent (SIGSTOP), until Resume: its connections stay open and nobody answers. On Windows it
// returns an error.
func (c *Cluster) Pause(node string) error {
	if err := c.agent(node).pause(true); err != nil {
		return fmt.Errorf("devcluster: pause %s: %w", node, err)
	}
	return nil
}

// Resume lets a paused agent go on (SIGCONT).
func (c *Cluster) Resume(node string) error {
	if err := c.agent(node).pause(false); err != nil {
		return fmt.Errorf("devcluster: resume %s: %w", node, err)
	}
	return nil
}

// Process is a process that the cluster has started.
type Process struct {
	PID   int
	Node  string   // the node whose agent it is, or whose agent has started it
	Agent bool     // whether it is the agent, not a command that the agent runs
	Args  []string // the command line; on Linux only
}

// Processes returns the processes of the cluster that still run: the agents and, on Linux, all that they have started,
// also that which has outlived its agent. After Close there are none.
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

// Logs returns the last log lines of every agent.
func (c *Cluster) Logs() string {
	var b strings.Builder
	for _, a := range c.agents {
		fmt.Fprintf(&b, "--- %s (%s):\n%s", a.node.Name, a.status(), a.logTail())
	}
	return b.String()
}

// runningServer returns a server of the datacenter that runs, or nil.
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
	panic(fmt.Sprintf("devcluster: no node %q in the cluster of %s", node, strings.Join(c.Nodes(), ", ")))
}
