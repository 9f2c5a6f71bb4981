package consulexec

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
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

// leaders is a service that each datacenter has. The leader puts it into the
// catalog, and the servers' own agents do not know it, so no filter of an event
// matches it.
const leaders = "consul"

// catalog asks Consul which nodes to expect.
type catalog struct {
	*consul.Client
	patience time.Duration // how long lists may go on failing; SessionLife if 0
}

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

// targets returns the nodes that are alive and that the options select: of
// WithNodes, in their order, or of all nodes, by name. Its error wraps
// ErrPermissionDenied if the token does not show the whole catalog, so that
// nobody knows which nodes will answer.
func (c catalog) targets(ctx context.Context, conf *config) (found targets, err error) {
	alive, err := c.agents(ctx)
	if err != nil {
		return found, err
	}
	passes, err := c.byCatalog(ctx, conf, alive)
	if err != nil {
		return found, err
	}
	names := conf.names
	named := names != nil
	if !named {
		names = slices.Sorted(maps.Keys(alive))
	}
	for _, name := range names {
		up, known := alive[name]
		switch {
		case !conf.filter.matchNode(name), known && !passes(name):
		case up:
			found.names = append(found.names, name)
		case named && known:
			found.absent = append(found.absent, absence{name, errors.New("is not alive: serfHealth is critical")})
		case named:
			found.absent = append(found.absent, absence{name, fmt.Errorf("the catalog%s has no such agent", c.In())})
		}
	}
	if expression(conf.filter.service) != "" && len(found.names) > 0 {
		matching, err := c.withService(ctx, conf.filter, found.names)
		if err != nil {
			return found, err
		}
		found.names = slices.DeleteFunc(found.names, func(name string) bool { return !matching[name] })
	}
	return found, nil
}

// byCatalog returns which of the agents pass the options that only the catalog
// can judge.
func (c catalog) byCatalog(ctx context.Context, conf *config, agents map[string]bool) (passes func(name string) bool, err error) {
	if option, _ := conf.byCatalog(); option == "" {
		return func(string) bool { return true }, nil
	}
	if err := c.checkWhole(ctx, agents); err != nil {
		return nil, err
	}
	matching, healthy := agents, agents
	if conf.expression != "" {
		if matching, err = c.matching(ctx, conf.expression); err != nil {
			return nil, err
		}
	}
	if conf.healthy != "" {
		if healthy, err = c.healthy(ctx, conf.healthy); err != nil {
			return nil, err
		}
	}
	return func(name string) bool {
		_, matches := matching[name]
		_, isHealthy := healthy[name]
		return matches && isHealthy
	}, nil
}

// checkWhole returns an error if the agents can't be all, because none of them
// is a server: at least one server answers. Older Consuls do not say that the
// token hides something, and none does for a request without a token. Everybody
// may know the servers' names.
func (c catalog) checkWhole(ctx context.Context, agents map[string]bool) error {
	var datacenters []api.CoordinateDatacenterMap
	op := consul.Operation{Doing: "list servers", Patience: c.patience}
	err := c.Do(ctx, op, func(ctx context.Context) error {
		_, err := c.API.Raw().Query("/v1/coordinate/datacenters", &datacenters, c.Query(ctx))
		return err
	})
	if errors.Is(err, ErrPermissionDenied) {
		return nil // the agent has disable_coordinates
	}
	if err != nil {
		return err
	}
	servers := false
	for _, dc := range datacenters {
		if c.Datacenter != "" && c.Datacenter != dc.Datacenter {
			continue
		}
		for _, server := range dc.Coordinates {
			if _, known := agents[server.Node]; known {
				return nil
			}
			servers = true
		}
	}
	if !servers {
		return nil
	}
	return c.hidden(listNodes, needNodes)
}

// matching returns the nodes that satisfy an expression in Consul's filter
// language.
func (c catalog) matching(ctx context.Context, expression string) (map[string]bool, error) {
	var nodes []struct{ Node string }
	meta, err := c.list(ctx, listNodes, needNodes, "/v1/catalog/nodes", expression, &nodes)
	if reason, refused := consul.RefusedFilter(err); refused {
		return nil, badValue("WithFilter", expression, fmt.Errorf("is refused by Consul: %s", reason))
	}
	if err == nil && meta.ResultsFilteredByACLs {
		err = c.hidden(listNodes, needNodes)
	}
	if err != nil {
		return nil, err
	}
	found := make(map[string]bool, len(nodes))
	for _, n := range nodes {
		found[n.Node] = true
	}
	return found, nil
}

