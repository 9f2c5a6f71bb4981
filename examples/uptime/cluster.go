package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec/internal/devcluster"
)

func init() {
	flag.BoolFunc("cluster", "run on a real Consul cluster of three nodes, started on this machine; the first time, this builds Consul", func(value string) error {
		on, err := strconv.ParseBool(value)
		if on {
			ownCluster = startCluster
		}
		return err
	})
}

// startCluster starts a real Consul cluster of three nodes on this machine.
func startCluster(ctx context.Context, out io.Writer) (*api.Client, func(), error) {
	fmt.Fprintln(out, "starting a Consul cluster of three nodes")
	cluster, err := devcluster.New(ctx, devcluster.Config{Nodes: devcluster.Nodes(1, 2)})
	if err != nil {
		return nil, nil, err
	}
	closeCluster := func() {
		if err := cluster.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	return cluster.Client("client-1"), closeCluster, nil
}
