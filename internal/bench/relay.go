package main

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"sync"
)

// relay passes each connection of a client on to the server, one to one. So the
// server's limit of connections acts on the client's own. It counts requests,
// bytes and connections.
type relay struct {
	addr     string
	target   string
	listener net.Listener
	meter    meter
	tasks    sync.WaitGroup

	mu     sync.Mutex        // guards the rest
	open   map[net.Conn]bool // the clients' ends
	most   int               // the most that were open at once
	closed bool
}

// newRelay starts a relay to the server at target.
func newRelay(target string) (*relay, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &relay{addr: listener.Addr().String(), target: target, listener: listener, open: make(map[net.Conn]bool)}
	r.meter.reset()
	r.tasks.Go(r.accept)
	return r, nil
}

// reset returns the counts so far and the most connections at once, and starts
// again.
func (r *relay) reset() (t *traffic, most int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	most, r.most = r.most, len(r.open)
	return r.meter.reset(), most
}

// close ends the relay and its connections.
func (r *relay) close() {
	r.listener.Close()
	r.mu.Lock()
	r.closed = true
	for conn := range r.open {
		conn.Close()
	}
	r.mu.Unlock()
	r.tasks.Wait()
}

// accept serves connections until the relay is closed.
func (r *relay) accept() {
	for {
		conn, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.tasks.Go(func() {
			defer conn.Close()
			if r.opened(conn) {
				defer r.ended(conn)
				r.serve(conn)
			}
		})
	}
}

// opened counts a connection. It returns false if the relay is closed.
func (r *relay) opened(conn net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.open[conn] = true
		r.most = max(r.most, len(r.open))
	}
	return !r.closed
}

func (r *relay) ended(conn net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, conn)
}

// serve passes data in both directions until one end closes.
func (r *relay) serve(conn net.Conn) {
	server, err := net.Dial("tcp", r.target)
	if err != nil {
		return
	}
	var answers sync.WaitGroup
	answers.Go(func() {
		defer conn.Close()
		io.Copy(countingConn{conn, &r.meter}, server)
	})
	r.passRequests(server, conn)
	server.Close()
	answers.Wait()
}

// passRequests passes requests on byte by byte, and counts them.
func (r *relay) passRequests(to io.Writer, from io.Reader) {
	in := bufio.NewReader(io.TeeReader(from, to))
	for {
		request, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		r.meter.counts().requests[kindOf(request)].Add(1)
		if _, err := io.Copy(io.Discard, request.Body); err != nil {
			return
		}
	}
}
