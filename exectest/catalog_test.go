package exectest

import (
	"fmt"
	"slices"
	"testing"

	"github.com/hashicorp/consul/api"
)

func catalogServer() *Server {
	return NewServer(
		Node("web-2", WithService("web", "v1"), WithNamedService("api-2", "api", "blue")),
		Node("web-1", WithService("web", "v2"), WithNamedService("api-1", "api")),
		Node("db", External(), WithService("postgres")),
		Node("old", Down(), WithService("web")),
	)
}

func TestCatalog(t *testing.T) {
	srv := catalogServer()
	defer srv.Close()
	client := srv.Client()
	for _, test := range []struct {
		name string
		list func() (any, error)
		want string
	}{
		{"nodes, sorted", func() (any, error) {
			nodes, _, err := client.Catalog().Nodes(nil)
			return names(nodes, func(n *api.Node) string { return n.Node }), err
		}, "[db old web-1 web-2]"},
		{"services", func() (any, error) {
			services, _, err := client.Catalog().Services(nil)
			return services, err
		}, "map[api:[blue] consul:[] postgres:[] web:[v1 v2]]"},
		{"instances", func() (any, error) {
			list, _, err := client.Catalog().Service("api", "", nil)
			return names(list, func(s *api.CatalogService) string { return s.Node + ":" + s.ServiceID }), err
		}, "[web-1:api-1 web-2:api-2]"},
		{"instances with a tag", func() (any, error) {
			list, _, err := client.Catalog().Service("api", "blue", nil)
			return names(list, func(s *api.CatalogService) string { return s.Node + ":" + s.ServiceID }), err
		}, "[web-2:api-2]"},
		{"instances of an unknown service", func() (any, error) {
			list, _, err := client.Catalog().Service("nope", "", nil)
			return len(list), err
		}, "0"},
		{"services of a node", func() (any, error) {
			list, _, err := client.Catalog().NodeServiceList("web-2", nil)
			return names(list.Services, func(s *api.AgentService) string { return s.ID }), err
		}, "[web api-2 consul]"},
		{"services of a node, filtered", func() (any, error) {
			list, _, err := client.Catalog().NodeServiceList("web-2", &api.QueryOptions{Filter: `ID matches "^api"`})
			return names(list.Services, func(s *api.AgentService) string { return s.ID }), err
		}, "[api-2]"},
		{"services of an unknown node", func() (any, error) {
			list, _, err := client.Catalog().NodeServiceList("nope", nil)
			return list.Node == nil && list.Services == nil, err
		}, "true"},
		{"all checks", func() (any, error) {
			checks, _, err := client.Health().State(api.HealthAny, nil)
			return statuses(checks), err
		}, "[old:serfHealth:critical web-1:serfHealth:passing web-2:serfHealth:passing]"},
		{"passing checks", func() (any, error) {
			checks, _, err := client.Health().State(api.HealthPassing, &api.QueryOptions{Filter: `CheckID == "serfHealth"`})
			return statuses(checks), err
		}, "[web-1:serfHealth:passing web-2:serfHealth:passing]"},
		{"checks of a node", func() (any, error) {
			checks, _, err := client.Health().Node("old", nil)
			return statuses(checks), err
		}, "[old:serfHealth:critical]"},
		{"instances and their health", func() (any, error) {
			list, _, err := client.Health().Service("web", "", false, nil)
			return names(list, func(s *api.ServiceEntry) string { return s.Node.Node + ":" + s.Checks.AggregatedStatus() }), err
		}, "[old:critical web-1:passing web-2:passing]"},
		{"healthy instances", func() (any, error) {
			list, _, err := client.Health().Service("web", "", true, nil)
			return names(list, func(s *api.ServiceEntry) string { return s.Node.Node }), err
		}, "[web-1 web-2]"},
		{"servers", func() (any, error) {
			list, _, err := client.Health().Service("consul", "", true, nil)
			return names(list, func(s *api.ServiceEntry) string { return s.Node.Node }), err
		}, "[web-2]"},
		{"leader", func() (any, error) { return client.Status().Leader() }, "127.0.0.11:8300"},
		{"peers", func() (any, error) { return client.Status().Peers() }, "[127.0.0.11:8300]"},
	} {
		got, err := test.list()
		if err != nil || fmt.Sprint(got) != test.want {
			t.Errorf("%s: %v, %v; want %s", test.name, got, err, test.want)
		}
	}
}

func names[T any](list []T, name func(T) string) []string {
	var all []string
	for _, item := range list {
		all = append(all, name(item))
	}
	return all
}

func statuses(checks api.HealthChecks) []string {
	return names(checks, func(c *api.HealthCheck) string { return c.Node + ":" + c.CheckID + ":" + c.Status })
}

func TestCatalogChanges(t *testing.T) {
	srv := catalogServer()
	defer srv.Close()
	health := srv.Client().Health()
	_, meta, err := health.State(api.HealthPassing, nil)
	if err != nil {
		t.Fatal(err)
	}
	go srv.Kill("web-1")
	checks, _, err := health.State(api.HealthPassing, &api.QueryOptions{WaitIndex: meta.LastIndex})
	if got := statuses(checks); err != nil || !slices.Equal(got, []string{"web-2:serfHealth:passing"}) {
		t.Errorf("passing checks after web-1 was killed: %q, %v", got, err)
	}
}

func TestConsulServer(t *testing.T) {
	srv := NewServer(Node("a"), Node("b", ConsulServer()), Node("c", ConsulServer()))
	defer srv.Close()
	if peers, err := srv.Client().Status().Peers(); err != nil || len(peers) != 2 {
		t.Errorf("peers are %q, %v", peers, err)
	}
}
