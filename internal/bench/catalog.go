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
	// reconcileInterval is how often a leader removes nodes from the catalog if
	// they have a serfHealth check but gossip does not know them. Consul has no
	// setting for it.
	reconcileInterval = 60 * time.Second

	// reconcileMargin keeps runs away from the next reconciliation. The
	// interval starts when one ends, and removing thousands of nodes takes a
	// while.
	reconcileMargin = time.Second

	// sentinel is a node whose removal shows a reconciliation. The leader
	// removes nodes in the order of their names, so the sentinel comes last.
	sentinel = "zz-sentinel"
)

// catalog keeps virtual nodes in the server's catalog with a passing serfHealth
// check.
type catalog struct {
	client *api.Client

	mu         sync.Mutex // guards reconciled
	reconciled time.Time  // the last reconciliation, or a time before the first
}

// watch records the leader's reconciliations until ctx ends. It returns only
// with an error.
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

// awaitRoom waits until a run fits before the next reconciliation. If
// the run is longer than the interval, only its beginning fits.
func (c *catalog) awaitRoom(ctx context.Context, run time.Duration) error {
	run = min(run, reconcileInterval-10*reconcileMargin)
	for {
		if remaining := time.Until(c.lastReconciled().Add(reconcileInterval - reconcileMargin)); remaining > run {
			return nil
		}
		if err := sleepUntil(ctx, time.Now().Add(100*time.Millisecond)); err != nil {
			return err
		}
	}
}

// lastReconciled returns the time of the last reconciliation, or a time before
// the first.
func (c *catalog) lastReconciled() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reconciled
}

// registerNodes registers the first n virtual nodes, even if they are already
// registered.
func (c *catalog) registerNodes(ctx context.Context, n int) error {
	const perTxn = maxBatch / 2 // each node takes two operations
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

// register registers nodes, each with a passing serfHealth check.
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
		return errors.New("register nodes: Consul rolled the transaction back without a reason")
	}
	return nil
}
