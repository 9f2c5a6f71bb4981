package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec/exectest"
)

// connect returns a client of the cluster, and a function that closes what it
// has started. Only -demo starts a cluster.
func connect(ctx context.Context, demo bool) (*api.Client, func(), error) {
	if demo {
		if os.Getenv(api.HTTPAddrEnvName) != "" {
			fmt.Fprintln(os.Stderr, "-demo ignores "+api.HTTPAddrEnvName)
		}
		fmt.Fprintln(os.Stderr, "demo: five embedded nodes; each command runs on this machine, once for each of them")
		srv := exectest.NewServer(exectest.Node("web-1"), exectest.Node("web-2"), exectest.Node("web-3"), exectest.Node("db-1"), exectest.Node("db-2"))
		return srv.Client(), srv.Close, nil
	}
	config := api.DefaultConfig()
	client, err := api.NewClient(config)
	if err != nil {
		return nil, nil, fmt.Errorf("set up the Consul client: %w", err)
	}
	if err := checkConsul(ctx, client); err != nil {
		return nil, nil, fmt.Errorf("no usable Consul agent at %s: %w\n"+
			"set %s to the address of an agent (https://… and %s for its CA, if it has TLS), or try -demo, an embedded cluster on this machine",
			config.Address, err, api.HTTPAddrEnvName, api.HTTPCAFile)
	}
	return client, func() {}, nil
}

// checkConsul returns an error unless an agent answers in time and knows a
// leader.
func checkConsul(ctx context.Context, client *api.Client) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	leader, err := client.Status().LeaderWithQueryOptions((&api.QueryOptions{}).WithContext(ctx))
	if err == nil && leader == "" {
		return errors.New("the agent knows no leader")
	}
	return err
}
