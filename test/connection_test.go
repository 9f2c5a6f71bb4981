package test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/internal/devcluster"
	"github.com/consulexec/consulexec/internal/runtest"
)

// TestConnection cuts the connections to Consul again and again, and holds back
// what they carry.
func TestConnection(t *testing.T) {
	needsConsul(t)
	cluster := devcluster.Start(t, devcluster.Config{Nodes: devcluster.Nodes(1, 2)})
	for name, trouble := range map[string]func(ctx context.Context, p *proxy){
		"cut": func(ctx context.Context, p *proxy) {
			for ctx.Err() == nil {
				p.cut()
				pause(ctx, 200*time.Millisecond)
			}
		},
		"silent": func(ctx context.Context, p *proxy) {
			pause(ctx, time.Second)
			p.hush()
			pause(ctx, 6*time.Second)
			p.cut() // requests that were held back get no answer
			p.speak()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProxy(t, cluster.Address("client-1"))
			ctx, cancel := context.WithCancel(t.Context())
			var troubling sync.WaitGroup
			defer troubling.Wait()
			defer cancel()
			rec := runtest.NewRecorder(t, cluster.Client("server-1"))
			rec.Reach = consulexec.WithClient(p.client(t))
			rec.Hook = func(call string) {
				if call == "submit" {
					troubling.Go(func() { trouble(ctx, p) })
				}
				if call == "done" {
					cancel()
				}
			}
			y := newTally(t, 50)
			result, err := rec.Run(t.Context(), y.command)
			if err != nil || result.Err() != nil {
				t.Errorf("error %v, result %v", err, result.Err())
			}
			y.check(t, result, 3)
		})
	}
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// A proxy connects a client with an agent, and misbehaves on request.
type proxy struct {
	listener net.Listener

	mu     sync.Mutex // guards the rest
	target string
	conns  map[net.Conn]bool
	silent chan struct{} // open while the proxy holds back all data
}

func newProxy(t *testing.T, target string) *proxy {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener, target: target, conns: make(map[net.Conn]bool), silent: make(chan struct{})}
	close(p.silent)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { p.serve(conn) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		p.cut()
		p.speak()
		serving.Wait()
	})
	return p
}

func (p *proxy) client(t *testing.T) *api.Client {
	client, err := api.NewClient(&api.Config{Address: p.listener.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func (p *proxy) serve(conn net.Conn) {
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
	p.conns[conn], p.conns[upstream] = true, true
	p.mu.Unlock()
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

// retarget connects new connections with another agent, and cuts the old ones.
func (p *proxy) retarget(target string) {
	p.mu.Lock()
	p.target = target
	p.mu.Unlock()
	p.cut()
}

// cut closes every connection.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		conn.Close()
	}
}

// hush holds back all data, of old connections and of new ones, until speak.
func (p *proxy) hush() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = make(chan struct{})
}

func (p *proxy) speak() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.silent:
	default:
		close(p.silent)
	}
}
