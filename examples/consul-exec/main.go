// Consul-exec is `consul exec` that waits for every node, tells which of them did
// not do what they were told, and has its output for programs too. It takes the
// flags of `consul exec` and prints the same text.
//
//	consul-exec [options] [-|command...]
//
//	consul-exec uptime
//	consul-exec -service=web -tag=blue 'systemctl reload nginx'
//	consul-exec -shell=false /usr/bin/env -i date
//	consul-exec -format=group - <script.sh
//	consul-exec -nodes-file=hosts -concurrency=10% -max-failures=3 -timeout=5m upgrade
//	consul-exec -format=json 'df -P /' | jq -r 'select(.type == "output") | .node + " " + .output'
//
// It talks to the Consul agent at -http-addr, at CONSUL_HTTP_ADDR, or else at
// http://localhost:8500. If no agent answers there, or if the agent knows no
// leader, nothing runs anywhere and the exit status is 1.
//
// To try it without Consul, use -demo: a cluster of three nodes embedded in this
// process. Each of them really runs the command, on this machine and as you.
//
// # Flags
//
// consul-exec -h lists them. Those of consul exec:
//
//	-node -service -tag       regexps that choose the nodes, by name, service ID and tag of that service
//	-shell=false              run the first argument as a program, with the others as its arguments
//	-wait                     interval of the heartbeats of a silent command, at least 100ms
//	-wait-repl                pause between writing the job and telling the nodes; 0, as none is needed
//	-prefix -verbose          folder of the job in the KV store; tell of each step, ack and heartbeat
//	-http-addr -token -token-file -ca-file -ca-path -client-cert -client-key -tls-server-name
//	                          how to reach Consul; without them, the variables CONSUL_* of all its tools
//	-datacenter -stale        where to run; -stale is accepted, but nothing stale is read
//
// And those beyond:
//
//	-format                   text, json or group: identical outputs folded, after the end, up to 1 MiB of each
//	-nodes -nodes-file        names of nodes: separated by commas, and one a line; may be given together, and again
//	-concurrency              how many nodes may run the command at once: 20, or 10%
//	-max-failures             tell no further node once that many have failed, were lost or silent
//	-timeout                  end the command on nodes where it still runs after that time
//	-kill                     end the command on the nodes when interrupted
//	-demo                     run the command on this machine, on three embedded nodes, to try this program
//
// # Exit status
//
//	0  every node has run the command, with status 0
//	1  the job failed: wrong flags, no Consul, no permission, no node, interrupted
//	2  every node that was told has run the command, with another status than 0 on some
//	3  a node was lost, or silent: it never took the job; whatever the others did
//
// # Text
//
// Standard output is that of consul exec, but for the order of the lines of
// different nodes: a node's exit comes after its last output. What consul exec does
// not tell, such as nodes that are lost, silent, or still running at the end, is on
// standard error.
//
// On a terminal there are colours, and a line below the output that shows how many
// nodes are done (and of these, failed), running, and lost or silent. In a pipe or
// a file, and with NO_COLOR, there is neither.
//
// The first Ctrl-C, or SIGTERM, ends the run, removes it from Consul, and tells
// where the command still runs, or with -kill, was ended. The second one leaves at
// once; Consul then removes the run by itself, within 30 seconds.
//
// # JSON
//
// With -format=json, standard output has one object per line: one for each event,
// as it happens, and at last a summary. Fields may be added to them; those here
// stay. Times are RFC 3339, in UTC.
//
//	type           submit, ack, output, heartbeat, exit, lost or no_response
//	time           when this program learned of it
//	node           the node's name; not in submit
//	output         in output: a piece of stdout and stderr, of any length, cut anywhere between two characters
//	output_base64  in output, instead: a piece that is not UTF-8
//	exit_code      in exit; -1 where a signal ended the command, 255 where it could not be started
//	error          in lost: why
//
// The summary comes whenever a run was begun, however it ended:
//
//	type             summary
//	time             when the run had ended
//	status           the exit status of this program
//	error            why the job failed, if it did
//	discovery_error  why it is not known which nodes should have answered, if it is not
//	session          the ID of the session in Consul, if there was one
//	datacenter       what -datacenter says, if anything
//	seconds          how long the run took
//	acknowledged     how many nodes took the job
//	completed        how many nodes exited
//	nodes            an array of objects, sorted by node:
//	  node           the node's name
//	  state          exited, running, killed (by -kill), lost, no_response, or skipped (never told)
//	  exit_code      where it exited
//	  output_bytes   the length of its output
//	  acknowledged   when it took the job, if it did
//	  exited         when it exited, if it did
//	  error          what was wrong with it, if anything
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
)

