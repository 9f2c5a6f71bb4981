// Httpservice is a small web service that runs commands on a Consul cluster, and
// a page that shows a run live, node by node:
//
//	POST /runs               {"command": "uptime", "node": "^web-", "nodes": ["web-1"]}: starts a run
//	GET /runs/{id}/events    what happens in it, as Server-Sent Events
//	DELETE /runs/{id}        ends it, and the command on its nodes; answers when that is done
//	GET /                    the page
//
// It runs on the cluster that CONSUL_HTTP_ADDR names, or else on that of the
// agent at Consul's default address. Where none answers there, it says so and
// runs on five nodes embedded in this process, which really run the commands on
// this machine. Ctrl-C or SIGTERM ends all runs and leaves nothing behind in Consul.
//
// # Who may use it
//
// Whoever gets a request through to this service runs what they like on every node,
// as the user that Consul's agents run as. It has no authentication: so it listens
// on loopback only, and refuses what a web page of somebody else could have a browser send.
// Any user of this machine can still use it. Before it listens elsewhere, it needs to know who
// is asking (mutual TLS, or a proxy that authenticates, and TLS either way), who may run what
// (better some commands to choose from than any), and a log of who ran what.
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
	listen := flag.String("listen", "127.0.0.1:8080", "the loopback `address` to listen on")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // so that a second Ctrl-C does not wait for the nodes
	if err := serve(ctx, *listen); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// serve runs the service until ctx ends.
func serve(ctx context.Context, listen string) error {
	client, closeCluster, err := connect(ctx)
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
		return fmt.Errorf("%s is not a loopback address: elsewhere this service needs authentication first", listen)
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
	s.close() // every stream of events comes to its end with its run
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if web.Shutdown(ctx) != nil {
		web.Close() // those who do not read
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// connect returns a client of the cluster to run on, and what ends it.
func connect(ctx context.Context) (*api.Client, func(), error) {
	config := api.DefaultConfig()
	client, err := api.NewClient(config)
	if err != nil {
		return nil, nil, err
	}
	if os.Getenv(api.HTTPAddrEnvName) != "" || answers(ctx, client) {
		return client, func() {}, nil
	}
	fmt.Printf("no Consul agent at %s and %s is not set: running on five embedded nodes\n", config.Address, api.HTTPAddrEnvName)
	srv := exectest.NewServer(exectest.Node("web-1"), exectest.Node("web-2"), exectest.Node("web-3"), exectest.Node("db-1"), exectest.Node("db-2"))
	return srv.Client(), srv.Close, nil
}

// answers tells whether an agent with a leader answers at once.
func answers(ctx context.Context, client *api.Client) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	leader, err := client.Status().LeaderWithQueryOptions((&api.QueryOptions{}).WithContext(ctx))
	return err == nil && leader != ""
}
