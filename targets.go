package consulexec

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

// catalogRequests is how many requests for the instances of a service are under
// way at once: enough to hide the round trip, and few beside the 200 connections
// that an agent grants one address.
const catalogRequests = 8

// isSerfHealth filters checks for the one by which agents judge each other.
const isSerfHealth = `CheckID == "serfHealth"`

// What is asked of the catalog, and the permissions that show all of it.
const (
	listNodes    = "list nodes"
	needNodes    = "node:read on every node"
	listServices = "list services"
	needServices = "service:read on every service"
)

// catalog asks Consul which nodes to expect.
type catalog struct{ *consul }

// targets are the nodes that should answer a job.
type targets struct {
	names  []string // those that can, in the order in which to tell them
	absent []absence
}

// An absence is a node that should answer and can't.
type absence struct {
	name string
	why  error
}

// targets finds the nodes that are alive and pass the filter: of those called
// names, in that order; of all, by name, where names is nil. Its error wraps
// ErrPermissionDenied where the token does not show the whole catalog, so that
// nobody can tell which nodes will answer.
func (c catalog) targets(ctx context.Context, filter nodeFilter, names []string) (found targets, err error) {
	alive, err := c.agents(ctx)
	if err != nil {
		return found, err
	}
	named := names != nil
	if !named {
		names = slices.Sorted(maps.Keys(alive))
	}
	for _, name := range names {
		up, known := alive[name]
		switch {
		case !filter.matchNode(name):
		case up:
			found.names = append(found.names, name)
		case named && known:
			found.absent = append(found.absent, absence{name, errors.New("is not alive: serfHealth is critical")})
		case named:
			found.absent = append(found.absent, absence{name, fmt.Errorf("the catalog%s has no such agent", c.in())})
		}
	}
	if expression(filter.service) != "" && len(found.names) > 0 {
		matching, err := c.withService(ctx, filter)
		if err != nil {
			return found, err
		}
		found.names = slices.DeleteFunc(found.names, func(name string) bool { return !matching[name] })
	}
	return found, nil
}

// agents lists the nodes that have an agent, and whether it is alive: whether it
// takes part in gossip, by the word of the others. Nodes without the check
// serfHealth were put into the catalog by other means and have no agent.
func (c catalog) agents(ctx context.Context) (alive map[string]bool, err error) {
	var checks []struct{ Node, Status string }
	meta, err := c.list(ctx, listNodes, needNodes, "/v1/health/state/any", isSerfHealth, &checks)
	if err != nil {
		return nil, err
	}
	// At least one server answers, so that a catalog without any node is one that
	// the token may not read. Where Consul says that it left something out, that
	// may have been checks of services, which don't matter here.
	if len(checks) == 0 {
		return nil, c.hidden(listNodes, needNodes)
	}
	if meta.ResultsFilteredByACLs {
		var nodes []struct{}
		meta, err := c.list(ctx, listNodes, needNodes, "/v1/catalog/nodes", "", &nodes)
		if err != nil {
			return nil, err
		}
		if meta.ResultsFilteredByACLs {
			return nil, c.hidden(listNodes, needNodes)
		}
	}
	alive = make(map[string]bool, len(checks))
	for _, check := range checks {
		alive[check.Node] = check.Status == api.HealthPassing
	}
	return alive, nil
}

// withService returns the nodes that have a service that passes the filter.
// Agents look at the services' IDs, and Consul lists those by name only: so
// every service whose tags may match is looked at.
func (c catalog) withService(ctx context.Context, filter nodeFilter) (map[string]bool, error) {
	var services map[string][]string
	meta, err := c.list(ctx, listServices, needServices, "/v1/catalog/services", "", &services)
	if err != nil {
		return nil, err
	}
	// Each datacenter has the service "consul", put into the catalog by the
	// leader and unknown to the servers' own agents, which therefore don't match.
	const leaders = "consul"
	if _, visible := services[leaders]; meta.ResultsFilteredByACLs || !visible {
		return nil, c.hidden(listServices, needServices)
	}
	delete(services, leaders)

	var (
		group sync.WaitGroup
		slots = make(chan struct{}, catalogRequests)
		mu    sync.Mutex // guards the two below
		nodes = make(map[string]bool)
		fault error
	)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for name, tags := range services {
		if !filter.matchTags(tags) {
			continue
		}
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			found, err := c.instances(ctx, name, filter)
			mu.Lock()
			defer mu.Unlock()
			if err != nil && fault == nil {
				fault = err
				cancel()
			}
			for _, node := range found {
				nodes[node] = true
			}
		})
	}
	group.Wait()
	return nodes, fault
}

// instances returns the nodes with an instance of a service that passes the
// filter.
func (c catalog) instances(ctx context.Context, service string, filter nodeFilter) ([]string, error) {
	var instances []struct {
		Node        string
		ServiceID   string
		ServiceTags []string
	}
	doing := fmt.Sprintf("list instances of service %q", service)
	meta, err := c.list(ctx, doing, needServices, "/v1/catalog/service/"+service, "", &instances)
	if err != nil {
		return nil, err
	}
	if meta.ResultsFilteredByACLs {
		return nil, c.hidden(doing, needNodes)
	}
	var nodes []string
	for _, i := range instances {
		if filter.matchService(i.ServiceID, i.ServiceTags) {
			nodes = append(nodes, i.Node)
		}
	}
	return nodes, nil
}

// watchFailures sends the names of the nodes whose agents have failed, by the
// word of the other agents, each time that they change, until ctx ends or the
// catalog can't be read. It begins after the first delay, and asks no more often
// than once in a delay.
func (c catalog) watchFailures(ctx context.Context, delay time.Duration, out chan<- []string) {
	op := operation{doing: "list failed nodes", need: needNodes, timeout: pollWait + pollWait/16 + requestTimeout}
	for index := uint64(0); sleep(ctx, delay); {
		var checks []struct{ Node string }
		err := c.do(ctx, op, func(ctx context.Context) error {
			q := c.query(ctx)
			q.Filter, q.WaitIndex, q.WaitTime = isSerfHealth, index, pollWait
			meta, err := c.client.Raw().Query("/v1/health/state/critical", &checks, q)
			if err != nil {
				index = 0
				return err
			}
			if meta.LastIndex < index {
				meta.LastIndex = 0
			}
			index = meta.LastIndex
			return nil
		})
		if err != nil {
			return
		}
		names := make([]string, len(checks))
		for i, check := range checks {
			names[i] = check.Node
		}
		select {
		case out <- names:
		case <-ctx.Done():
		}
	}
}

// list asks for a list and decodes of it what out has room for.
func (c catalog) list(ctx context.Context, doing, need, path, filter string, out any) (meta *api.QueryMeta, err error) {
	op := operation{doing: doing, need: need}
	err = c.do(ctx, op, func(ctx context.Context) (err error) {
		q := c.query(ctx)
		q.Filter = filter
		meta, err = c.client.Raw().Query(path, out, q)
		return err
	})
	return meta, err
}

// hidden is the error of a list that the token does not show in full.
func (c catalog) hidden(doing, need string) error {
	return fmt.Errorf("%s%s: %w: needs %s", doing, c.in(), ErrPermissionDenied, need)
}
