package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

const (
	// reconcileInterval is how often a leader takes nodes out of the catalog
	// whose serfHealth says that they have an agent, and that gossip does not
	// know. Consul has no setting for it.
	reconcileInterval = 60 * time.Second

	// reconcileMargin keeps a run clear of it: the interval counts from the end
	// of one round, which takes a while with thousands of nodes to remove.
	reconcileMargin = time.Second

	// sentinel is a node that is there to be taken out. The leader goes by name,
	// so that this one is the last.
	sentinel = "zz-sentinel"
)

// catalog keeps virtual nodes in the server's catalog, as alive as the others.
type catalog struct {
	client *api.Client

	mu         sync.Mutex // guards the below
	reconciled time.Time  // when the leader last did, or at first a time before
}

// watch learns when the leader reconciles, until ctx ends.
func (c *catalog) watch(ctx context.Context) error {
	for {
		if err := c.register(ctx, sentinel); err != nil {
			return err
		}
		for index := uint64(0); ; {
			q := (&api.QueryOptions{WaitIndex: index, WaitTime: reconcileInterval}).WithContext(ctx)
			node, meta, err := c.client.Catalog().Node(sentinel, q)
			if err != nil {
				return fmt.Errorf("watch for the catalog's reconciliation: %w", err)
			}
			if node == nil {
				break
			}
			index = meta.LastIndex
		}
		c.mu.Lock()
		c.reconciled = time.Now()
		c.mu.Unlock()
	}
}

// quiet waits until there is time for a run before the leader reconciles. Of a
// run that is too long for that it sees only to the beginning.
func (c *catalog) quiet(ctx context.Context, run time.Duration) error {
	run = min(run, reconcileInterval-10*reconcileMargin)
	for {
		c.mu.Lock()
		left := time.Until(c.reconciled.Add(reconcileInterval - reconcileMargin))
		c.mu.Unlock()
		if left > run {
			return nil
		}
		if err := sleepUntil(ctx, time.Now().Add(100*time.Millisecond)); err != nil {
			return err
		}
	}
}

// registerNodes puts the first n virtual nodes into the catalog, or back there.
func (c *catalog) registerNodes(ctx context.Context, n int) error {
	const perTxn = maxBatch / 2 // each node is two operations
	for first := 0; first < n; first += perTxn {
		var names []string
		for i := first; i < min(first+perTxn, n); i++ {
			names = append(names, nodeName(i))
		}
		if err := c.register(ctx, names...); err != nil {
			return err
		}
	}
	return nil
}

// register puts nodes into the catalog, each with the check that agents judge
// one another by, passing.
func (c *catalog) register(ctx context.Context, names ...string) error {
	var ops api.TxnOps
	for _, name := range names {
		node := api.Node{Node: name, Address: "127.0.0.1"}
		check := api.HealthCheck{Node: name, CheckID: "serfHealth", Name: "Serf Health Status", Status: api.HealthPassing}
		ops = append(ops,
			&api.TxnOp{Node: &api.NodeTxnOp{Verb: api.NodeSet, Node: node}},
			&api.TxnOp{Check: &api.CheckTxnOp{Verb: api.CheckSet, Check: check}})
	}
	ok, response, _, err := c.client.Txn().Txn(ops, (&api.QueryOptions{}).WithContext(ctx))
	switch {
	case err != nil:
		return fmt.Errorf("register nodes: %w", err)
	case !ok && len(response.Errors) > 0:
		return fmt.Errorf("register nodes: %s", response.Errors[0].What)
	case !ok:
		return errors.New("register nodes: transaction rolled back without a reason")
	}
	return nil
}
