// Rolling restarts a service on the nodes of a Consul cluster, batch by batch.
// After each batch it waits until Consul reports the service as healthy again.
// It stops at the first failure:
//
//	rolling -service web -command 'systemctl restart web' -percent 10
//
// It talks to the Consul agent at CONSUL_HTTP_ADDR, or else at
// http://localhost:8500. If no agent answers there, or if the agent knows no
// leader, nothing runs anywhere and the exit status is 1. Ctrl-C, SIGTERM and
// SIGHUP end the roll-out, and so does an output that nobody reads any more. It
// then says which nodes were not touched, and leaves nothing behind in Consul.
//
// To try it without Consul, use -demo: a cluster of twenty nodes embedded in
// this process. Each node has a service web that stops and starts. The embedded
// nodes run any other command on this machine, as you.
//
// If the command itself waits until its service is healthy, and fails if the
// service does not come up, a single run with
// consulexec.WithConcurrencyPercent(10) and consulexec.WithMaxFailures(1) is
// enough. It is also faster, as it does not wait for the slowest node of each
// batch.
//
// This file needs no other: copy it. The flags -demo and -cluster are in
// cluster.go.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
)

// pollInterval is how often the program asks Consul for the service's health.
const pollInterval = 500 * time.Millisecond

func main() {
	ctx, cancel := context.WithCancelCause(context.Background())
	ctx, stop := signal.NotifyContext(ctx, endSignals()...)
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) // a failed write returns an error, and commands of -demo don't ignore the signal
	r := rollout{out: output{os.Stdout, cancel}, percent: []int{10}}
	flag.StringVar(&r.service, "service", "web", "the `name` of the service in Consul")
	flag.StringVar(&r.command, "command", "", "the shell `command` that restarts the service on a node")
	flag.Func("percent", "restart this `percentage` of the nodes at a time; 10,40,50 are the percentages of the first batches, and the last one is repeated (default 10)", r.setPercent)
	flag.DurationVar(&r.settle, "settle", 0, "how long the service must stay healthy before the next batch; must exceed the interval plus the timeout of its health check, as Consul may still have a result from before the restart (default 15s)")
	flag.DurationVar(&r.timeout, "timeout", 2*time.Minute, "time limit for the command, and again for the service to become healthy and stay so for -settle")
	flag.Parse()
	err := r.checkFlags(flag.Args())
	if err == nil {
		err = connectAndRun(ctx, &r)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// endSignals returns the signals that end the roll-out. SIGHUP is ignored under
// nohup.
func endSignals() []os.Signal {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP)
	}
	return signals
}

// An output is standard output. If nobody reads it any more, it ends the
// roll-out.
type output struct {
	*os.File
	end context.CancelCauseFunc
}

func (o output) Write(p []byte) (int, error) {
	n, err := o.File.Write(p)
	if err != nil {
		o.end(err)
	}
	return n, err
}

func connectAndRun(ctx context.Context, r *rollout) error {
	closeCluster, err := r.connect(ctx)
	if err != nil {
		return err
	}
	defer closeCluster()
	return r.run(ctx)
}

// A rollout says what to restart, and how.
type rollout struct {
	client  *api.Client
	out     io.Writer
	service string
	command string
	percent []int // of the nodes, for each batch; the last one is repeated
	settle  time.Duration
	timeout time.Duration
}

func (r *rollout) setPercent(list string) error {
	r.percent = nil
	for item := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(item)
		if err != nil || n < 1 || n > 100 {
			return fmt.Errorf("%q is not from 1 to 100", item)
		}
		r.percent = append(r.percent, n)
	}
	return nil
}

// checkFlags checks the flags. The words after them should be none: without
// quotation marks, -command takes only the first word of the command.
func (r *rollout) checkFlags(rest []string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("%q is no flag: a command of several words needs quotation marks, as in -command 'systemctl restart web'", rest[0])
	case r.service == "":
		return errors.New("-service is empty")
	}
	return nil
}

