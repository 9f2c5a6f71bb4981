// Bench measures consulexec beside `consul exec` on real Consul servers, and
// prints a Markdown table for each kind of workload.
//
//	go run ./internal/bench -work 1000x1,5000x5 -runs 5   # what a run costs
//	go run ./internal/bench -work 50runs,250runs          # runs that begin at once
//	go run ./internal/bench -work accidents -runs 2       # what accidents do
//
// Each workload gets its own server; see [devcluster.Binary] for the Consul
// version. The clients run in turn, each in its own process. For consulexec the
// process runs this binary, for `consul exec` the server's. The peak memory and
// the server's CPU time need Linux; on other systems their columns are empty.
//
// What a run costs: this process simulates thousands of virtual nodes. They take
// the client's job and write directly to the server what agents would write. The
// client goes through a proxy that counts requests and bytes. Bench checks every
// report of consulexec: each chunk once, in order, with the right bytes, and
// before its node's exit. The server's CPU time is measured over a client's whole
// run, and again for the same writes without a client. The difference is the
// client's share. Agents write each key by itself. For 20,000 nodes the writes of
// 16 nodes share a transaction: with single ones, two cores do not keep up.
// The column of the writing shows whether they did.
//
// Runs at once: real agents, with Consul's limit of 200 connections of a client.
// One process has all runs of consulexec, each with a client of its own or all
// with one of WithClient; `consul exec` is a process for each run, and is left
// out above 100. A relay passes each connection on, so that the limit acts on the
// clients' own. The connections at once are those that clients have opened,
// whether the server accepts or refuses them. A run is whole if each node has
// acknowledged, printed and exited with 0, and there was no error. Only whole
// runs count for how far a run ends behind its last command, which prints when
// it ends. The peak memory of `consul exec` is the sum of its processes.
//
// Accidents: runs on five real nodes of a command of ten seconds. In the first
// run of each client and accident it happens a second after the command has
// started, in the others at random within nine seconds. The table has how many
// nodes are reported whole, of those that started the command: with all lines,
// in order, once, and its status. The accidents are those of TestRecovery, which
// also checks what is left behind.
//
// Ctrl-C stops all processes and removes all files.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
)

func main() {
	if runsAsClient() {
		clientMain()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run measures the workloads of the arguments and prints the tables. After an
// error they have the measurements so far.
func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	tables := newTables()
	defer tables.print(os.Stdout)
	for _, w := range o.works {
		rows, err := measure(ctx, w, o)
		t := tables.of(w)
		t.rows = append(t.rows, rows...)
		if err != nil {
			return fmt.Errorf("%s: %w", w.Name, err)
		}
	}
	return nil
}

// measure measures a workload and returns its rows. With an error it returns
// those of the measurements so far.
func measure(ctx context.Context, w work, o options) ([]row, error) {
	if w.Accidents {
		return measureAccidents(ctx, w, o)
	}
	r, err := measureWork(ctx, w, o)
	return makeRows(w, r), err
}

// options are the values of the flags.
type options struct {
	works   []work
	clients []string // nil for those of the workload
	runs    int
	profile string
}

// clientsOf returns the clients to measure with a workload.
func (o options) clientsOf(w work) []string {
	switch {
	case o.clients != nil:
		return o.clients
	case w.AtOnce > 0:
		return []string{ownClient, withClient, consulExec}
	default:
		return []string{ownClient, consulExec}
	}
}

// The clients' names in the flag and in the table.
const (
	ownClient  = "consulexec"
	withClient = "with-client" // consulexec with WithClient
	consulExec = "consul-exec"
)

func parse(args []string) (options, error) {
	var (
		o      options
		custom work
		flags  = flag.NewFlagSet("bench", flag.ExitOnError)
	)
	names := flags.String("work", "", "workloads, comma-separated: "+strings.Join(presetNames(), ", ")+", or all, which leaves accidents out; default all, or custom if one of its flags is set")
	clients := flags.String("clients", "", "clients, comma-separated: consulexec, with-client, which is consulexec with WithClient, and consul-exec; default consulexec and consul-exec, for runs at once all three")
	flags.IntVar(&o.runs, "runs", 5, "how often to measure each client; the table has the medians, or how many of all are whole")
	batch := flags.Int("batch", 0, fmt.Sprintf("writes of different nodes per transaction, up to %d, overrides the workload's; agents use single writes, but batches reach higher rates", maxBatch))
	flags.StringVar(&o.profile, "cpuprofile", "", "file for the CPU profile of consulexec's last run of a workload; the workload's name is appended")
	flags.IntVar(&custom.Nodes, "nodes", 0, "number of nodes, overrides the workload's")
	flags.IntVar(&custom.Chunks, "chunks", 0, "chunks of output per node, overrides the workload's")
	flags.IntVar(&custom.Size, "size", 0, "bytes per chunk, overrides the workload's")
	flags.DurationVar(&custom.Over, "over", 0, "duration of all writes, overrides the workload's")
	flags.DurationVar(&custom.Life, "life", 0, "longest time from a node's first write to its last; default -over")
	flags.DurationVar(&custom.Slow, "slow", 0, "duration of consulexec's output callback, overrides the workload's")
	flags.BoolVar(&custom.Undiscovered, "undiscovered", false, "keep the nodes out of the catalog and run with WithoutDiscovery and WithMinNodes")
	flags.Parse(args)

	var err error
	if o.works, err = chooseWorks(*names, custom); err != nil {
		return o, err
	}
	for i := range o.works {
		o.works[i].Batch = cmp.Or(*batch, o.works[i].Batch)
	}
	if *clients != "" {
		o.clients = strings.Split(*clients, ",")
	}
	for _, c := range o.clients {
		if !slices.Contains([]string{ownClient, withClient, consulExec}, c) {
			return o, fmt.Errorf("-clients: unknown client %q", c)
		}
	}
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case o.runs < 1:
		return o, fmt.Errorf("-runs %d: must be at least 1", o.runs)
	case *batch < 0 || *batch > maxBatch:
		return o, fmt.Errorf("-batch %d: must be from 1 to %d", *batch, maxBatch)
	}
	return o, nil
}
