// Package exectest is an in-process Consul cluster for tests and examples. Its
// nodes answer exec jobs.
//
//	srv := exectest.NewServer(exectest.Node("web-1"), exectest.Node("web-2"))
//	defer srv.Close()
//	client := srv.Client() // an *api.Client of github.com/hashicorp/consul/api
//
// It serves the part of Consul's HTTP API needed for remote exec, in any number
// of datacenters: sessions, transactions, catalog, health, agent and status;
// the KV store with indexes, locks and blocking queries; events with their size
// limits. When the event of a job reaches a node, the node acts as a Consul
// agent does. It reads the job, writes its ack and runs the command. It writes
// output, heartbeats and the exit status under the job's session. By default
// the command really runs, on this machine. A [Handler] replaces the command if
// a test scripts the node: the node still does what the options of consulexec
// need, such as the timeout.
//
// # Time
//
// [Server.Client] needs no socket, and every wait is durably blocking for
// [testing/synctest]. In a bubble, tests of long timeouts take no time. A
// listening socket would stop the bubble's clock, so [NewServer] does not
// listen there, and [Server.URL] stays empty. It detects a bubble by the year:
// a bubble's clock starts at 2000, and NewServer does not listen before 2010. A
// real command stops the bubble's clock while it runs.
//
// A Server belongs to the bubble in which it was made. Used in a bubble, one that
// was made outside panics with a text that says so, and the requests of its
// clients fail with that text.
//
// # What differs from Consul
//
// If Consul allows a range of durations, the longest applies: a session lives
// for twice its TTL, and a blocking query waits a sixteenth longer than asked.
// Gossip is immediate and complete; see [AckAfter], [MissEvents] and
// [RepeatEvents]. Each node has a temporary directory of its own, but commands
// of all nodes share the other files of this machine and its processes. The API
// answers whichever nodes are killed, since it belongs to none of them. Of the
// fields that filter expressions (filter=) can select, durations and fractions
// are missing. A transaction may have 64 operations, as in Consul up to 1.12.
// Answers are not compressed. Tokens are ignored; see [Denied].
package exectest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

// A Server is a Consul cluster. Its methods are safe for concurrent use.
type Server struct {
	// URL is the address of the HTTP API on a loopback port, such as
	// http://127.0.0.1:34567. It is empty in a testing/synctest bubble.
	URL string

	bubbled bool // made in a bubble

	dcs  []*datacenter // the first is the agent's own
	self *node         // the agent that serves the HTTP API
	mux  *http.ServeMux
	web  *http.Server // nil in a bubble

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // every goroutine, connection and running request

	// mu guards the fields below, the datacenters and the nodes. No goroutine
	// waits while it holds mu, since that would stop a bubble's clock.
	mu       sync.Mutex
	closed   bool
	faults   []*Fault
	requests []Request
	groups   map[int]bool // process groups of commands; false if the command has ended
	tempDir  string       // has a directory for each node; empty before any command
}

// An Option configures a cluster for [NewServer].
type Option func(*cluster)

type cluster struct {
	srv *Server
	dc  *datacenter
}

// Node adds a node. The first node of a datacenter is its Consul server, unless
// another node has [ConsulServer]. The first node of the first datacenter is
// the agent that serves the HTTP API. A datacenter without a Node option has
// one node named localhost.
func Node(name string, opts ...NodeOption) Option {
	return func(c *cluster) {
		n := &node{name: name, dc: c.dc, id: newID(), alive: true, guards: make(map[string]*guard)}
		n.ctx, n.killAll = context.WithCancel(c.srv.ctx)
		n.meta = map[string]string{"consul-network-segment": "", "consul-version": version}
		n.address = fmt.Sprintf("127.0.%d.%d", (len(c.dc.nodes)+10)/250, (len(c.dc.nodes)+10)%250+1)
		for _, opt := range opts {
			opt(n)
		}
		c.dc.nodes = append(c.dc.nodes, n)
	}
}

// Datacenter adds a datacenter beside the first and joins the two. Its options
// configure the new datacenter.
func Datacenter(name string, opts ...Option) Option {
	return func(c *cluster) { c.srv.addDatacenter(name, opts) }
}

