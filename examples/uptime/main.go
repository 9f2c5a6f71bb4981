// Uptime runs `uptime` on every node of a Consul cluster. It prints each event
// of each node as it happens.
//
// It talks to the Consul agent at CONSUL_HTTP_ADDR, or else at
// http://localhost:8500. If CONSUL_HTTP_ADDR is not set and nothing listens at
// the default address, it says so and runs `uptime` on this machine, on three
// nodes embedded in this process. An agent that is slow or knows no leader is
// an error. Ctrl-C and SIGTERM end the run and leave nothing behind in Consul.
//
// This file needs no other: copy it. The flag -cluster is in cluster.go.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
)

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run connects to a cluster and runs uptime there.
func run(ctx context.Context) error {
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q: this program runs uptime on every node", flag.Arg(0))
	}
	client, closeCluster, err := connect(ctx)
	if err != nil {
		return err
	}
	defer closeCluster()
	return uptime(ctx, client)
}

// uptime runs the command on every node and prints the events.
func uptime(ctx context.Context, client *api.Client) error {
	e, err := consulexec.New("uptime",
		consulexec.WithClient(client),
		consulexec.OnSubmit(func() { fmt.Println("submitted") }),
		consulexec.OnAck(func(node string) { fmt.Printf("%s: ack\n", node) }),
		consulexec.OnOutput(func(node string, output []byte) { fmt.Printf("%s: output: %s", node, output) }),
		consulexec.OnExit(func(node string, code int) { fmt.Printf("%s: exit %d\n", node, code) }),
		consulexec.OnLost(func(_ string, err error) { fmt.Println(err) }),
		consulexec.OnNoResponse(func(node string) { fmt.Printf("%s: no response\n", node) }),
		consulexec.OnDone(func() { fmt.Println("done") }),
	)
	if err != nil {
		return err
	}
	result, _ := e.Run(ctx)
	return result.Err() // which has the error of Run, too
}

// ownCluster starts a cluster for the flag -cluster. It is nil without that
// flag.
var ownCluster func(ctx context.Context) (client *api.Client, closeCluster func(), err error)

// connect returns a client of the cluster, and a function that closes what
// connect has started.
func connect(ctx context.Context) (*api.Client, func(), error) {
	if ownCluster != nil {
		return ownCluster(ctx)
	}
	config := api.DefaultConfig()
	client, err := api.NewClient(config)
	if err != nil {
		return nil, nil, err
	}
	if os.Getenv(api.HTTPAddrEnvName) != "" || listens(config.Address) {
		return client, func() {}, nil
	}
	fmt.Printf("no Consul agent at %s, and %s is not set: running on three embedded nodes, on this machine\n", config.Address, api.HTTPAddrEnvName)
	srv := exectest.NewServer(exectest.Node("web-1"), exectest.Node("web-2"), exectest.Node("web-3"))
	return srv.Client(), srv.Close, nil
}

// listens reports whether something listens at the address, however slow it is.
func listens(address string) bool {
	conn, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		var slow net.Error
		return errors.As(err, &slow) && slow.Timeout()
	}
	conn.Close()
	return true
}
