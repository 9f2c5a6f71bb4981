// Consul-exec is a `consul exec` that waits for every node, reports the nodes
// that failed or never answered, and can print JSON. It takes the flags of
// `consul exec` and prints the same text.
//
//	consul-exec [options] [-|command...]
//
//	consul-exec uptime
//	consul-exec -list -service=web -tag=blue
//	consul-exec -service=web -tag=blue 'systemctl reload nginx'
//	consul-exec -shell=false /usr/bin/env -i date
//	consul-exec -format=group - <script.sh
//	consul-exec -nodes='web-[01-20],db-1' -env-file=secrets -stdin-file=dump.sql restore
//	consul-exec -nodes-file=todo -failed-file=todo -concurrency=10% -max-failures=3 -timeout=5m upgrade
//	consul-exec -format=json 'df -P /' | jq -r 'select(.type == "output") | .node + " " + .output'
//
// It talks to the Consul agent at -http-addr, at CONSUL_HTTP_ADDR, or else at
// http://localhost:8500. If no agent answers there, or if the agent knows no
// leader, nothing runs anywhere and the exit status is 1. If the agent is slow,
// or there is an election, the program waits up to 8 seconds and says so.
//
// To try it without Consul, use -demo: a cluster of three nodes embedded in
// this process. Each of them really runs the command, on this machine and as
// you.
//
// # Flags
//
// consul-exec -h lists them by subject. These are the flags of consul exec:
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
// These select nodes, too. A node has to pass all flags that are given:
//
//	-nodes -nodes-file        names of nodes, from an argument or a file; both can be combined and repeated
//	-healthy-service          the name of a service that has a healthy instance on the node
//	-filter                   an expression in Consul's filter language, such as 'Meta.rack == "b"'
//	-limit                    how many of the nodes run the command: the first that take it
//	-list                     print the names of the nodes, one a line, and run nothing; needs no command
//
// These say what the command runs with:
//
//	-shell-path               the shell, whatever $SHELL of the agent says
//	-env -env-file            variables: an argument name=value, or a file with such lines and comment lines, which begin with #; the last one counts
//	-dir -stdin-file          the directory on the node, and the file here that is the command's input
//
// And these, how it runs and what is printed:
//
//	-concurrency              how many nodes may run the command at once: 20, or 10%
//	-max-failures             dispatch to no more nodes after this many have failed, were lost or did not respond
//	-timeout                  end the command on a node after this time
//	-recover time             wait for a node, or Consul, that is out of reach for up to this time
//	-kill                     end the command on the nodes when this program is interrupted
//	-format                   text, json or group; group prints identical outputs once, at the end, up to 1 MiB each
//	-lines                    print whole lines, however the agents cut them; a line over 64 KiB comes in pieces
//	-max-output               how many bytes of its output a node passes on; what it throws away burdens nobody
//	-failed-file              a file for the names of the nodes that have to be done again
//	-blind-ok                 accept that the token may not see all nodes
//	-demo                     run the command on this machine, on three embedded nodes, to try this program
//
// A file named - is standard input, which only one flag can have.
//
// # Whom it touches
//
// Without a flag that selects nodes, the command runs on every node. On a
// terminal, a line says on how many before it does. These are errors: an empty
// value, as in -node="$UNSET" (but not of the flags that say how to reach
// Consul); an empty list of names; a second -node, -service, -tag,
// -healthy-service, -filter, -limit or -datacenter; and a flag of consul-exec
// after the command, unless it comes after --.
//
// Names stand between commas, spaces or lines, and # begins a comment. What this
// program prints can be read back: web-[01-20,22] stands for twenty-one names.
// A name is in quotation marks, as in Go, if it has a space, a comma, a bracket,
// a quotation mark, a # or a character that can't be printed.
//
// The names in -failed-file are those of nodes that failed, were lost, did not
// respond, did not get the job, or still ran the command at the end. With -nodes
// or -nodes-file they are all names given on which the command did not succeed,
// also if another flag left them out. The file is written at the end, whole or
// not at all. An empty one says that nothing is left to do. So if the job failed
// and no node can be named, the file stays as it was.
//
// # Exit status
//
//	0  every node ran the command, and every exit code was 0
//	1  the job failed: wrong flags, no Consul, no permission, no matching node, interrupted
//	2  every node that got the job ran the command, and some exit codes were not 0
//	3  a node was lost, or did not respond and so never ran the command, whatever the others did;
//	   fewer nodes than -limit took the job; or the token may not see all nodes, without -blind-ok
//
// With -list it is 0 if every name can answer, 3 if some can't or the token may
// not see all nodes, and 1 if no name can be printed.
//
// # Text
//
// Standard output is that of consul exec, with two differences: the exit of a
// node comes after its last output, and a character is not cut in two. Standard
// error has what consul exec does not report: nodes that are lost, did not
// respond, or still run the command at the end, and whatever else is known of
// a node that did not succeed.
//
// On a terminal there are colours. A progress line below the output counts the
// nodes that are done, running, failed (these are also done), and lost or
// silent. In a pipe or a file, and with NO_COLOR, there are neither colours nor
// progress.
//
// On a terminal, control characters of a node's output are made visible, as in
// \r and \x1b, so that no node can change what others have printed. Newlines and
// tabs stay. In a pipe or a file the output is as it was.
//
// The first Ctrl-C, SIGTERM or SIGHUP ends the run, removes it from Consul, and
// lists the nodes on which the command still runs, or was killed by -kill. A
// second Ctrl-C or SIGTERM exits at once. Consul then removes the run by itself:
// session and job within 30 seconds, fences within two minutes. Under nohup,
// SIGHUP has no effect.
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
//	output         of output: a piece of stdout and stderr, of any length, cut between two characters, or with -lines two lines
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
//	  truncated      true if -max-output cut its output
//	  recovered      how often it was reached again, with -recover, if it was
//	  acknowledged   when it acknowledged the job, if it did
//	  exited         when it exited, was given up as lost, or was found to be killed, if it was
//	  error          what went wrong on the node, if anything
//
// With -list there is one object. Its type is targets, nodes is an array of the
// names, and time, status and error are as in a summary.
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
		screen.err(inFlags(err).Error())
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
		event.Err = inFlags(event.Err)
		screen.update(func(t *tally) { t.count(event) })
		format.event(event)
	}
	result, err := e.Wait()
	for i, n := range result.Nodes {
		result.Nodes[i].Err = inFlags(n.Err)
	}
	o := outcome{result: result, err: inFlags(err), names: job.names, blindOK: job.blindOK}
	screen.update(func(t *tally) { o.tally = *t })
	if job.failedFile != "" {
		o.err = errors.Join(o.err, o.saveFailed(job.failedFile, screen))
	}
	if o.err != nil {
		screen.err(o.err.Error())
	}
	format.end(o)
	if cause := context.Cause(ctx); cause != nil && o.err == nil {
		screen.err(cause.Error()) // a write failed at the very end
		return 1
	}
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
