// Consul-exec is a `consul exec` that waits for every node, reports the nodes
// that failed or never answered, and can print JSON. It takes the flags of
// `consul exec` and prints the same text.
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
// To try it without Consul, use -demo: a cluster of three nodes embedded in
// this process. Each of them really runs the command, on this machine and as
// you.
//
// # Flags
//
// consul-exec -h lists them. These are the flags of consul exec:
//
//	-node -service -tag       regexps that select nodes by name, by service ID, and by a tag of that service
//	-shell=false              run the first argument as a program and pass it the other arguments
//	-wait                     heartbeat interval of a silent command, at least 100ms
//	-wait-repl                pause between writing the job and firing the event; the default 0 is safe
//	-prefix -verbose          folder of the job in the KV store; print each step, ack and heartbeat
//	-http-addr -token -token-file -ca-file -ca-path -client-cert -client-key -tls-server-name
//	                          how to reach Consul; the defaults are the usual CONSUL_* variables
//	-datacenter -stale        the datacenter to run in; -stale is accepted and has no effect
//
// These are additional:
//
//	-format                   text, json or group; group prints identical outputs once, at the end, up to 1 MiB each
//	-nodes -nodes-file        node names, separated by commas or one a line; both can be combined and repeated
//	-concurrency              how many nodes may run the command at once: 20, or 10%
//	-max-failures             dispatch to no more nodes after this many have failed, were lost or did not respond
//	-timeout                  end the command on a node after this time
//	-recover time             wait for a node, or Consul, that is out of reach for up to this time
//	-kill                     end the command on the nodes when this program is interrupted
//	-demo                     run the command on this machine, on three embedded nodes, to try this program
//
// # Exit status
//
//	0  every node ran the command, and every exit code was 0; if the token may not read all nodes, every one that answered did
//	1  the job failed: wrong flags, no Consul, no permission, no matching node, interrupted
//	2  every node that got the job ran the command, and some exit codes were not 0
//	3  a node was lost, or did not respond and so never ran the command, whatever the others did
//
// # Text
//
// Standard output is that of consul exec, with one difference: the exit of a
// node comes after its last output. Standard error has what consul exec does
// not report: nodes that are lost, did not respond, or still run the command at
// the end.
//
// On a terminal there are colours. A progress line below the output counts the
// nodes that are done, running, failed (these are also done), and lost or
// silent. In a pipe or a file, and with NO_COLOR, there are neither colours nor
// progress.
//
// The first Ctrl-C or SIGTERM ends the run, removes it from Consul, and lists
// the nodes on which the command still runs, or was killed by -kill. The second
// one exits at once. Consul then removes the run by itself: session and job
// within 30 seconds, fences within two minutes.
//
// # JSON
//
// With -format=json, standard output has one object a line: one for each event,
// as it happens, and a summary at the end. Events and nodes are those of package
// consulexec, which encodes them. Later versions may add fields, but
// neither remove nor change these. Times are RFC 3339, in UTC.
//
//	type           submit, ack, output, heartbeat, exit, lost or no_response
//	time           when this program learned of the event
//	node           the name of the node; absent from submit
//	output         of output: a piece of stdout and stderr, of any length, cut between two characters
//	output_base64  of output: replaces the field output if the piece is not UTF-8
//	exit_code      of exit: -1 if a signal ended the command, 255 if the command could not be started
//	error          of lost, no_response, and exit with another status than 0: the node and the reason
//
// Every run that was begun has a summary, however it ended:
//
//	type             summary
//	time             when the run ended
//	status           the exit status of this program
//	error            why the job failed, if it did
//	discovery_error  why the expected nodes are unknown, if they are
//	session          the ID of the session in Consul, if there was one
//	datacenter       the value of -datacenter, if given
//	seconds          how long the run took
//	acknowledged     how many nodes acknowledged the job
//	completed        how many nodes exited
//	nodes            an array of objects, sorted by node:
//	  node           the name of the node
//	  state          exited, running, killed (by -kill), lost, no_response, or skipped (never got the job)
//	  exit_code      the exit code, if it exited
//	  timed_out      true if -timeout had to end the command
//	  output_bytes   the length of its output
//	  recovered      how often it was reached again, with -recover, if it was
//	  acknowledged   when it acknowledged the job, if it did
//	  exited         when it exited, was given up as lost, or was found to be killed, if it was
//	  error          what went wrong on the node, if anything
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"hash"
	"log/slog"
	"os"

	"github.com/consulexec/consulexec"
)

func main() {
	job, err := parse(os.Args[1:], os.Stdin)
	switch {
	case errors.Is(err, flag.ErrHelp):
		help(os.Stdout)
		return
	case err != nil:
		fmt.Fprintf(os.Stderr, "%v\n\n%s\n\n  -h lists the options\n", err, usage)
		os.Exit(1)
	}
	os.Exit(run(job))
}

// run runs the job and returns the exit status of the program.
func run(job *job) int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	screen := newScreen(!job.list, cancel)
	defer screen.close()
	defer interruptible(cancel, screen)()

	cluster, closeCluster, err := connect(ctx, job, screen)
	if err != nil {
		screen.err(err.Error())
		return 1
	}
	defer closeCluster()

	log := &steps{screen: screen, json: job.format == "json"}
	job.options = append(job.options, consulexec.WithConfig(cluster))
	if job.verbose {
		job.options = append(job.options, consulexec.WithLogger(slog.New(log)))
	}
	if job.format == "group" {
		job.options = append(job.options, consulexec.WithCapture(maxGrouped))
	}
	e, err := consulexec.New(job.command, job.options...)
	if err != nil {
		screen.err(err.Error())
		return 1
	}
	if job.list {
		return list(ctx, e, job, screen)
	}
	log.run = e.ID()
	return report(ctx, e, job, screen)
}

// report runs the job and prints what happens. It returns the exit status of
// the program.
func report(ctx context.Context, e *consulexec.Exec, job *job, screen *screen) int {
	format := newFormat(job, screen)
	for event, err := range e.Events(ctx) {
		if err != nil {
			break // Wait returns it, too
		}
		if event.Type == consulexec.EventTargets && !job.selects && screen.watched {
			screen.err(everywhere(event.Nodes))
		}
		screen.update(func(t *tally) { t.count(event) })
		format.event(event)
	}
	result, err := e.Wait()
	o := outcome{result: result, err: err, blindOK: job.blindOK}
	screen.update(func(t *tally) { o.tally = *t })
	if job.failedFile != "" {
		o.err = errors.Join(o.err, o.saveFailed(job.failedFile, screen))
	}
	if o.err != nil {
		screen.err(o.err.Error())
	}
	format.end(o)
	return o.status()
}

func newFormat(job *job, screen *screen) format {
	switch job.format {
	case "json":
		return jsonFormat{screen, newHold(job.lines)}
	case "group":
		return groupFormat{screen, make(map[string]hash.Hash)}
	}
	return textFormat{screen, job.verbose, newHold(job.lines)}
}

// everywhere says on how many nodes a job runs that selects none.
func everywhere(nodes []string) string {
	if nodes == nil {
		return "no selection: running on every node; the token may not see how many"
	}
	return fmt.Sprintf("no selection: running on every node (%d)", len(nodes))
}
