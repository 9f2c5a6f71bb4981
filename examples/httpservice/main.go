// Httpservice is a small web service that runs commands on a Consul cluster,
// with a page that shows a run live, node by node:
//
//	POST /runs               starts a run: {"command": "uptime", "node": "^web-", "nodes": ["web-1"]}
//	GET /runs                lists the runs that are under way, and those that ended lately
//	GET /runs/{id}/events    sends the events of a run, as Server-Sent Events
//	DELETE /runs/{id}        ends a run and its command on the nodes, and answers when that is done
//	POST /targets            says on which nodes an order would run, and runs nothing
//	GET /metrics             is for Prometheus
//	GET /                    sends the page
//
// A run is on all nodes only if its order has neither node nor nodes; empty ones
// are an error. So are a name in nodes with a comma or a space, and a field that
// is there twice or spelt in another way.
//
// A POST with an Idempotency-Key can be repeated: the same key with the same
// order answers with the same run, with 410 if that ended too long ago, and with
// another order 422. Keys are remembered for an hour after the run's end, but not
// by the next process.
//
// An event is an object of JSON, as package consulexec encodes its Event: type,
// node, output, exit_code, error. The service adds events of its own: start, cut
// and end. Before the end comes the result of each node that has not exited. A
// Last-Event-ID that is too large counts as that of the latest event.
//
// A run keeps the last MiB of its output. If there is more, the node with the
// most output gives way first. The event cut says how many bytes of a node's
// output were dropped. Of the runs that have ended, the last 32 can be read, for
// ten minutes. More than -max-runs runs at once are refused with status 429.
//
// It talks to the Consul agent at CONSUL_HTTP_ADDR, or else at
// http://localhost:8500. If no agent answers there at the start, or if the
// agent knows no leader, the service exits with status 1. If Consul goes away
// later, a new run is refused with status 503 until Consul is back. Ctrl-C,
// SIGTERM or SIGHUP ends all runs and leaves nothing behind in Consul.
//
// To try it without Consul, use -demo: a cluster of five nodes embedded in this
// process. Each of them really runs the commands, on this machine and as you.
//
// # Who may use it
//
// Whoever can send a request to this service can run any command on every node,
// as the user that runs Consul's agents. By default the service has no
// authentication. So it listens on loopback only, and refuses cross-site requests
// from a browser. Any user of this machine can still use it.
//
// With -users it lets only those in who have a token of that file, and logs who
// ran what. Then it may listen elsewhere, with a certificate and under the names
// of -host. This makes a token, and a line of the file:
//
//	token=$(openssl rand -hex 32)
//	echo "alice $(printf %s "$token" | sha256sum | cut -d' ' -f1)" >>users
//
// Another way to authenticate is another authenticator. Better than to let users
// run any command is a list of commands.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	o, err := parse(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), endSignals()...)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program without waiting for the nodes
	if err := serve(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// endSignals returns the signals that end the service. SIGHUP is ignored under
// nohup.
func endSignals() []os.Signal {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP)
	}
	return signals
}

// serve runs the service until ctx ends.
func serve(ctx context.Context, o options) error {
	set, err := o.settings()
	if err != nil {
		return err
	}
	client, closeCluster, err := connect(ctx, o.demo)
	if err != nil {
		return err
	}
	defer closeCluster()
	certificate, err := o.certificate()
	if err != nil {
		return err
	}
	listener, err := o.listener(set)
	if err != nil {
		return err
	}
	s := newServer(client, set)
	web := &http.Server{Handler: s.handler(), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, TLSConfig: certificate}
	failed := make(chan error, 1)
	if certificate != nil {
		go func() { failed <- web.ServeTLS(listener, "", "") }()
		fmt.Printf("https://%s/\n", listener.Addr())
	} else {
		go func() { failed <- web.Serve(listener) }()
		fmt.Printf("http://%s/\n", listener.Addr())
	}
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