// healthy returns the nodes that have an instance of the service with this name
// all of whose checks are passing, those of the node included.
func (c catalog) healthy(ctx context.Context, name string) (map[string]bool, error) {
	entries, whole, err := c.instances(ctx, name)
	if err == nil && whole && len(entries) == 0 {
		// If the token shows no service at all, nobody knows. Each datacenter has
		// the service "consul".
		var servers []serviceInstance
		servers, _, err = c.instances(ctx, leaders)
		whole = len(servers) > 0
	}
	if err == nil && !whole {
		err = c.hidden(listServices, fmt.Sprintf("node:read on every node and service:read on %q", name))
	}
	if err != nil {
		return nil, err
	}
	found := make(map[string]bool)
	for _, e := range entries {
		ill := slices.ContainsFunc(e.Checks, func(check struct{ Status string }) bool { return check.Status != api.HealthPassing })
		if e.Service.Service == name && !ill { // Consul finds a name whatever its case
			found[e.Node.Node] = true
		}
	}
	return found, nil
}

// A serviceInstance is a service on a node, with the checks of both.
type serviceInstance struct {
	Node    struct{ Node string }
	Service struct{ Service string }
	Checks  []struct{ Status string }
}

// instances lists the instances of a service, by its name. whole is false if
// Consul says that the token hides some.
func (c catalog) instances(ctx context.Context, name string) (entries []serviceInstance, whole bool, err error) {
	need := fmt.Sprintf("service:read on %q", name)
	meta, err := c.list(ctx, listServices, need, "/v1/health/service/"+name, "", &entries)
	return entries, err == nil && !meta.ResultsFilteredByACLs, err
}

// Targets returns the names of the nodes that a run would use now, in the order
// in which they get the job: that of WithNodes, otherwise by name. With
// WithLimit they are all candidates. It asks Consul's catalog, and runs and
// writes nothing: no session, no key, no event. If Consul can't be asked, it
// goes on trying for five seconds; if Consul refuses the request for now, until
// ctx ends.
//
// If some names of WithNodes can't answer, Targets returns the others and an
// error that has a *NodeError for each. It is ErrNoTargets if no node can
// answer. If nobody knows which nodes will answer (see Result.DiscoveryErr),
// there are no names, and it is ErrDiscoveryOff or ErrPermissionDenied. The
// names of WithNodes are known all the same: with WithoutDiscovery they are
// returned as they are, and beside ErrPermissionDenied too. Consul before 1.11
// does not say that a token hides nodes. Then Targets returns a part, although
// agents match for themselves and the others may run the command.
//
// Targets does not start the run. Any number of goroutines may call it, before,
// beside and after Run.
func (e *Exec) Targets(ctx context.Context) ([]string, error) {
	if ctx == nil {
		return nil, errors.New("consulexec: nil context")
	}
	pool := e.config.connection.Open()
	defer pool.Leave()
	c := catalog{e.newClient(pool, e.config.logger.With("run", e.id)), consul.StartPatience}
	var found targets
	reason := ErrDiscoveryOff
	if !e.config.noDiscovery {
		found, reason = c.targets(ctx, e.config)
	}
	found, err := e.config.expected(found, reason)
	errs := []error{err}
	if err == nil && isUnknown(reason) && (found.names == nil || !e.config.noDiscovery) {
		errs = append(errs, reason)
	}
	for _, a := range found.absent {
		errs = append(errs, &NodeError{Node: a.name, State: StateNoResponse, ExitCode: -1, Err: a.reason})
	}
	if err = errors.Join(errs...); err != nil {
		err = prefixed(err)
	}
	return found.names, err
}

// isUnknown reports whether nobody knows which nodes will answer, because of
// err.
func isUnknown(err error) bool {
	return errors.Is(err, ErrPermissionDenied) || errors.Is(err, ErrDiscoveryOff)
}

// expected returns the nodes to expect, given those that the catalog has, or the
// reason why it could not be asked. If nobody knows any it returns none, and no
// error.
func (c *config) expected(found targets, reason error) (targets, error) {
	switch {
	case isUnknown(reason):
		if err := c.needNodes(reason); err != nil || c.names == nil {
			return targets{}, err
		}
		found.names = slices.DeleteFunc(slices.Clone(c.names), func(name string) bool {
			absent := slices.ContainsFunc(found.absent, func(a absence) bool { return a.name == name })
			return absent || !c.filter.matchNode(name)
		})
	case reason != nil:
		return targets{}, reason
	}
	found = c.withoutLongNames(found)
	if len(found.names) == 0 {
		return targets{absent: found.absent}, c.noTargets("is alive")
	}
	return found, nil
}

// needNodes returns an error if an option can't do without the nodes that are
// not known, for a reason.
func (c *config) needNodes(reason error) error {
	if option, value := c.byCatalog(); option != "" {
		return fmt.Errorf("%s(%q): the nodes are not known: %w", option, value, reason)
	}
	if option, value := c.rolling(); option != "" && c.names == nil {
		return fmt.Errorf("%s(%d): the nodes are not known: %w", option, value, reason)
	}
	return nil
}

// noTargets returns the error of a run that has no node.
func (c *config) noTargets(verb string) error {
	in := (&consul.Client{Datacenter: c.datacenter}).In()
	err := fmt.Errorf("%w %s%s (%s)", ErrNoTargets, verb, in, c.selection())
	if expression(c.filter.service) != "" {
		err = fmt.Errorf("%w; WithService matches IDs, not names: see WithHealthyService", err)
	}
	return err
}

