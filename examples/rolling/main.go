// Rolling restarts a service on the nodes of a Consul cluster, a part of them at
// a time. Between the parts it asks Consul whether the service is healthy
// again, and it stops at the first failure:
//
//	rolling -service web -command 'systemctl restart web' -percent 10
//
// It talks to the Consul agent at CONSUL_HTTP_ADDR, or else at
// http://localhost:8500. If no agent answers there, or if the agent knows no
// leader, nothing runs anywhere and the exit status is 1. Ctrl-C ends the
// roll-out and leaves nothing behind in Consul.
//
// To try it without Consul, use -demo: a cluster of twenty nodes embedded in this
// process. Each node has a service web that stops and starts. The embedded nodes
// run any other command on this machine, as you.
//
// Where the command itself waits until its service is healthy, and fails where
// it does not get so, one run is enough, and faster, as it needs not wait for the
// slowest node of each part: with consulexec.WithConcurrencyPercent(10) and
// consulexec.WithMaxFailures(1).
//
// This file stands by itself: copy it. The clusters to try it on are in cluster.go.
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
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
)

const (
	// pollInterval is how often Consul is asked for the service's health.
	pollInterval = 500 * time.Millisecond

	// ackTimeout is how long gossip takes to a node that missed it at first: Consul's
	// agents compare notes every 30 s. A roll-out would rather wait than stop for that.
	ackTimeout = 35 * time.Second
)

func main() {
	r := rollout{out: os.Stdout, percent: []int{10}}
	flag.StringVar(&r.service, "service", "web", "the `name` of the service in Consul")
	flag.StringVar(&r.command, "command", "", "what restarts it on a node, a shell `command`")
	flag.Func("percent", "how many `percent` of the nodes are restarted at a time; 10,40,50 is that many in turn, the last again and again (default 10)", r.setPercent)
	flag.DurationVar(&r.settle, "settle", 0, "how long the service has to be healthy before the next nodes' turn: longer than the interval and the timeout of its check, as what Consul has may be of before the restart (default 15s)")
	flag.DurationVar(&r.timeout, "timeout", 2*time.Minute, "how long the command may take, and then the service to be healthy for the time of -settle")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := connectAndRun(ctx, &r)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func connectAndRun(ctx context.Context, r *rollout) error {
	closeCluster, err := r.connect(ctx)
	if err != nil {
		return err
	}
	defer closeCluster()
	return r.run(ctx)
}

// A rollout is what is to be restarted, and how.
type rollout struct {
	client  *api.Client
	out     io.Writer
	service string
	command string
	percent []int // of the nodes, for each batch; the last one counts for all that follow
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

// run restarts the service on all its nodes, or stops with an error that says
// which were not touched.
func (r *rollout) run(ctx context.Context) error {
	r.settle = cmp.Or(r.settle, 15*time.Second)
	if r.command == "" {
		return errors.New("-command is missing: what restarts the service, such as -command 'systemctl restart web'")
	}
	if r.settle < 0 || r.settle >= r.timeout {
		return fmt.Errorf("-settle %v is not less than -timeout %v", r.settle, r.timeout)
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
		err := r.restart(ctx, batch)
		if err == nil {
			err = r.waitHealthy(ctx, nodes)
		}
		if err != nil {
			untouched := slices.Concat(batches[i+1:]...)
			return fmt.Errorf("stopped at batch %d of %d (%s): %w\nnot touched: %s",
				i+1, len(batches), strings.Join(batch, " "), err, cmp.Or(strings.Join(untouched, " "), "none, it was the last"))
		}
		fmt.Fprintf(r.out, "batch %d: healthy, %.1f s after it began\n", i+1, time.Since(began).Seconds())
	}
	return nil
}

// nodes returns the names of the nodes that have the service. All have to be
// healthy: where some are down already, a restart takes down more than it says.
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

// batches cuts the nodes into those that are restarted at the same time. Parts
// of a node are left off, but there is at least one in each.
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

// restart runs the command on the nodes. It is no success where one of them does
// not answer, dies meanwhile, or fails.
//
// Ctrl-C lets the commands that run end by themselves (there is WithKillOnCancel),
// as a service whose restart is cut short may stay down.
func (r *rollout) restart(ctx context.Context, nodes []string) error {
	e, err := consulexec.New(r.command,
		consulexec.WithClient(r.client),
		consulexec.WithNodes(nodes...),
		consulexec.WithAckTimeout(ackTimeout),
		consulexec.WithTimeout(r.timeout),
		consulexec.OnLine(func(node, line string) { fmt.Fprintf(r.out, "  %s: %s\n", node, line) }),
		consulexec.OnExit(func(node string, code int) { fmt.Fprintf(r.out, "  %s: exit %d\n", node, code) }),
	)
	if err != nil {
		return err
	}
	result, err := e.Run(ctx)
	if err != nil {
		return err
	}
	return result.Err()
}

// waitHealthy waits until Consul has said for the time of settle that the
// service is healthy on all its nodes, and not only on those just restarted:
// one of those before may have come up and fallen over again.
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
		case err != nil: // also where Consul has no leader for a moment
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

// status asks Consul for the service's health, and returns for each node what is
// wrong there, empty where nothing is.
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

// problem says what is wrong with an instance of a service. One without a check
// of its own counts as healthy in Consul as long as its node is, whatever it does.
func problem(instance *api.ServiceEntry) string {
	checked := false
	for _, check := range instance.Checks {
		if check.Status != api.HealthPassing {
			output, _, _ := strings.Cut(strings.TrimSpace(check.Output), "\n")
			return fmt.Sprintf(" %s is %s (%s)", check.Name, check.Status, output)
		}
		checked = checked || check.ServiceID == instance.Service.ID
	}
	if !checked {
		return fmt.Sprintf(" %s has no health check", instance.Service.ID)
	}
	return ""
}

// unhealthy returns an error that names the nodes where something is wrong, or
// where the service has gone.
func (r *rollout) unhealthy(status map[string]string, nodes []string) error {
	var problems []string
	for _, node := range nodes {
		problem, found := status[node]
		if !found {
			problem = " it is not in Consul"
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
// for one. Otherwise closeCluster is nil. In a copy of this file, startDemo is nil.
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

// checkConsul returns an error unless an agent answers in time and knows a leader.
func checkConsul(ctx context.Context, client *api.Client) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	leader, err := client.Status().LeaderWithQueryOptions((&api.QueryOptions{}).WithContext(ctx))
	if err == nil && leader == "" {
		return errors.New("the agent knows no leader")
	}
	return err
}
