// Package exectest is a Consul for tests and examples, inside the process, whose nodes answer exec jobs.
//
//	srv := exectest.NewServer(exectest.Node("web-1"), exectest.Node("web-2"))
//	defer srv.Close()
//	client := srv.Client() // an *api.Client of github.com/hashicorp/consul/api
//
// It speaks the part of Consul's HTTP API that an exec needs: sessions, the KV store with its indexes, locks and blocking
// queries, transactions, events with their limits, catalog, health, agent and status, in any number of datacenters. Each
// node then does what a Consul agent does when the event of a job reaches it: it reads the job, writes its ack, runs the
// command, and writes output, heartbeats and the exit code with the job's session. The command really runs, on this
// machine; a [Handler] takes its place where a test wants to script a node.
//
// # Time
//
// [Server.Client] needs no socket, and everything that waits does so in a way that [testing/synctest] understands: in a
// bubble, tests of long timeouts take no time. A listening socket would keep the bubble's clock from moving on, so
// [NewServer] does not listen there, and [Server.URL] stays empty. It knows a bubble by the clock, which starts in the
// year 2000: before 2010 nothing is listened on. A command that really runs in a bubble stops the clock until it is done.
//
// # What differs from Consul
//
// Whatever Consul leaves to chance takes the longest it may: a session outlives its TTL by as much again, and a blocking
// query its wait time by a sixteenth. Gossip is immediate, see [AckAfter]. The API answers while any node is killed, as it
// is no node's own. Filter expressions (filter=) are refused with a 400 unless they are clauses of the form
// selector == "value", != "value", matches "regexp" or not matches "regexp", joined by and. A transaction may have 64
// operations, as in the oldest servers. Answers are not compressed, and tokens are ignored: see [Denied].
package exectest

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

// A Server is a Consul cluster. Its methods may be called by several goroutines at once.
type Server struct {
	// URL is the address of the HTTP API on a loopback port, such as http://127.0.0.1:34567. It is empty in a
	// testing/synctest bubble.
	URL string

	dcs  []*datacenter // the first is the agent's own
	self *node         // the agent whose HTTP API this is
	mux  *http.ServeMux
	web  *http.Server // nil in a bubble

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // every goroutine and every request under way

	// mu guards all that follows, the datacenters and the nodes. Nothing waits while holding it, as a bubble's clock would
	// not move on then.
	mu       sync.Mutex
	closed   bool
	faults   []*Fault
	requests []Request
	groups   []int // process groups that commands left running
}

// An Option says what a cluster consists of.
type Option func(*cluster)

type cluster struct {
	srv *Server
	dc  *datacenter
}

// Node adds a node. The first node of a datacenter is its server, unless one has [ConsulServer]; the first node of the
// first datacenter is the agent whose HTTP API this is. Without any, a datacenter has one node named localhost.
func Node(name string, opts ...NodeOption) Option {
	return func(c *cluster) {
		n := &node{name: name, dc: c.dc, id: newID(), run: RunCommand, alive: true}
		n.address = fmt.Sprintf("127.0.%d.%d", (len(c.dc.nodes)+10)/250, (len(c.dc.nodes)+10)%250+1)
		for _, opt := range opts {
			opt(n)
		}
		c.dc.nodes = append(c.dc.nodes, n)
	}
}

// Datacenter adds a further datacenter, joined to the first.
func Datacenter(name string, opts ...Option) Option {
	return func(c *cluster) { c.srv.addDatacenter(name, opts) }
}

// LocalDatacenter names the first datacenter, which is dc1 otherwise.
func LocalDatacenter(name string) Option {
	return func(c *cluster) { c.srv.dcs[0].name = name }
}

// NewServer starts a cluster. The caller ends it with [Server.Close].
func NewServer(opts ...Option) *Server {
	s := &Server{}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.addDatacenter("dc1", opts)
	s.mux = s.routes()
	if !inBubble() {
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

// inBubble tells whether this is a testing/synctest bubble, whose clock starts at 2000-01-01.
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
		s.web.Close() // the connection that was accepted while Close closed the others
	})
}

// Close ends the cluster: requests under way fail, every process that its nodes started is killed, on unix together with
// the process group it led, and every goroutine and temporary file of the cluster is gone when Close returns. A second
// Close does nothing.
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
	s.cancel()
	if s.web != nil {
		s.web.Close()
	}
	s.wg.Wait()
	s.killGroups()
}

// Client returns a client of the cluster that needs no socket. Its token and namespace are those of the environment, as
// for any client, and mean nothing here.
func (s *Server) Client() *api.Client {
	client, err := api.NewClient(s.Config())
	if err != nil {
		panic(fmt.Sprintf("exectest: new client: %v", err))
	}
	return client
}

// Config returns a configuration for such clients, as consulexec.WithConfig takes it.
func (s *Server) Config() *api.Config {
	return &api.Config{
		Address:    "exectest",
		Scheme:     "http",
		HttpClient: &http.Client{Transport: transport{s}},
	}
}

// start runs f on a goroutine that Close waits for; not at all once the cluster is closed.
func (s *Server) start(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.wg.Go(f)
	}
}

// datacenter returns the datacenter of that name, the first for "", nil when there is none.
func (s *Server) datacenter(name string) *datacenter {
	for _, dc := range s.dcs {
		if name == "" || dc.name == name {
			return dc
		}
	}
	return nil
}

// node returns the node of that name in the first datacenter that has it.
func (s *Server) node(name string) *node {
	for _, dc := range s.dcs {
		if n := dc.node(name); n != nil {
			return n
		}
	}
	panic(fmt.Sprintf("exectest: no node %q", name))
}

// Kill ends the node's agent at once: what it still had to report is never written, its serfHealth check is critical, and
// sessions bound to the node are gone. The command it was running runs on, unseen. Nodes are looked up by name in the
// datacenters in turn; a name that does not exist panics.
func (s *Server) Kill(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.node(name)
	n.dc.setAlive(n, false)
}

// Start starts the agent of a node that is down. It knows nothing of jobs that were sent before.
func (s *Server) Start(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.node(name)
	n.dc.setAlive(n, true)
}

// Executions says how many times the node has started a command.
func (s *Server) Executions(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.node(name).executions
}

// Keys returns the keys that begin with prefix, sorted, of all datacenters in turn.
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

// Put sets a key of the first datacenter, as a client without a session would.
func (s *Server) Put(key string, value []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	dc := s.dcs[0]
	dc.kv.set(entry{Key: key, Value: slices.Clone(value)}, dc.next())
	dc.changed.notify()
}

// Delete deletes a key of the first datacenter.
func (s *Server) Delete(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	dc := s.dcs[0]
	dc.kv.delete(key, dc.next())
	dc.changed.notify()
}

// Sessions returns the IDs of the sessions that live, of all datacenters in turn.
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

// DestroySession ends a session, in whatever datacenter, as if its TTL had passed.
func (s *Server) DestroySession(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, dc := range s.dcs {
		dc.destroySession(id)
	}
}

// RewindIndex sets the indexes of everything stored back to small numbers, in the same order, as when a snapshot is
// restored. Blocking queries under way are answered with what they last saw; the next that ask for more than that wait
// their whole time, as with Consul, and then learn of the new index.
func (s *Server) RewindIndex() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, dc := range s.dcs {
		dc.rewind()
	}
}

// A Request is a request that reached the cluster, or that a [Fault] kept from reaching it.
type Request struct {
	Time       time.Time
	Method     string
	Path       string
	Query      url.Values
	Datacenter string // the value of dc=
	Body       []byte
}

// Requests returns the requests so far, in order of arrival.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}
