package exectest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/consul/api"
)

// SetHealth sets the health of a service on a node: passing, warning or
// critical, as in api.HealthPassing. The service is named by its ID or its name,
// and if several have the name, it is the health of each. If service is empty,
// it is the health of the node itself, by a check beside serfHealth. That check
// does not change what becomes of jobs: [Server.Kill] and [Server.Start] change
// serfHealth.
//
// Before the first call there is no such check, which counts as passing.
// SetHealth panics if there is no such node, service or status.
func (s *Server) SetHealth(node, service, status string) {
	s.mustBeInPlace()
	if !slices.Contains([]string{api.HealthPassing, api.HealthWarning, api.HealthCritical}, status) {
		panic(fmt.Sprintf("exectest: no health %q: want passing, warning or critical", status))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.node(node)
	if !n.setHealth(service, status) {
		panic(fmt.Sprintf("exectest: no service %q on node %q", service, node))
	}
	n.dc.catalogIndex = n.dc.next()
	n.modifyIndex = n.dc.catalogIndex
	n.dc.catalogChanged.notify()
}

// setHealth reports whether there is such a service.
func (n *node) setHealth(service, status string) (found bool) {
	if service == "" {
		n.health = status
		return true
	}
	for i := range n.services {
		if s := &n.services[i]; s.id == service || s.name == service {
			s.health, found = status, true
		}
	}
	return found
}

// A healthCheck is a check in the HTTP API's JSON form.
type healthCheck struct {
	Node        string
	CheckID     string
	Name        string
	Status      string
	Notes       string
	Output      string
	ServiceID   string
	ServiceName string
	ServiceTags []string
	Type        string
	Interval    string
	Timeout     string
	ExposedPort int
	Definition  struct{}
	CreateIndex uint64
	ModifyIndex uint64
}

// A serviceEntry is a service instance with its health in the HTTP API's JSON
// form.
type serviceEntry struct {
	Node    api.Node
	Service api.AgentService
	Checks  []healthCheck
}

// checks returns the health checks of the node and its services, by their IDs.
func (n *node) checks() []healthCheck {
	checks := n.nodeChecks()
	for _, s := range n.services {
		checks = append(checks, n.serviceChecks(s)...)
	}
	slices.SortStableFunc(checks, func(a, b healthCheck) int { return strings.Compare(a.CheckID, b.CheckID) })
	return checks
}

// nodeChecks returns the checks that are of no service: serfHealth if the node
// has an agent, and that of SetHealth.
func (n *node) nodeChecks() []healthCheck {
	checks := []healthCheck{}
	if n.health != "" {
		checks = append(checks, n.check("node", "Node", n.health))
	}
	if n.external {
		return checks
	}
	check := n.check(serfHealth, "Serf Health Status", api.HealthPassing)
	check.Output = "Agent alive and reachable"
	if !n.alive {
		check.Status, check.Output = api.HealthCritical, "Agent not live or unreachable"
	}
	return append(checks, check)
}

// serviceChecks returns the check of a service, if SetHealth has made one.
func (n *node) serviceChecks(s service) []healthCheck {
	if s.health == "" {
		return nil
	}
	check := n.check("service:"+s.id, fmt.Sprintf("Service '%s' check", s.name), s.health)
	check.ServiceID, check.ServiceName, check.ServiceTags = s.id, s.name, append([]string{}, s.tags...)
	return []healthCheck{check}
}

func (n *node) check(id, name, status string) healthCheck {
	return healthCheck{
		Node: n.name, CheckID: id, Name: name, Status: status, ServiceTags: []string{},
		CreateIndex: n.createIndex, ModifyIndex: n.modifyIndex,
	}
}

func healthState(c *call) (any, error) {
	return catalogList(c, func(n *node) []healthCheck {
		return slices.DeleteFunc(n.checks(), func(check healthCheck) bool {
			return c.id != "any" && c.id != check.Status
		})
	})
}

func healthNode(c *call) (any, error) {
	return catalogList(c, func(n *node) []healthCheck {
		if n.name != c.id {
			return nil
		}
		return n.checks()
	})
}

func healthService(c *call) (any, error) {
	passing := c.params.Has("passing") && c.params.Get("passing") != "false"
	return catalogList(c, func(n *node) (list []serviceEntry) {
		for _, s := range n.catalogServices() {
			// Consul finds the name whatever its case.
			if !strings.EqualFold(s.name, c.id) || !hasTags(s, c.params["tag"]) {
				continue
			}
			checks := append(n.nodeChecks(), n.serviceChecks(s)...)
			ill := slices.ContainsFunc(checks, func(check healthCheck) bool { return check.Status != api.HealthPassing })
			if !ill || !passing {
				list = append(list, serviceEntry{n.catalog(), n.agentService(s), checks})
			}
		}
		return list
	})
}
