package exectest

import (
	"slices"
	"strings"

	"github.com/hashicorp/consul/api"
)

// serverPort is the RPC port of Consul's servers.
const serverPort = 8300

// version is the Consul version that the answers follow.
const version = "1.22.7"

func (dc *datacenter) node(name string) *node {
	for _, n := range dc.nodes {
		if n.name == name {
			return n
		}
	}
	return nil
}

// register adds a node to the catalog.
func (dc *datacenter) register(n *node) {
	dc.catalogIndex = dc.next()
	n.createIndex, n.modifyIndex = dc.catalogIndex, dc.catalogIndex
}

// setAlive starts or ends the node's agent. Sessions with node checks end with
// the agent.
func (dc *datacenter) setAlive(n *node, alive bool) {
	if n.alive == alive {
		return
	}
	n.alive = alive
	n.generation++
	dc.catalogIndex = dc.next()
	n.modifyIndex = dc.catalogIndex
	for _, sess := range dc.sessionList(n.name) {
		if !alive && len(sess.NodeChecks) > 0 {
			dc.destroySession(sess.ID)
		}
	}
	dc.catalogChanged.notify()
}

func (n *node) catalog() api.Node {
	return api.Node{
		ID: n.id, Node: n.name, Address: n.address, Datacenter: n.dc.name,
		TaggedAddresses: map[string]string{"lan": n.address, "lan_ipv4": n.address, "wan": n.address, "wan_ipv4": n.address},
		Meta:            n.meta,
		CreateIndex:     n.createIndex, ModifyIndex: n.modifyIndex,
	}
}

// catalogServices returns the node's services in the catalog, with consul if
// the node is a Consul server.
func (n *node) catalogServices() []service {
	services := slices.Clone(n.services)
	if n.consulServer {
		services = append(services, service{id: "consul", name: "consul"})
	}
	return services
}

func (n *node) agentService(s service) api.AgentService {
	port := 0
	if s.id == "consul" {
		port = serverPort
	}
	return api.AgentService{
		ID: s.id, Service: s.name, Tags: append([]string{}, s.tags...), Meta: map[string]string{}, Port: port,
		Weights:     api.AgentWeights{Passing: 1, Warning: 1},
		CreateIndex: n.createIndex, ModifyIndex: n.createIndex,
	}
}

// catalogList returns the items of all nodes that match the request's filter
// expression.
func catalogList[T any](c *call, items func(*node) []T) (any, error) {
	matches, err := newSelector[T](c.params.Get("filter"))
	if err != nil {
		return nil, err
	}
	var list []T
	c.read(&c.dc.catalogChanged, func() uint64 {
		list = []T{}
		for _, n := range c.dc.nodes {
			for _, item := range items(n) {
				if matches(item) {
					list = append(list, item)
				}
			}
		}
		return c.dc.catalogIndex
	})
	c.setCatalogMeta()
	return list, nil
}

func (c *call) setCatalogMeta() { c.header.Set("X-Consul-Effective-Consistency", "leader") }

func catalogDatacenters(c *call) (any, error) {
	var names []string
	for _, dc := range c.srv.dcs {
		names = append(names, dc.name)
	}
	slices.Sort(names[1:]) // Consul lists the nearest datacenter first
	return names, nil
}

// coordinateDatacenters names the servers of each datacenter. Their coordinates
// are left out.
func coordinateDatacenters(c *call) (any, error) {
	var maps []api.CoordinateDatacenterMap
	for _, dc := range c.srv.dcs {
		m := api.CoordinateDatacenterMap{Datacenter: dc.name, AreaID: "wan"}
		for _, n := range dc.nodes {
			if n.consulServer {
				m.Coordinates = append(m.Coordinates, api.CoordinateEntry{Node: n.name})
			}
		}
		maps = append(maps, m)
	}
	return maps, nil
}

func catalogNodes(c *call) (any, error) {
	return catalogList(c, func(n *node) []api.Node { return []api.Node{n.catalog()} })
}

func catalogServices(c *call) (any, error) {
	tags := map[string][]string{}
	c.read(&c.dc.catalogChanged, func() uint64 {
		clear(tags)
		for _, n := range c.dc.nodes {
			for _, s := range n.catalogServices() {
				all := append([]string{}, tags[s.name]...)
				all = append(all, s.tags...)
				slices.Sort(all)
				tags[s.name] = slices.Compact(all)
			}
		}
		return c.dc.catalogIndex
	})
	c.setCatalogMeta()
	return tags, nil
}

