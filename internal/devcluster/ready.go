package devcluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

// pollInterval is the time between two rounds of checks. A round costs an agent
// some milliseconds.
const pollInterval = 50 * time.Millisecond

// errPermanent marks an error that a retry cannot fix.
type errPermanent struct{ error }

func (e errPermanent) Unwrap() error { return e.error }

// poll calls f until it returns nil or an errPermanent, or until ctx ends. If
// ctx ends, the error wraps the cause of ctx and f's last error.
func poll(ctx context.Context, f func() error) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	var last error
	for {
		err := f()
		if err == nil {
			return nil
		}
		if permanent := (errPermanent{}); errors.As(err, &permanent) {
			return permanent.error
		}
		// An error from before the end of ctx says more than one caused by it.
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), last)
		case <-ticker.C:
		}
	}
}

// eachAgent calls f for every expected agent until it succeeds, for all agents
// at once. The first agent that ends, or for which f fails permanently, stops
// the calls for all.
func (c *Cluster) eachAgent(ctx context.Context, what string, f func(ctx context.Context, a *agent) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	errs := make([]error, len(c.agents))
	for i, a := range c.agents {
		if !a.expected() {
			continue
		}
		wg.Go(func() {
			err := poll(ctx, func() error {
				if err := a.exited(); err != nil {
					return errPermanent{err}
				}
				return f(ctx, a)
			})
			if err != nil {
				errs[i] = fmt.Errorf("%s: node %s: %w", what, a.node.Name, err)
				cancel(errs[i])
			}
		})
	}
	wg.Wait()
	// Return the error of the failed agent, not those of the agents stopped for
	// it.
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, ctx.Err()) {
		return cause
	}
	return errors.Join(errs...)
}

func (c *Cluster) registerServices(ctx context.Context) error {
	return c.eachAgent(ctx, "register services", func(ctx context.Context, a *agent) error {
		for _, s := range a.node.Services {
			// The agent keeps the token with the service and uses it to update
			// the catalog.
			opts := api.ServiceRegisterOpts{Token: a.secret}.WithContext(ctx)
			err := a.client.Agent().ServiceRegisterOpts(&api.AgentServiceRegistration{ID: s.ID, Name: s.Name, Tags: s.Tags}, opts)
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// waitReady waits until all expected agents are ready, as New defines it.
func (c *Cluster) waitReady(ctx context.Context) error {
	return c.eachAgent(ctx, "not ready", c.checkReady)
}

// checkReady returns an error if the agent is not ready. The error says what is
// missing.
func (c *Cluster) checkReady(ctx context.Context, a *agent) error {
	query := new(api.QueryOptions).WithContext(ctx)
	write := new(api.WriteOptions).WithContext(ctx)

	// An event reaches at once only the nodes known to the sender's gossip.
	// This check comes first: until an agent knows a server, it logs an error
	// for every other request.
	if err := c.checkMembers(a, query); err != nil {
		return fmt.Errorf("members: %w", err)
	}
	leader, err := a.client.Status().LeaderWithQueryOptions(query)
	if err != nil {
		return fmt.Errorf("leader: %w", err)
	}
	if leader == "" {
		return errors.New("no leader")
	}
	if err := checkCatalog(a, query); err != nil {
		return fmt.Errorf("catalog: %w", err)
	}

	key := "_devcluster/" + a.node.Name
	if _, err := a.client.KV().Put(&api.KVPair{Key: key}, write); err != nil {
		return fmt.Errorf("write a key: %w", err)
	}
	if _, err := a.client.KV().Delete(key, write); err != nil {
		return fmt.Errorf("delete a key: %w", err)
	}
	session, _, err := a.client.Session().CreateNoChecks(&api.SessionEntry{Checks: []string{serfHealth}, TTL: "10s"}, write)
	if err != nil {
		return fmt.Errorf("create a session: %w", err)
	}
	if _, err := a.client.Session().Destroy(session, write); err != nil {
		return fmt.Errorf("destroy a session: %w", err)
	}
	for _, dc := range c.datacenters() {
		if dc == a.node.Datacenter {
			continue
		}
		remote := new(api.QueryOptions).WithContext(ctx)
		remote.Datacenter = dc
		if _, _, err := a.client.KV().Get(key, remote); err != nil {
			return fmt.Errorf("read a key in %s: %w", dc, err)
		}
	}
	return nil
}

// serfHealth is the ID of the check in which the leader records what gossip
// knows of a node.
const serfHealth = "serfHealth"

// checkMembers returns an error unless the agent's gossip knows every expected
// agent of its datacenter as alive.
func (c *Cluster) checkMembers(a *agent, query *api.QueryOptions) error {
	const alive = 1 // serf.StatusAlive
	var members []api.AgentMember
	if _, err := a.client.Raw().Query("/v1/agent/members", &members, query); err != nil { // api.Agent.Members takes no context
		return err
	}
	known := map[string]bool{}
	for _, m := range members {
		known[m.Name] = m.Status == alive
	}
	for _, other := range c.agents {
		if other.node.Datacenter == a.node.Datacenter && other.expected() && !known[other.node.Name] {
			return fmt.Errorf("%s is not known as alive", other.node.Name)
		}
	}
	return nil
}

// checkCatalog returns an error unless the agent's node is in the catalog with
// its services and what its agent says of itself, and its serfHealth check passes.
func checkCatalog(a *agent, query *api.QueryOptions) error {
	checks, _, err := a.client.Health().Node(a.node.Name, query)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(checks, func(c *api.HealthCheck) bool { return c.CheckID == serfHealth })
	if i < 0 {
		return errors.New("no " + serfHealth + " check for the node")
	}
	if status := checks[i].Status; status != api.HealthPassing {
		return errors.New(serfHealth + " is " + status)
	}
	node, _, err := a.client.Catalog().Node(a.node.Name, query)
	if err != nil {
		return err
	}
	if node == nil {
		return errors.New("the node is missing")
	}
	if len(node.Node.TaggedAddresses) == 0 {
		return errors.New("the agent has not registered its addresses yet") // the leader has put the node there
	}
	for _, s := range a.node.Services {
		if node.Services[s.ID] == nil {
			return fmt.Errorf("service %q is missing", s.ID)
		}
	}
	return nil
}

// datacenters returns the names of the datacenters, the primary one first.
func (c *Cluster) datacenters() []string {
	var names []string
	for _, n := range c.nodes {
		if !slices.Contains(names, n.Datacenter) {
			names = append(names, n.Datacenter)
		}
	}
	return names
}
