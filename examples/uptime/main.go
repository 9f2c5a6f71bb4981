// Uptime runs `uptime` on every node of a Consul cluster. It prints each event
// of each node as it happens, with control characters of the output made visible.
//
// It talks to the Consul agent at CONSUL_HTTP_ADDR, or else at
// http://localhost:8500. If CONSUL_HTTP_ADDR is not set and nothing listens at
// the default address, it says so and runs `uptime` on this machine, on three
// nodes embedded in this process. While an agent is slow or knows no leader, a
// warning on standard error says so. If that lasts, it is an error. Ctrl-C,
// SIGTERM and SIGHUP end the run and leave nothing behind in Consul, and so
// does an output that nobody reads any more.
//
// This file needs no other: copy it. The flag -cluster is in cluster.go.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
)

func main() {
	flag.Parse()
	ctx, cancel := context.WithCancelCause(context.Background())
	ctx, stop := signal.NotifyContext(ctx, endSignals()...)
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) // a failed write returns an error instead of ending the program
	err := run(ctx, output{os.Stdout, cancel})
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// endSignals returns the signals that end the run. SIGHUP is ignored under
// nohup.
func endSignals() []os.Signal {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP)
	}
	return signals
}

// An output is standard output. If nobody reads it any more, it ends the run.
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

// run connects to a cluster and runs uptime there.
func run(ctx context.Context, out io.Writer) error {
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q: this program runs uptime on every node", flag.Arg(0))
	}
	client, closeCluster, err := connect(ctx, out)
	if err != nil {
		return err
	}
	defer closeCluster()
	return uptime(ctx, client, out)
}

// uptime runs the command on every node and prints the events.
func uptime(ctx context.Context, client *api.Client, out io.Writer) error {
	e, err := consulexec.New("uptime",
		consulexec.WithClient(client),
		consulexec.WithLogger(slog.Default()), // says when Consul does not serve the run
		consulexec.OnSubmit(func() { fmt.Fprintln(out, "submitted") }),
		consulexec.OnAck(func(node string) { fmt.Fprintf(out, "%s: ack\n", node) }),
		consulexec.OnLine(func(node, line string) { fmt.Fprintf(out, "%s: output: %s\n", node, printable(line)) }),
		consulexec.OnExit(func(node string, code int) { fmt.Fprintf(out, "%s: exit %d\n", node, code) }),
		consulexec.OnLost(func(_ string, err error) { fmt.Fprintln(out, err) }),
		consulexec.OnNoResponse(func(node string) { fmt.Fprintf(out, "%s: no response\n", node) }),
		consulexec.OnDone(func() { fmt.Fprintln(out, "done") }),
	)
	if err != nil {
		return err
	}
	result, _ := e.Run(ctx)
	return cmp.Or(result.Err(), context.Cause(ctx)) // the first has the error of Run, too; the second, a failed write at the very end
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

// ownCluster starts a cluster for the flag -cluster. It is nil without that
// flag.
var ownCluster func(ctx context.Context, out io.Writer) (client *api.Client, closeCluster func(), err error)

// connect returns a client of the cluster, and a function that closes what
// connect has started.
func connect(ctx context.Context, out io.Writer) (*api.Client, func(), error) {
	if ownCluster != nil {
		return ownCluster(ctx, out)
	}
	config := api.DefaultConfig()
	client, err := api.NewClient(config)
	if err != nil {
		return nil, nil, err
	}
	if os.Getenv(api.HTTPAddrEnvName) != "" || listens(config.Address) {
		return client, func() {}, nil
	}
	fmt.Fprintf(out, "no Consul agent at %s, and %s is not set: running on three embedded nodes, on this machine\n", config.Address, api.HTTPAddrEnvName)
	srv := exectest.NewServer(exectest.Node("web-1"), exectest.Node("web-2"), exectest.Node("web-3"))
	return srv.Client(), srv.Close, nil
}

// listens reports whether something listens at the address, however slow it is.
func listens(address string) bool {
	conn, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		var slow net.Error
		return errors.As(err, &slow) && slow.Timeout()
	}
	conn.Close()
	return true
}
