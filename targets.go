package consulexec

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec/internal/consul"
)

// isSerfHealth selects the check by which agents judge each other.
const isSerfHealth = `CheckID == "serfHealth"`

// The lists of the catalog, and the permissions that show all of them.
const (
	listNodes    = "list nodes"
	needNodes    = "node:read on every node"
	listServices = "list services"
	needServices = "node:read on every node and service:read on every service"
)

// catalog asks Consul which nodes to expect.
type catalog struct{ *consul.Client }

// targets are the nodes that should answer a job.
type targets struct {
	names  []string // those that can, in the order in which they get the job
	absent []absence
}

// An absence is a node that should answer and can't.
type absence struct {
	name   string
	reason error
}

// targets returns the nodes that are alive and pass the filter: of the given
// names, in their order, or of all nodes, by name, if names is nil. Its error
// wraps ErrPermissionDenied if the token does not show the whole catalog, so
// that nobody knows which nodes will answer.
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
			found.absent = append(found.absent, absence{name, fmt.Errorf("the catalog%s has no such agent", c.In())})
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

// agents returns the nodes that have an agent, and whether gossip reports each
// as alive. A node without the check serfHealth has no agent: something else
// put it into the catalog.
func (c catalog) agents(ctx context.Context) (alive map[string]bool, err error) {
	var checks []struct{ Node, Status string }
	meta, err := c.list(ctx, listNodes, needNodes, "/v1/health/state/any", isSerfHealth, &checks)
	if err != nil {
		return nil, err
	}
	// At least one server answers, so the token may not read a catalog without
	// any node. If Consul says that it left something out, that may have been
	// checks of services, which don't matter here.
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
// Agents match the services' IDs, but the lists of the documented API are by
// name, and some names fit into no request's path. So it asks for the list that
// Consul's own pages show: one request, with each node and its services.
func (c catalog) withService(ctx context.Context, filter nodeFilter) (map[string]bool, error) {
	var nodes []struct {
		Node     string
		PeerName string
		Services []struct {
			ID, Service string
			Tags        []string
		}
	}
	meta, err := c.list(ctx, listServices, needServices, "/v1/internal/ui/nodes", "", &nodes)
	if err != nil {
		return nil, err
	}
	// Each datacenter has the service "consul". The leader puts it into the
	// catalog, and the servers' own agents do not know it, so they don't match.
	const leaders = "consul"
	visible := false
	found := make(map[string]bool)
	for _, n := range nodes {
		if n.PeerName != "" {
			continue // a node of another cluster
		}
		for _, s := range n.Services {
			visible = visible || s.Service == leaders
			if s.Service != leaders && filter.matchService(s.ID, s.Tags) {
				found[n.Node] = true
			}
		}
	}
	if meta.ResultsFilteredByACLs || !visible {
		return nil, c.hidden(listServices, needServices)
	}
	return found, nil
}

// watchFailures sends the names of the nodes whose agents have failed, as
// gossip reports, each time that they change, until ctx ends. It begins after
// the first delay and asks at most once per delay. If it can't read the catalog
// it sends an empty list, because the last list may be out of date. If the token
// may not read the catalog that is its last word.
func (c catalog) watchFailures(ctx context.Context, delay time.Duration, out chan<- []string) {
	op := consul.Operation{Doing: "list failed nodes", Need: needNodes, Timeout: consul.PollTimeout}
	var poll consul.Poll
	for index := uint64(0); consul.Sleep(ctx, delay); {
		var names []string
		err := c.Do(ctx, op, func(ctx context.Context) (err error) {
			began := time.Now()
			names, index, err = c.criticalNodes(ctx, index, poll.Wait())
			if err != nil && poll.Cut(err, time.Since(began)) {
				names, index, err = c.criticalNodes(ctx, 0, 0)
			}
			return err
		})
		select {
		case out <- names:
		case <-ctx.Done():
		}
		if errors.Is(err, ErrPermissionDenied) {
			return
		}
	}
}

// criticalNodes returns the nodes whose check serfHealth is critical, once the
// index of the list is no longer the given one, and the new index. After a
// failure that is 0.
func (c catalog) criticalNodes(ctx context.Context, index uint64, wait time.Duration) ([]string, uint64, error) {
	q := c.Query(ctx)
	q.Filter, q.WaitIndex, q.WaitTime = isSerfHealth, index, wait
	var checks []struct{ Node string }
	meta, err := c.API.Raw().Query("/v1/health/state/critical", &checks, q)
	if err == nil {
		err = consul.CheckAnswer(meta, len(checks) == 0)
	}
	if err != nil {
		return nil, 0, err
	}
	names := make([]string, len(checks))
	for i, check := range checks {
		names[i] = check.Node
	}
	if meta.LastIndex < index {
		return names, 0, nil // after a restore or a change of leader the old index means nothing
	}
	return names, meta.LastIndex, nil
}

// list asks for a list and decodes the parts of it that out, a pointer to a
// slice or a map, has fields for.
func (c catalog) list(ctx context.Context, doing, need, path, filter string, out any) (meta *api.QueryMeta, err error) {
	op := consul.Operation{Doing: doing, Need: need}
	err = c.Do(ctx, op, func(ctx context.Context) (err error) {
		q := c.Query(ctx)
		q.Filter = filter
		meta, err = c.API.Raw().Query(path, out, q)
		if err == nil {
			err = consul.CheckAnswer(meta, reflect.ValueOf(out).Elem().Len() == 0)
		}
		return err
	})
	return meta, err
}

// hidden returns the error of a list that the token does not show in full.
func (c catalog) hidden(doing, need string) error {
	return fmt.Errorf("%s%s: %w: needs %s", doing, c.In(), ErrPermissionDenied, need)
}