func catalogService(c *call) (any, error) {
	return catalogList(c, func(n *node) (list []api.CatalogService) {
		node := n.catalog()
		for _, s := range n.catalogServices() {
			if !strings.EqualFold(s.name, c.id) || !hasTags(s, c.params["tag"]) {
				continue
			}
			list = append(list, api.CatalogService{
				ID: node.ID, Node: node.Node, Address: node.Address, Datacenter: node.Datacenter,
				TaggedAddresses: node.TaggedAddresses, NodeMeta: node.Meta,
				ServiceID: s.id, ServiceName: s.name, ServiceTags: append([]string{}, s.tags...),
				ServiceMeta: map[string]string{}, ServicePort: n.agentService(s).Port,
				ServiceWeights: api.Weights{Passing: 1, Warning: 1},
				CreateIndex:    n.createIndex, ModifyIndex: n.createIndex,
			})
		}
		return list
	})
}

func hasTags(s service, tags []string) bool {
	return !slices.ContainsFunc(tags, func(tag string) bool { return !slices.Contains(s.tags, tag) })
}

func catalogNodeServices(c *call) (any, error) {
	matches, err := newSelector[api.AgentService](c.params.Get("filter"))
	if err != nil {
		return nil, err
	}
	var answer struct {
		Node     *api.Node
		Services []api.AgentService
	}
	c.read(&c.dc.catalogChanged, func() uint64 {
		answer.Node, answer.Services = nil, nil
		n := c.dc.node(c.id)
		if n == nil {
			return 1
		}
		node := n.catalog()
		answer.Node, answer.Services = &node, []api.AgentService{}
		for _, s := range n.catalogServices() {
			if service := n.agentService(s); matches(service) {
				answer.Services = append(answer.Services, service)
			}
		}
		return c.dc.catalogIndex
	})
	c.setCatalogMeta()
	return answer, nil
}

// uiNodes answers with each node and its services, as Consul's own pages get
// them.
func uiNodes(c *call) (any, error) {
	type nodeInfo struct {
		ID, Node, Address string
		Services          []api.AgentService
		Checks            []healthCheck
	}
	return catalogList(c, func(n *node) []nodeInfo {
		info := nodeInfo{ID: n.id, Node: n.name, Address: n.address, Checks: n.checks()}
		for _, s := range n.catalogServices() {
			info.Services = append(info.Services, n.agentService(s))
		}
		return []nodeInfo{info}
	})
}

// agentSelf describes the agent that serves the HTTP API.
func agentSelf(c *call) (any, error) {
	n := c.srv.self
	return map[string]map[string]any{
		"Config": {
			"Datacenter": n.dc.name, "PrimaryDatacenter": n.dc.name, "NodeName": n.name, "NodeID": n.id,
			"Server": n.consulServer, "Version": version, "Revision": "", "BuildDate": "1970-01-01T00:00:01Z",
			"BindAddr": n.address,
		},
		"DebugConfig": {"DisableRemoteExec": n.execDisabled},
		"Member": {
			"Name": n.name, "Addr": n.address, "Port": 8301, "Status": 1,
			"Tags":        map[string]string{"dc": n.dc.name, "id": n.id, "role": role(n), "build": version + ":"},
			"ProtocolMin": 1, "ProtocolMax": 5, "ProtocolCur": 2, "DelegateMin": 2, "DelegateMax": 5, "DelegateCur": 4,
		},
		"Meta": {"consul-network-segment": "", "consul-version": version},
	}, nil
}

func role(n *node) string {
	if n.consulServer {
		return "consul"
	}
	return "node"
}

// peers returns the addresses of the datacenter's Consul servers, the leader's
// first.
func (dc *datacenter) peers() []string {
	var addresses []string
	for _, n := range dc.nodes {
		if n.consulServer {
			addresses = append(addresses, n.address+":8300")
		}
	}
	return addresses
}

func statusLeader(c *call) (any, error) { return c.dc.peers()[0], nil }

func statusPeers(c *call) (any, error) { return c.dc.peers(), nil }
