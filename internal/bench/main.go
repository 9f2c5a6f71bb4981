// Bench measures what consulexec costs beside `consul exec`, on a real Consul
// server, and prints one table in Markdown.
//
//	go run ./internal/bench -work 1000x1,5000x5 -runs 5
//
// Each workload gets a server of its own (see [devcluster.Binary] for the Consul
// that runs). Thousands of virtual nodes, simulated in this process, take the
// job that a client submits and write what agents would write, straight to the
// server. The clients run in turn, each as a process of its own, through a proxy
// that counts: this binary once more for consulexec, the server's binary for
// `consul exec`. Whatever consulexec reports is checked: every chunk once, in
// order, with the right bytes, and before its node's exit.
//
// The server's CPU is measured over the whole of a client's run, and once more
// for the same writes when nobody listens: the difference is what the client
// asked of it. Columns that the system can't tell stay empty: the server's CPU
// and the peak memory need Linux.
//
// Ctrl-C ends it and leaves nothing behind.
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

// run measures what the arguments ask for. The table has what was measured
// before an error.
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

// options are what the flags say.
type options struct {
	works   []work
	clients []string
	runs    int
	batch   int
	profile string
}

// The clients, by the names of the flag and of the table.
const (
	ours  = "consulexec"
	given = "with-client" // consulexec by a client of its caller's
	peers = "consul-exec"
)

func parse(args []string) (options, error) {
	var (
		o      options
		custom work
		flags  = flag.NewFlagSet("bench", flag.ExitOnError)
	)
	names := flags.String("work", "", "workloads, comma-separated: "+strings.Join(presetNames(), ", ")+", or all; default all, or custom where one of its flags is given")
	clients := flags.String("clients", ours+","+peers, "clients, comma-separated; with-client is consulexec by WithClient")
	flags.IntVar(&o.runs, "runs", 5, "runs of each client, of which the table has the medians")
	flags.IntVar(&o.batch, "batch", 1, "writes of different nodes per transaction, up to 64; more than 1 for rates that single writes, as agents make them, do not reach")
	flags.StringVar(&o.profile, "cpuprofile", "", "file for the CPU profile of consulexec's last run of a workload; the workload's name is appended")
	flags.IntVar(&custom.Nodes, "nodes", 0, "nodes, instead of the workload's number")
	flags.IntVar(&custom.Chunks, "chunks", 0, "chunks of output per node, instead of the workload's number")
	flags.IntVar(&custom.Size, "size", 0, "bytes per chunk, instead of the workload's")
	flags.DurationVar(&custom.Over, "over", 0, "time over which the writes are spread, instead of the workload's")
	flags.DurationVar(&custom.Life, "life", 0, "time for which one node runs the command; default as -over")
	flags.DurationVar(&custom.Slow, "slow", 0, "time that consulexec's output callback takes, instead of the workload's")
	flags.BoolVar(&custom.Undiscovered, "undiscovered", false, "leave the nodes out of the catalog and run with WithoutDiscovery and WithMinNodes")
	flags.Parse(args)

	var err error
	if o.works, err = chooseWorks(*names, custom); err != nil {
		return o, err
	}
	o.clients = strings.Split(*clients, ",")
	for _, c := range o.clients {
		if !slices.Contains([]string{ours, given, peers}, c) {
			return o, fmt.Errorf("-clients: no client %q", c)
		}
	}
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case o.runs < 1:
		return o, fmt.Errorf("-runs %d: is under 1", o.runs)
	case o.batch < 1 || o.batch > maxBatch:
		return o, fmt.Errorf("-batch %d: is not in 1 to %d", o.batch, maxBatch)
	}
	return o, nil
}
