package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec/exectest"
)

const (
	// connectTimeout is how long the agent may take to answer and to know a
	// leader. Consul usually elects a new leader in less time.
	connectTimeout = 8 * time.Second

	// sayWaiting is how long the program waits before it says what for.
	sayWaiting = 2 * time.Second
)

// connect returns how to reach the cluster, and a function that closes what it
// has started. Only -demo starts a cluster.
func connect(ctx context.Context, job *job, screen *screen) (*api.Config, func(), error) {
	if job.demo {
		if os.Getenv(api.HTTPAddrEnvName) != "" {
			screen.err("-demo ignores " + api.HTTPAddrEnvName)
		}
		screen.err("demo: three embedded nodes; the command runs on this machine, once for each of them")
		srv := exectest.NewServer(exectest.Node("web-1"), exectest.Node("web-2"), exectest.Node("web-3"))
		return srv.Config(), srv.Close, nil
	}
	config := *job.consul // api.NewClient fills in its argument
	client, err := api.NewClient(&config)
	if err != nil {
		return nil, nil, fmt.Errorf("set up the Consul client: %w", err)
	}
	waiting := time.AfterFunc(sayWaiting, func() {
		screen.err(fmt.Sprintf("waiting up to %v for the Consul agent at %s to answer and to know a leader", connectTimeout, config.Address))
	})
	defer waiting.Stop()
	if err := checkConsul(ctx, client); ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	} else if err != nil {
		return nil, nil, fmt.Errorf("no usable Consul agent at %s: %w\n"+
			"nothing ran: set -http-addr or %s to the address of an agent, or try -demo, which runs the command on this machine",
			config.Address, err, api.HTTPAddrEnvName)
	}
	return job.consul, func() {}, nil
}

// checkConsul returns an error unless an agent answers and knows a leader. It
// waits while Consul answers that it can't serve now, and for an election that
// is under way.
func checkConsul(ctx context.Context, client *api.Client) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	for {
		leader, err := client.Status().LeaderWithQueryOptions((&api.QueryOptions{}).WithContext(ctx))
		var status api.StatusError
		faltering := errors.As(err, &status) && (status.Code >= 500 || status.Code == http.StatusTooManyRequests)
		if err != nil && !faltering || leader != "" {
			return err
		}
		if err == nil {
			err = errors.New("the agent knows no leader")
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(500 * time.Millisecond):
		}
	}
}