// withoutLongNames makes nodes absent whose names are too long for an event that
// addresses nodes by name. New has checked the names of WithNodes.
func (c *config) withoutLongNames(found targets) targets {
	if !c.byName() {
		return found
	}
	placeholder := &session{id: strings.Repeat("x", sessionIDLength)}
	d := dispatcher{prefix: c.prefix, filter: c.filter, session: placeholder}
	found.names = slices.DeleteFunc(found.names, func(name string) bool {
		if d.fits(longestDispatch, nameFilter([]string{name})) {
			return false
		}
		found.absent = append(found.absent, absence{name, fmt.Errorf("its name has %d bytes, which no event can carry", len(name))})
		return true
	})
	return found
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

// maxServiceLists is how many nodes are asked for their services one by one. The
// list of all nodes has all services and all checks: 15 MB if there are 20,000.
const maxServiceLists = 64

// A nodeServices is a node of the catalog with its services.
type nodeServices struct {
	Node     string
	PeerName string
	Services []nodeService
}

type nodeService struct {
	ID, Service string
	Tags        []string
}

// withService returns those of the nodes that have a service that passes the
// filter. Agents match the services' IDs.
func (c catalog) withService(ctx context.Context, filter nodeFilter, names []string) (map[string]bool, error) {
	nodes, whole, err := c.services(ctx, names)
	if err == nil && !whole {
		err = c.hidden(listServices, needServices)
	}
	if err != nil {
		return nil, err
	}
	found := make(map[string]bool)
	for _, n := range nodes {
		if n.PeerName != "" {
			continue // a node of another cluster
		}
		for _, s := range n.Services {
			if s.Service != leaders && filter.matchService(s.ID, s.Tags) {
				found[n.Node] = true
			}
		}
	}
	return found, nil
}

// services returns nodes with their services: these at least. whole is false if
// the token hides some. Lists by a service's name are no help, as the IDs matter.
func (c catalog) services(ctx context.Context, names []string) (nodes []nodeServices, whole bool, err error) {
	if len(names) <= maxServiceLists && !slices.ContainsFunc(names, func(name string) bool { return !fitsPath(name) }) {
		return c.servicesOfEach(ctx, names)
	}
	// The documented lists have no IDs, or are for one node or service each. So it
	// asks for the list that Consul's own pages show.
	meta, err := c.list(ctx, listServices, needServices, "/v1/internal/ui/nodes", "", &nodes)
	if err != nil || meta.ResultsFilteredByACLs {
		return nil, false, err
	}
	for _, n := range nodes {
		for _, s := range n.Services {
			whole = whole || s.Service == leaders
		}
	}
	return nodes, whole, nil
}

// servicesOfEach is services for some nodes, each by a request of its own.
func (c catalog) servicesOfEach(ctx context.Context, names []string) (nodes []nodeServices, whole bool, err error) {
	// If the token shows no service at all, nobody knows. Each datacenter has the
	// service "consul".
	servers, whole, err := c.instances(ctx, leaders)
	if err != nil || !whole || len(servers) == 0 {
		return nil, false, err
	}
	nodes = make([]nodeServices, len(names))
	hidden := make([]bool, len(names))
	errs := make([]error, len(names))
	var lists sync.WaitGroup
	for i, name := range names {
		lists.Go(func() {
			var meta *api.QueryMeta
			var answer struct{ Services []nodeService }
			meta, errs[i] = c.list(ctx, listServices, needServices, "/v1/catalog/node-services/"+name, "", &answer)
			if errs[i] == nil {
				nodes[i], hidden[i] = nodeServices{Node: name, Services: answer.Services}, meta.ResultsFilteredByACLs
			}
		})
	}
	lists.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, false, err
		}
	}
	return nodes, !slices.Contains(hidden, true), nil
}

// list asks for a list and decodes the parts of it that out has fields for: a
// pointer to a slice or a struct.
func (c catalog) list(ctx context.Context, doing, need, path, filter string, out any) (meta *api.QueryMeta, err error) {
	op := consul.Operation{Doing: doing, Need: need, Patience: c.patience}
	err = c.Do(ctx, op, func(ctx context.Context) (err error) {
		q := c.Query(ctx)
		q.Filter = filter
		meta, err = c.API.Raw().Query(path, out, q)
		if err == nil {
			got := reflect.ValueOf(out).Elem()
			err = consul.CheckAnswer(meta, got.IsZero() || got.Kind() == reflect.Slice && got.Len() == 0)
		}
		return err
	})
	return meta, err
}

// hidden returns the error of a list that the token does not show in full.
func (c catalog) hidden(doing, need string) error {
	return fmt.Errorf("%s%s: %w: needs %s", doing, c.In(), ErrPermissionDenied, need)
}
