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

// pollInterval is how long to wait before asking again. A round of questions costs an agent some milliseconds.
const pollInterval = 50 * time.Millisecond

// errPermanent marks what no repetition mends.
type errPermanent struct{ error }

func (e errPermanent) Unwrap() error { return e.error }

// poll repeats f until it returns nil or ctx ends; then the error is f's last.
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
		// The last answer before the context ended says more than the context's own error.
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

// eachAgent repeats f for every agent that is expected to answer, all at once, until each has succeeded. An agent that ends meanwhile, and a
// failure of one agent, end it for all.
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
	// The agent that failed, not those that were given up for it.
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, ctx.Err()) {
		return cause
	}
	return errors.Join(errs...)
}

func (c *Cluster) registerServices(ctx context.Context) error {
	return c.eachAgent(ctx, "register services", func(ctx context.Context, a *agent) error {
		for _, s := range a.node.Services {
			// The token stays with the service: with it the agent keeps the catalog up to date.
			opts := api.ServiceRegisterOpts{Token: a.secret}.WithContext(ctx)
			err := a.client.Agent().ServiceRegisterOpts(&api.AgentServiceRegistration{ID: s.ID, Name: s.Name, Tags: s.Tags}, opts)
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// waitReady waits until all agents that are expected to answer are ready; see New for what that means.
func (c *Cluster) waitReady(ctx context.Context) error {
	return c.eachAgent(ctx, "not ready", c.checkReady)
}

// checkReady returns an error that says what the agent lacks.
func (c *Cluster) checkReady(ctx context.Context, a *agent) error {
	query := new(api.QueryOptions).WithContext(ctx)
	write := new(api.WriteOptions).WithContext(ctx)

	// An event reaches at once only the nodes that the sender's gossip knows. This comes first because an agent that knows no
	// server yet logs every other question as an error.
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

// serfHealth is the id of the check by which the leader keeps what gossip says of a node.
const serfHealth = "serfHealth"

// checkMembers returns an error unless the agent's gossip knows every other agent of its datacenter.
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
			return fmt.Errorf("%s is not known to be alive", other.node.Name)
		}
	}
	return nil
}

// checkCatalog returns an error unless the agent's node is in the catalog, passing, with its services.
func checkCatalog(a *agent, query *api.QueryOptions) error {
	checks, _, err := a.client.Health().Node(a.node.Name, query)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(checks, func(c *api.HealthCheck) bool { return c.CheckID == serfHealth })
	if i < 0 {
		return errors.New("no " + serfHealth + " check of the node")
	}
	if status := checks[i].Status; status != api.HealthPassing {
		return errors.New(serfHealth + " is " + status)
	}
	node, _, err := a.client.Catalog().Node(a.node.Name, query)
	if err != nil {
		return err
	}
	if node == nil {
		return errors.New("no such node")
	}
	for _, s := range a.node.Services {
		if node.Services[s.ID] == nil {
			return fmt.Errorf("no service %q of the node", s.ID)
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
