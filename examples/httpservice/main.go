// Httpservice is a small web service that runs commands on a Consul cluster,
// with a page that shows a run live, node by node:
//
//	POST /runs               starts a run: {"command": "uptime", "node": "^web-", "nodes": ["web-1"]}
//	GET /runs/{id}/events    sends the events of a run, as Server-Sent Events
//	DELETE /runs/{id}        ends a run and its command on the nodes, and answers when that is done
//	GET /                    sends the page
//
// An event is an object of JSON, as package consulexec encodes its Event: type,
// node, output, exit_code, error. The service adds events of its own: start, cut
// and end. Before the end comes the result of each node that has not exited.
//
// It talks to the Consul agent at CONSUL_HTTP_ADDR, or else at
// http://localhost:8500. If no agent answers there at the start, or if the
// agent knows no leader, the service exits with status 1. If Consul goes away
// later, a new run is refused with status 503 until Consul is back. Ctrl-C or
// SIGTERM ends all runs and leaves nothing behind in Consul.
//
// To try it without Consul, use -demo: a cluster of five nodes embedded in this
// process. Each of them really runs the commands, on this machine and as you.
//
// # Who may use it
//
// Whoever can send a request to this service can run any command on every node,
// as the user that runs Consul's agents. The service has no authentication. So
// it listens on loopback only, and refuses cross-site requests from a browser.
// Any user of this machine can still use it.
//
// Before you let it listen elsewhere, add authentication (mutual TLS, or a
// proxy that authenticates, behind TLS), authorization (better a list of
// commands than any command), and a log of who ran what.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec/exectest"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "listen on this loopback `address`")
	demo := flag.Bool("demo", false, "run the commands on this machine, on five embedded nodes, to try this service without Consul")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program without waiting for the nodes
	if err := serve(ctx, *listen, *demo); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// serve runs the service until ctx ends.
func serve(ctx context.Context, listen string, demo bool) error {
	client, closeCluster, err := connect(ctx, demo)
	if err != nil {
		return err
	}
	defer closeCluster()
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	if address, ok := listener.Addr().(*net.TCPAddr); !ok || !address.IP.IsLoopback() {
		listener.Close()
		return fmt.Errorf("%s is not a loopback address: this service has no authentication", listen)
	}
	s := newServer(client)
	web := &http.Server{Handler: s.handler(), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	failed := make(chan error, 1)
	go func() { failed <- web.Serve(listener) }()
	fmt.Printf("http://%s/\n", listener.Addr())
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	s.close() // also ends every stream of events
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if web.Shutdown(ctx) != nil {
		web.Close() // cuts off readers that do not read
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

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
		return nil, nil, fmt.Errorf("no usable Consul agent at %s: %w\nset %s to the address of an agent, or try -demo, an embedded cluster on this machine",
			config.Address, err, api.HTTPAddrEnvName)
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
