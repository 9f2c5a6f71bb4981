package consul

import (
	"fmt"
	"net/http"
	"os"
	"reflect"
	"sync/atomic"

	"github.com/hashicorp/consul/api"
)

// A Connection reaches a Consul. Those to the same one with the same settings
// share what a Pool has.
type Connection struct {
	*api.Client
	Datacenter string // as configured; the agent's own if empty

	key       any
	transport *http.Transport      // nil if its connections are the caller's
	pool      atomic.Pointer[Pool] // the one that was joined last
}

// settings tell pools apart.
type settings struct {
	address, tls string
	callers      any  // the caller's transport, or nil
	own          bool // whether the pool has a transport
}

// Given returns the connection of the caller's client.
func Given(client *api.Client) *Connection { return &Connection{Client: client, key: client} }

// Connect makes a client by given, or by api.DefaultConfig if given is nil. It
// touches no network. It changes neither given nor its transport and HTTP
// client. The client serves WithBody.
func Connect(given *api.Config) (*Connection, error) {
	conf := api.DefaultConfig()
	transport, callers := conf.Transport, any(nil)
	// The agent is on this machine or near. Compression takes CPU on both sides
	// and saves bytes that cost little there.
	transport.DisableCompression = true
	transport.MaxIdleConnsPerHost = maxHeld + maxInFlight + maxRenewals
	if given != nil {
		*conf = *given // api.NewClient fills in its argument
		transport, callers = useTransport(conf, transport)
	}
	client, err := api.NewClient(conf)
	if err != nil {
		return nil, fmt.Errorf("make a client for Consul at %s: %w", conf.Address, err)
	}
	if err := checkTenancy(conf); err != nil {
		return nil, err
	}
	// api.NewClient has set what is missing in conf, and conf.HttpClient.
	if transport != nil && conf.HttpClient.Transport != transport {
		transport, callers = nil, "Unix" // a transport for its socket, which keeps no connection
	}
	if callers != nil && !reflect.ValueOf(callers).Comparable() {
		callers = client
	}
	c := &Connection{Client: client, Datacenter: conf.Datacenter, transport: transport}
	c.key = settings{conf.Scheme + "://" + conf.Address + conf.PathPrefix, describeTLS(conf.TLSConfig), callers, transport != nil}
	if transport != nil {
		conf.HttpClient.Transport = c
	}
	InterceptBodies(conf.HttpClient)
	return c, nil
}

// useTransport decides which transport serves a caller's config: own, a copy of
// the caller's, or the caller's, which is not returned as ours. callers is the
// caller's, if it has one.
func useTransport(conf *api.Config, own *http.Transport) (ours *http.Transport, callers any) {
	given := conf.Transport
	switch {
	case conf.HttpClient != nil:
		client := *conf.HttpClient
		if client.Transport == nil {
			client.Transport = http.DefaultTransport
		}
		conf.HttpClient = &client
		return nil, client.Transport
	case given == nil:
		conf.Transport = own
		return own, nil
	case reflect.ValueOf(conf.TLSConfig).IsZero() && reflect.ValueOf(api.DefaultConfig().TLSConfig).IsZero():
		// It serves as it is, connections included.
		conf.HttpClient = &http.Client{Transport: given}
		return nil, given
	case given.TLSClientConfig == nil:
		// api.NewClient writes the TLS settings into the transport.
		conf.Transport = copyTransport(given)
		return conf.Transport, given
	}
	return nil, given
}

// describeTLS returns a text that differs for settings that differ, and for files
// that have changed.
func describeTLS(conf api.TLSConfig) string {
	text := fmt.Sprintf("%#v", conf)
	for _, name := range []string{conf.CAFile, conf.CAPath, conf.CertFile, conf.KeyFile} {
		if info, err := os.Stat(name); err == nil {
			text += fmt.Sprint(" ", info.ModTime().UnixNano(), info.Size())
		}
	}
	return text
}

// Open joins the pool of the connection's settings. The caller leaves it after
// its last request.
func (c *Connection) Open() *Pool {
	p := join(c.key, c.transport)
	c.pool.Store(p)
	return p
}

// RoundTrip makes a request over a connection of the pool.
func (c *Connection) RoundTrip(r *http.Request) (*http.Response, error) {
	if p := c.pool.Load(); p != nil {
		return p.transport.RoundTrip(r)
	}
	return c.transport.RoundTrip(r)
}

// checkTenancy refuses a namespace and a partition other than the default,
// which api.NewClient takes from the environment if the config names none.
// Agents look for jobs in the default ones only.
func checkTenancy(conf *api.Config) error {
	for _, tenancy := range []struct{ name, env, value string }{
		{"Namespace", api.HTTPNamespaceEnvName, conf.Namespace},
		{"Partition", api.HTTPPartitionEnvName, conf.Partition},
	} {
		if tenancy.value != "" && tenancy.value != "default" {
			return fmt.Errorf("%s %q (of the config or %s): agents look for jobs in the default one only", tenancy.name, tenancy.value, tenancy.env)
		}
	}
	return nil
}

// copyTransport returns a transport with the settings of t and no connections.
// It is not t.Clone, which sets t.TLSClientConfig to enable HTTP/2:
// api.NewClient would then ignore the TLS settings.
func copyTransport(t *http.Transport) *http.Transport {
	c := new(http.Transport)
	from, to := reflect.ValueOf(t).Elem(), reflect.ValueOf(c).Elem()
	for i := range from.NumField() {
		if from.Type().Field(i).IsExported() {
			to.Field(i).Set(from.Field(i))
		}
	}
	return c
}
