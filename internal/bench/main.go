// Bench compares the cost of consulexec and `consul exec` on a real Consul
// server. It prints one Markdown table.
//
//	go run ./internal/bench -work 1000x1,5000x5 -runs 5
//
// Each workload gets its own server; see [devcluster.Binary] for the Consul
// version. This process simulates thousands of virtual nodes. They take the
// client's job and write directly to the server what agents would write. The
// clients run in turn, each in its own process, through a proxy that counts
// requests and bytes. For consulexec the process runs this binary, for `consul
// exec` the server's. Bench checks every report of consulexec: each chunk once,
// in order, with the right bytes, and before its node's exit.
//
// The server's CPU time is measured over a client's whole run, and again for
// the same writes without a client. The difference is the client's share. The
// server's CPU time and the peak memory need Linux; on other systems their
// columns are empty.
//
// Ctrl-C stops all processes and removes all files.
package main

import (
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

// run measures the workloads of the arguments and prints the table. After an
// error the table has the measurements so far.
func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	var rows []row
	for _, w := range o.works {
		r, err := measureWork(ctx, w, o)
		rows = append(rows, makeRows(w, o, r)...)
		if err != nil {
			printTable(os.Stdout, rows)
			return fmt.Errorf("%s: %w", w.Name, err)
		}
	}
	printTable(os.Stdout, rows)
	return nil
}

// options are the values of the flags.
type options struct {
	works   []work
	clients []string
	runs    int
	batch   int
	profile string
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
	names := flags.String("work", "", "workloads, comma-separated: "+strings.Join(presetNames(), ", ")+", or all; default all, or custom if one of its flags is set")
	clients := flags.String("clients", ownClient+","+consulExec, "clients, comma-separated; also with-client, which is consulexec with WithClient")
	flags.IntVar(&o.runs, "runs", 5, "runs of each client; the table has the medians")
	flags.IntVar(&o.batch, "batch", 1, "writes of different nodes per transaction, up to 64; agents use single writes, but batches reach higher rates")
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
	o.clients = strings.Split(*clients, ",")
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
	case o.batch < 1 || o.batch > maxBatch:
		return o, fmt.Errorf("-batch %d: must be from 1 to %d", o.batch, maxBatch)
	}
	return o, nil
}
