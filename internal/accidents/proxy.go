package accidents

import (
	"net"
	"sync"
)

// A Proxy connects a client with an agent, and misbehaves on request.
type Proxy struct {
	listener net.Listener
	serving  sync.WaitGroup

	mu     sync.Mutex // guards the rest
	target string
	conns  map[net.Conn]bool
	most   int           // connections at once
	silent chan struct{} // open while the proxy holds back all data
	closed bool
}

// NewProxy starts a proxy to the agent at target.
func NewProxy(target string) (*Proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{listener: listener, target: target, conns: make(map[net.Conn]bool), silent: make(chan struct{})}
	close(p.silent)
	p.serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			p.serving.Go(func() { p.serve(conn) })
		}
	})
	return p, nil
}

// Address returns the host and port for clients.
func (p *Proxy) Address() string { return p.listener.Addr().String() }

// Connections returns how many connections there are, and how many there were at
// most at once.
func (p *Proxy) Connections() (now, most int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns) / 2, p.most
}

// Close ends the proxy and its connections.
func (p *Proxy) Close() {
	p.listener.Close()
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.Cut()
	p.Speak()
	p.serving.Wait()
}

func (p *Proxy) serve(conn net.Conn) {
	defer conn.Close()
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	upstream, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer upstream.Close()
	p.mu.Lock()
	closed := p.closed
	p.conns[conn], p.conns[upstream] = true, true
	p.most = max(p.most, len(p.conns)/2)
	p.mu.Unlock()
	if closed {
		return
	}
	var copying sync.WaitGroup
	pass := func(to, from net.Conn) {
		defer to.Close()
		buf := make([]byte, 32<<10)
		for {
			n, err := from.Read(buf)
			p.mu.Lock()
			silent := p.silent
			p.mu.Unlock()
			<-silent
			if n > 0 {
				if _, err := to.Write(buf[:n]); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}
	copying.Go(func() { pass(upstream, conn) })
	copying.Go(func() { pass(conn, upstream) })
	copying.Wait()
	p.mu.Lock()
	delete(p.conns, conn)
	delete(p.conns, upstream)
	p.mu.Unlock()
}

// Retarget connects new connections with another agent, and cuts the old ones.
func (p *Proxy) Retarget(target string) {
	p.mu.Lock()
	p.target = target
	p.mu.Unlock()
	p.Cut()
}

// Cut closes every connection.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		conn.Close()
	}
}

// Hush holds back all data, of old connections and of new ones, until Speak.
func (p *Proxy) Hush() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = make(chan struct{})
}

// Speak ends Hush.
func (p *Proxy) Speak() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.silent:
	default:
		close(p.silent)
	}
}