// connectTimeout is how long the agent may take to answer and to know a leader.
// Consul usually elects a new leader in less time.
const connectTimeout = 8 * time.Second

const usage = "Usage: consul-exec [options] [-|command...]"

func main() {
	job, flags, err := parse(os.Args[1:], os.Stdin)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Println(usage)
		flags.SetOutput(os.Stdout)
		flags.PrintDefaults()
		return
	case err != nil:
		fmt.Fprintf(os.Stderr, "%v\n\n%s\n\n  -h lists the options\n", err, usage)
		os.Exit(1)
	}
	os.Exit(run(job))
}

// run runs the job and returns the exit status.
func run(job *job) int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	screen := newScreen(cancel)
	defer screen.close()
	defer interruptible(cancel, screen)()

	cluster, closeCluster, err := connect(ctx, job, screen)
	if err != nil {
		screen.err(err.Error())
		return 1
	}
	defer closeCluster()

	var format format
	switch job.format {
	case "json":
		format = jsonFormat{screen, make(map[string][]byte)}
	case "group":
		format = groupFormat{screen}
		job.options = append(job.options, consulexec.WithCapture(maxGrouped))
	default:
		format = textFormat{screen, job.verbose}
	}
	log := &steps{screen: screen, verbose: job.verbose, json: job.format == "json"}
	e, err := consulexec.New(job.command, append(job.options, consulexec.WithConfig(cluster), consulexec.WithLogger(slog.New(log)))...)
	if err != nil {
		screen.err(err.Error())
		return 1
	}
	log.run = e.ID()
	for event, err := range e.Events(ctx) {
		if err == nil { // Wait returns it as well
			screen.update(func(t *tally) { t.take(event) })
			format.event(event)
		}
	}
	result, err := e.Wait()
	if err != nil {
		screen.err(err.Error())
	}
	o := outcome{result: result, err: err}
	screen.update(func(t *tally) { o.tally = *t })
	format.end(o)
	return o.status()
}

// interruptible has the first Ctrl-C or SIGTERM end the run, and the second one the
// program, until it is told to stop. A reader of the output that goes away ends
// the run too, by the error of the write.
func interruptible(cancel context.CancelCauseFunc, screen *screen) (stop func()) {
	signal.Ignore(syscall.SIGPIPE)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	stopped := make(chan struct{})
	var tasks sync.WaitGroup
	tasks.Go(func() {
		select {
		case s := <-signals:
			cancel(fmt.Errorf("%v", s))
		case <-stopped:
			return
		}
		tasks.Go(func() { screen.err("ending the run; again to leave at once") }) // where a write is stuck, this is too
		select {
		case <-signals:
			screen.abandon()
			os.Exit(1)
		case <-stopped:
		}
	})
	return func() {
		signal.Stop(signals)
		close(stopped)
		tasks.Wait()
	}
}

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
// waits for an election that is under way.
func checkConsul(ctx context.Context, client *api.Client) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	for {
		leader, err := client.Status().LeaderWithQueryOptions((&api.QueryOptions{}).WithContext(ctx))
		if err != nil || leader != "" {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.New("the agent knows no leader")
		case <-time.After(500 * time.Millisecond):
		}
	}
}
