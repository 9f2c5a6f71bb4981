package test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/internal/accidents"
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
				p.Cut()
				pause(ctx, 200*time.Millisecond)
			}
		},
		"silent": func(ctx context.Context, p *proxy) {
			pause(ctx, time.Second)
			p.Hush()
			pause(ctx, 6*time.Second)
			p.Cut() // requests that were held back get no answer
			p.Speak()
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

// proxy is an accidents.Proxy that is closed when the test ends.
type proxy struct{ *accidents.Proxy }

func newProxy(t *testing.T, target string) *proxy {
	p, err := accidents.NewProxy(target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return &proxy{p}
}

func (p *proxy) client(t *testing.T) *api.Client {
	client, err := api.NewClient(&api.Config{Address: p.Address()})
	if err != nil {
		t.Fatal(err)
	}
	return client
}