// LocalDatacenter names the first datacenter. The default is dc1.
func LocalDatacenter(name string) Option {
	return func(c *cluster) { c.srv.dcs[0].name = name }
}

// NewServer starts a cluster. The caller must call [Server.Close]. It panics if
// it cannot listen on a loopback port.
func NewServer(opts ...Option) *Server {
	s := &Server{groups: map[int]bool{}, bubbled: inBubble()}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.addDatacenter("dc1", opts)
	s.mux = s.routes()
	if !s.bubbled {
		s.listen()
	}
	return s
}

func (s *Server) addDatacenter(name string, opts []Option) {
	dc := newDatacenter(name)
	s.dcs = append(s.dcs, dc)
	for _, opt := range opts {
		opt(&cluster{srv: s, dc: dc})
	}
	if len(dc.nodes) == 0 {
		Node("localhost")(&cluster{srv: s, dc: dc})
	}
	if !slices.ContainsFunc(dc.nodes, func(n *node) bool { return n.consulServer }) {
		dc.nodes[0].consulServer = true
	}
	if dc == s.dcs[0] {
		s.self = dc.nodes[0]
	}
	for _, n := range dc.nodes {
		dc.register(n)
	}
	slices.SortFunc(dc.nodes, func(a, b *node) int { return strings.Compare(a.name, b.name) }) // as the catalog lists them
}

// misplaced returns an error if the server was made on the other side of a
// bubble's wall than the caller is on. The runtime would end the program, without
// a word on the server.
func (s *Server) misplaced() error {
	switch bubbled := inBubble(); {
	case bubbled && !s.bubbled:
		return errors.New("exectest: this Server was made outside of the synctest bubble that uses it: call NewServer in the function of synctest.Test")
	case !bubbled && s.bubbled:
		return errors.New("exectest: this Server was made in a synctest bubble and is used outside of it: call NewServer outside, or use it inside")
	}
	return nil
}

// mustBeInPlace panics if misplaced returns an error.
func (s *Server) mustBeInPlace() {
	if err := s.misplaced(); err != nil {
		panic(err.Error())
	}
}

// inBubble reports whether it runs in a testing/synctest bubble, whose clock
// starts at 2000-01-01.
func inBubble() bool { return time.Now().Year() < 2010 }

func (s *Server) listen() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(fmt.Sprintf("exectest: listen: %v", err))
	}
	s.URL = "http://" + listener.Addr().String()
	s.web = &http.Server{Handler: s, ConnState: func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			s.wg.Add(1)
		case http.StateClosed, http.StateHijacked:
			s.wg.Done()
		}
	}}
	s.wg.Go(func() {
		s.web.Serve(listener)
		s.web.Close() // a connection may have been accepted during Close
	})
}

// Close ends the cluster. Running requests fail. The commands of its nodes are
// killed, with what they started; [RunCommand] says how far that goes. When the
// first Close returns, the cluster has no goroutine and no temporary file left.
// A second Close does nothing and does not wait for the first.
func (s *Server) Close() {
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	for _, dc := range s.dcs {
		dc.stopTimers()
	}
	s.mu.Unlock()
	if closed {
		return
	}
	s.killGroups() // with few scans, not with some for each command
	s.cancel()
	if s.web != nil {
		s.web.Close()
	}
	s.wg.Wait()
	s.killGroups() // of commands that started meanwhile
	if s.tempDir != "" {
		killStrays(s.tempDir)
		os.RemoveAll(s.tempDir)
	}
}

// Client returns a new client that reaches the cluster without a socket. It
// takes its token and namespace from the environment, as every api.Client does;
// the cluster ignores both.
func (s *Server) Client() *api.Client {
	client, err := api.NewClient(s.Config())
	if err != nil {
		panic(fmt.Sprintf("exectest: new client: %v", err))
	}
	return client
}

// Config returns a new configuration that reaches the cluster without a socket.
// Pass it to api.NewClient or consulexec.WithConfig.
func (s *Server) Config() *api.Config {
	s.mustBeInPlace()
	return &api.Config{
		Address:    "exectest",
		Scheme:     "http",
		HttpClient: &http.Client{Transport: transport{s}},
	}
}

// start runs f on a goroutine that Close waits for. After Close it does
// nothing.
func (s *Server) start(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.wg.Go(f)
	}
}

