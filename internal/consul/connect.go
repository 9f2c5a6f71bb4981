package consul

import (
	"fmt"
	"net/http"
	"reflect"

	"github.com/hashicorp/consul/api"
)

// A Connection is a client that Connect has made.
type Connection struct {
	*api.Client
	Datacenter string // as configured; the agent's own if empty

	transport *http.Transport // nil if its connections are the caller's
}

// Connect makes a client by given, or by api.DefaultConfig if given is nil. It
// touches no network. It changes neither given nor its transport and HTTP
// client. The client serves WithBody.
func Connect(given *api.Config) (*Connection, error) {
	conf := api.DefaultConfig()
	transport := conf.Transport
	// The agent is on this machine or near. Compression takes CPU on both sides
	// and saves bytes that cost little there.
	transport.DisableCompression = true
	if given != nil {
		*conf = *given // api.NewClient fills in its argument
		switch {
		case given.HttpClient != nil:
			client := *given.HttpClient
			conf.HttpClient, transport = &client, nil
		case given.Transport == nil:
			conf.Transport = transport
		case reflect.ValueOf(given.TLSConfig).IsZero() && reflect.ValueOf(api.DefaultConfig().TLSConfig).IsZero():
			// The caller's transport serves as it is, connections included.
			conf.HttpClient, transport = &http.Client{Transport: given.Transport}, nil
		case given.Transport.TLSClientConfig == nil:
			// api.NewClient writes the TLS settings into the transport.
			transport = copyTransport(given.Transport)
			conf.Transport = transport
		default:
			transport = nil
		}
	}
	client, err := api.NewClient(conf)
	if err != nil {
		return nil, fmt.Errorf("make a client for Consul at %s: %w", conf.Address, err)
	}
	if err := checkTenancy(conf); err != nil {
		return nil, err
	}
	InterceptBodies(conf.HttpClient) // api.NewClient has set it
	return &Connection{Client: client, Datacenter: conf.Datacenter, transport: transport}, nil
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

// CloseIdle closes the connections that no request uses, unless they are the
// caller's. It may be called on nil.
func (c *Connection) CloseIdle() {
	if c != nil && c.transport != nil {
		c.transport.CloseIdleConnections()
	}
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
