package consul

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/consul/api"
)

// TestConnectLeavesConfig checks that neither the caller's config nor its
// transport changes, with two calls at once under the race detector.
func TestConnectLeavesConfig(t *testing.T) {
	for name, transport := range map[string]*http.Transport{
		"none":         nil,
		"without TLS":  {},
		"with its TLS": {TLSClientConfig: &tls.Config{ServerName: "consul"}},
	} {
		t.Run(name, func(t *testing.T) {
			conf := &api.Config{Datacenter: "dc7", Transport: transport, TLSConfig: api.TLSConfig{InsecureSkipVerify: true}}
			before := *conf
			var tlsBefore *tls.Config
			if transport != nil {
				tlsBefore = transport.TLSClientConfig
			}
			var calls sync.WaitGroup
			for range 2 {
				calls.Go(func() {
					c, err := Connect(conf)
					if err != nil {
						t.Error(err)
						return
					}
					defer c.Open().Leave()
					if c.Datacenter != "dc7" {
						t.Errorf("datacenter %q, want dc7", c.Datacenter)
					}
					if c.transport == transport && transport != nil {
						t.Error("Connect would close the caller's connections")
					}
				})
			}
			calls.Wait()
			if conf.Address != before.Address || conf.HttpClient != nil || conf.Transport != transport {
				t.Error("Connect changed the caller's config")
			}
			if transport != nil && transport.TLSClientConfig != tlsBefore {
				t.Error("Connect wrote TLS settings into the caller's transport")
			}
		})
	}
}

// TestConnectSharesTransport checks that clients of one config share the
// caller's connections, unless TLS settings have to be applied to a copy.
func TestConnectSharesTransport(t *testing.T) {
	dials := 0
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		dials++
		return nil, errors.New("dialed")
	}}
	c, err := Connect(&api.Config{Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Status().Leader(); err == nil || dials == 0 {
		t.Errorf("error %v, and %d dials by the caller's transport", err, dials)
	}
	if c.transport != nil {
		t.Error("the connection would close the caller's connections")
	}
}

// TestConnectAppliesTLS checks that a transport of the caller's still gets the
// config's TLS settings.
func TestConnectAppliesTLS(t *testing.T) {
	c, err := Connect(&api.Config{Transport: &http.Transport{MaxConnsPerHost: 3}, TLSConfig: api.TLSConfig{Address: "consul.example"}})
	if err != nil {
		t.Fatal(err)
	}
	if c.transport.MaxConnsPerHost != 3 || c.transport.TLSClientConfig.ServerName != "consul.example" {
		t.Errorf("the transport has %d connections per host and TLS name %q", c.transport.MaxConnsPerHost, c.transport.TLSClientConfig.ServerName)
	}
}

// TestConnectRefusesTenancy checks that a job can't go to a namespace or
// partition in which no agent looks, whoever names it.
func TestConnectRefusesTenancy(t *testing.T) {
	for name, conf := range map[string]*api.Config{
		"Namespace": {Namespace: "team"},
		"Partition": {Partition: "team"},
	} {
		if _, err := Connect(conf); err == nil || !strings.Contains(err.Error(), name+` "team"`) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	t.Setenv(api.HTTPNamespaceEnvName, "team")
	if _, err := Connect(nil); err == nil || !strings.Contains(err.Error(), api.HTTPNamespaceEnvName) {
		t.Errorf("by the environment: error %v", err)
	}
	t.Setenv(api.HTTPNamespaceEnvName, "default")
	if _, err := Connect(nil); err != nil {
		t.Errorf("the default namespace: error %v", err)
	}
}