// datacenter returns the named datacenter, or nil. An empty name means the
// first.
func (s *Server) datacenter(name string) *datacenter {
	for _, dc := range s.dcs {
		if name == "" || dc.name == name {
			return dc
		}
	}
	return nil
}

// node returns the named node from the first datacenter that has it. It panics
// if none has it.
func (s *Server) node(name string) *node {
	for _, dc := range s.dcs {
		if n := dc.node(name); n != nil {
			return n
		}
	}
	panic(fmt.Sprintf("exectest: no node %q", name))
}

// Kill ends the node's agent at once. The agent writes nothing more, and its
// serfHealth check becomes critical. Sessions on the node that depend on
// serfHealth end. A running command goes on unobserved. Kill searches the
// datacenters in order and panics if no node has the name.
func (s *Server) Kill(name string) {
	s.mustBeInPlace()
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.node(name)
	n.dc.setAlive(n, false)
}

// KillControlGroup ends the node's agent as [Server.Kill] does, and all of the
// node's commands with it: the contexts of their Handlers end. That is what a
// service manager does that ends the agent's whole control group
// (KillMode=control-group of systemd), and what happens if the node is rebooted.
func (s *Server) KillControlGroup(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.node(name)
	n.dc.setAlive(n, false)
	n.killAll()
	n.ctx, n.killAll = context.WithCancel(s.ctx)
	for _, g := range n.guards {
		g.die()
	}
}

// Start starts the agent of a node that is down. The agent knows no earlier
// jobs. Start panics if no node has the name.
func (s *Server) Start(name string) {
	s.mustBeInPlace()
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.node(name)
	n.dc.setAlive(n, true)
}

// Executions returns how often the node has started a command. Jobs of the
// library that end a command or ask for its output do not count, nor do copies
// of a job that a scripted node turns away. It panics if no node has the name.
func (s *Server) Executions(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.node(name).executions
}

// Keys returns the keys with the prefix: sorted within a datacenter, and one
// datacenter after the other.
func (s *Server) Keys(prefix string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []string
	for _, dc := range s.dcs {
		entries, _ := dc.kv.list(prefix)
		for _, e := range entries {
			keys = append(keys, e.Key)
		}
	}
	return keys
}

// Put sets a key in the first datacenter without a session, and so removes its
// lock.
func (s *Server) Put(key string, value []byte) {
	s.mustBeInPlace()
	s.mu.Lock()
	defer s.mu.Unlock()
	dc := s.dcs[0]
	dc.kv.set(entry{Key: key, Value: slices.Clone(value)}, dc.next())
	dc.changed.notify()
}

// Delete deletes a key in the first datacenter. It does nothing if there is no
// such key.
func (s *Server) Delete(key string) {
	s.mustBeInPlace()
	s.mu.Lock()
	defer s.mu.Unlock()
	dc := s.dcs[0]
	dc.kv.delete(key, dc.next())
	dc.changed.notify()
}

// Sessions returns the IDs of the live sessions: sorted within a datacenter,
// and one datacenter after the other.
func (s *Server) Sessions() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []string
	for _, dc := range s.dcs {
		for _, sess := range dc.sessionList("") {
			ids = append(ids, sess.ID)
		}
	}
	return ids
}

// DestroySession ends a session as if its TTL had passed. It finds the session
// in any datacenter and does nothing if there is none.
func (s *Server) DestroySession(id string) {
	s.mustBeInPlace()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, dc := range s.dcs {
		dc.destroySession(id)
	}
}

// RewindIndex renumbers all stored indexes from 1 in the same order, as a
// restored snapshot does. Running blocking queries return their last result at
// once. A later query with an old index waits for its whole wait time, as in
// Consul, and then returns the new index.
func (s *Server) RewindIndex() {
	s.mustBeInPlace()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, dc := range s.dcs {
		dc.rewind()
	}
}

// A Request is a request that a client sent, even if a [Fault] kept it from the
// cluster.
type Request struct {
	Time       time.Time
	Method     string
	Path       string
	Query      url.Values
	Datacenter string // the value of the dc parameter
	Token      string // the ACL token, in X-Consul-Token; the cluster takes any
	Body       []byte
}

// Requests returns the requests so far in order of arrival.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}