// run restarts the service on all its nodes. If it stops early, the error names
// the nodes that were not touched.
func (r *rollout) run(ctx context.Context) error {
	r.settle = cmp.Or(r.settle, 15*time.Second)
	if r.command == "" {
		return errors.New("-command is missing: it restarts the service, such as -command 'systemctl restart web'")
	}
	if r.settle < 0 || r.settle >= r.timeout {
		return fmt.Errorf("-settle %v is not between 0 and -timeout %v", r.settle, r.timeout)
	}
	nodes, err := r.nodes(ctx)
	if err != nil {
		return err
	}
	batches := r.batches(nodes)
	fmt.Fprintf(r.out, "%s is healthy on %d nodes; restarting it in %d batches\n", r.service, len(nodes), len(batches))
	for i, batch := range batches {
		fmt.Fprintf(r.out, "batch %d: %s\n", i+1, strings.Join(batch, " "))
		began := time.Now()
		untouched, err := r.restart(ctx, batch)
		if err == nil {
			err = r.waitHealthy(ctx, nodes)
		}
		if err != nil {
			untouched = append(untouched, slices.Concat(batches[i+1:]...)...)
			return fmt.Errorf("stopped at batch %d of %d (%s): %w\nnot touched: %s",
				i+1, len(batches), strings.Join(batch, " "), err, cmp.Or(strings.Join(untouched, " "), "none, this batch was the last"))
		}
		fmt.Fprintf(r.out, "batch %d: healthy, %.1f s after it began\n", i+1, time.Since(began).Seconds())
	}
	return nil
}

// nodes returns the names of the nodes that have the service. It is an error if
// one of them is unhealthy: a restart would take down more nodes than -percent
// allows.
func (r *rollout) nodes(ctx context.Context) ([]string, error) {
	status, err := r.status(ctx)
	if err != nil {
		return nil, err
	}
	if len(status) == 0 {
		return nil, fmt.Errorf("no node has a service %q", r.service)
	}
	nodes := slices.Sorted(maps.Keys(status))
	if unhealthy := r.unhealthy(status, nodes); unhealthy != nil {
		return nil, fmt.Errorf("nothing was done: %w", unhealthy)
	}
	return nodes, nil
}

// batches divides the nodes into batches. It rounds down the size of a batch,
// but to no less than one node.
func (r *rollout) batches(nodes []string) [][]string {
	var batches [][]string
	for rest := nodes; len(rest) > 0; {
		percent := r.percent[min(len(batches), len(r.percent)-1)]
		size := min(max(len(nodes)*percent/100, 1), len(rest))
		batches = append(batches, rest[:size])
		rest = rest[size:]
	}
	return batches
}

// restart runs the command on the nodes. It returns an error if a node does not
// respond, is lost, or exits with another status than 0, and the nodes that
// never got the command, as the run ended before.
//
// Ctrl-C does not kill the commands, as WithKillOnCancel would: a service whose
// restart is cut short may stay down.
func (r *rollout) restart(ctx context.Context, nodes []string) (untouched []string, err error) {
	e, err := consulexec.New(r.command,
		consulexec.WithClient(r.client),
		consulexec.WithNodes(nodes...),
		consulexec.WithTimeout(r.timeout),
		consulexec.WithRecovery(r.timeout), // the command may restart Consul itself
		consulexec.OnLine(func(node, line string) { fmt.Fprintf(r.out, "  %s: %s\n", node, printable(line)) }),
		consulexec.OnExit(func(node string, code int) { fmt.Fprintf(r.out, "  %s: exit %d\n", node, code) }),
	)
	if err != nil {
		return nodes, err
	}
	result, _ := e.Run(ctx)
	for _, name := range nodes {
		if n, known := result.Node(name); !known || n.State == consulexec.StateSkipped {
			untouched = append(untouched, name)
		}
	}
	return untouched, result.Err() // which has the error of Run, too
}

// waitHealthy waits until the service has been healthy for the time of settle,
// on all its nodes. A node of an earlier batch may have come up and failed
// again.
func (r *rollout) waitHealthy(ctx context.Context, nodes []string) error {
	deadline := time.Now().Add(r.timeout)
	var healthySince time.Time
	waiting := ""
	for {
		status, err := r.status(ctx)
		if err == nil {
			err = r.unhealthy(status, nodes)
		}
		if err != nil && err.Error() != waiting {
			waiting = err.Error()
			fmt.Fprintln(r.out, "  waiting:", waiting)
		}
		now := time.Now()
		switch {
		case err != nil: // the service is unhealthy, or Consul can't say so, as during an election
			healthySince = time.Time{}
		case healthySince.IsZero():
			healthySince = now
		case now.Sub(healthySince) >= r.settle:
			return nil
		}
		if !now.Before(deadline) {
			return fmt.Errorf("after %v: %w", r.timeout, cmp.Or(err, errors.New("healthy, but not for long enough")))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s to be healthy: %w", r.service, context.Cause(ctx))
		case <-time.After(pollInterval):
		}
	}
}

// status asks Consul for the service's health. For each node it returns what is
// wrong there, or an empty string.
func (r *rollout) status(ctx context.Context) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	instances, _, err := r.client.Health().Service(r.service, "", false, (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("ask Consul for the health of %s: %w", r.service, err)
	}
	status := map[string]string{}
	for _, instance := range instances {
		status[instance.Node.Node] += problem(instance)
	}
	return status, nil
}

// problem returns what is wrong with an instance of the service, or an empty
// string. An instance without a check of its own is a problem: Consul calls it
// healthy as long as its node is, whatever the service does.
func problem(instance *api.ServiceEntry) string {
	checked := false
	for _, check := range instance.Checks {
		if check.Status != api.HealthPassing {
			output, _, _ := strings.Cut(strings.TrimSpace(check.Output), "\n")
			return fmt.Sprintf(" %s is %s (%s)", check.Name, check.Status, printable(output))
		}
		checked = checked || check.ServiceID == instance.Service.ID
	}
	if !checked {
		return fmt.Sprintf(" %s has no health check", instance.Service.ID)
	}
	return ""
}

// unhealthy returns an error that names the nodes with a problem, and those
// from which the service has gone. It returns nil if there are none.
func (r *rollout) unhealthy(status map[string]string, nodes []string) error {
	var problems []string
	for _, node := range nodes {
		problem, found := status[node]
		if !found {
			problem = " the service is not in Consul"
		}
		if problem != "" {
			problems = append(problems, node+":"+problem)
		}
	}
	if problems == nil {
		return nil
	}
	return fmt.Errorf("%s is not healthy: %s", r.service, strings.Join(problems, "; "))
}

// startDemo starts a cluster on this machine and points r to it, if a flag asks
// for one. Otherwise closeCluster is nil. In a copy of this file, startDemo is
// nil.
var startDemo func(ctx context.Context, r *rollout) (closeCluster func(), err error)

// connect connects to the agent, and returns a function that closes what it has
// started.
func (r *rollout) connect(ctx context.Context) (func(), error) {
	hint := ""
	if startDemo != nil {
		if closeCluster, err := startDemo(ctx, r); closeCluster != nil || err != nil {
			return closeCluster, err
		}
		hint = ", or try -demo, an embedded cluster on this machine"
	}
	config := api.DefaultConfig()
	client, err := api.NewClient(config)
	if err != nil {
		return nil, fmt.Errorf("set up the Consul client: %w", err)
	}
	if err := checkConsul(ctx, client); err != nil {
		return nil, fmt.Errorf("no usable Consul agent at %s: %w\nnothing ran: set %s to the address of an agent%s",
			config.Address, err, api.HTTPAddrEnvName, hint)
	}
	r.client = client
	return func() {}, nil
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

// printable makes the control characters of a node's output visible: on a
// terminal they could forge other lines.
func printable(text string) string {
	var b strings.Builder
	for _, r := range text {
		if r == '\t' || unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	return b.String()
}
