package consulexec_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"slices"
	"time"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
)

// A gate: with WithConcurrency(1) the next node gets the job when the loop body
// has returned from the exit of the one before. So the body can wait until the
// node is healthy again, and end the run if it is not.
func ExampleExec_Events_gate() {
	srv := exectest.NewServer(exectest.Node("web-1"), exectest.Node("web-2"), exectest.Node("web-3"))
	defer srv.Close()
	healthy := func(node string) bool { return node != "web-2" } // a program asks Consul, or the service itself

	e, err := consulexec.New("true", // such as "systemctl restart web"
		consulexec.WithClient(srv.Client()),
		consulexec.WithConcurrency(1),
		consulexec.WithMaxFailures(1),
	)
	if err != nil {
		log.Fatal(err)
	}
	for event, err := range e.Events(context.Background()) {
		if err != nil {
			log.Fatal(err)
		}
		if event.Type != consulexec.EventExit {
			continue
		}
		fmt.Println(event.Node, "exits with", event.ExitCode)
		if !healthy(event.Node) {
			fmt.Println(event.Node, "is not healthy")
			break
		}
	}
	result, _ := e.Wait()
	n, _ := result.Node("web-3")
	fmt.Println(n.Node, n.State)
	// Output:
	// web-1 exits with 0
	// web-2 exits with 0
	// web-2 is not healthy
	// web-3 skipped
}

// Callbacks add up. So a program can have options for its metrics beside those of
// each run. Their callbacks come first if they are given first.
func ExampleOnExit() {
	srv := exectest.NewServer(
		exectest.Node("web-1", exectest.Run(exectest.Answer("", 0))),
		exectest.Node("web-2", exectest.Run(exectest.Answer("", 3))),
	)
	defer srv.Close()

	failures := 0 // such as a counter of Prometheus
	metrics := []consulexec.Option{
		consulexec.OnExit(func(_ string, code int) {
			if code != 0 {
				failures++
			}
		}),
		consulexec.OnLost(func(string, error) { failures++ }),
		consulexec.OnNoResponse(func(string) { failures++ }),
	}
	e, err := consulexec.New("upgrade", append(metrics,
		consulexec.WithClient(srv.Client()),
		consulexec.WithConcurrency(1),
		consulexec.OnExit(func(node string, code int) { fmt.Println(node, "exits with", code) }),
	)...)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := e.Run(context.Background()); err != nil {
		log.Fatal(err)
	}
	fmt.Println("failures:", failures)
	// Output:
	// web-1 exits with 0
	// web-2 exits with 3
	// failures: 1
}

// Two bounds: WithTimeout ends a command that takes too long, node by node, and
// its status is reported. A deadline of the context ends the whole run. By then
// every node should have been reported: it is the bound of last resort, for
// what no timeout of a node can end.
func ExampleWithTimeout() {
	srv := exectest.NewServer(exectest.Node("web-1"))
	defer srv.Close()

	e, err := consulexec.New("echo begins; exec sleep 600",
		consulexec.WithClient(srv.Client()),
		consulexec.WithTimeout(time.Second),
		consulexec.WithCapture(4096),
	)
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	result, err := e.Run(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		log.Fatal("the run took too long: ", err)
	}
	for _, n := range result.Nodes {
		fmt.Printf("%s: status %d, timed out: %v, output %q\n", n.Node, n.ExitCode, n.TimedOut, n.Output)
	}
	// Output:
	// web-1: status 124, timed out: true, output "begins\n"
}

// Options are values: a program can make the common ones once and use them for
// many runs, at once too. An Exec is for one run.
func ExampleOption() {
	srv := exectest.NewServer(exectest.Node("web-1"), exectest.Node("db-1"))
	defer srv.Close()

	common := []consulexec.Option{
		consulexec.WithClient(srv.Client()),
		consulexec.WithCapture(4096),
		consulexec.WithTimeout(time.Minute),
	}
	run := func(command string, more ...consulexec.Option) {
		e, err := consulexec.New(command, slices.Concat(common, more)...)
		if err != nil {
			log.Fatal(err)
		}
		result, err := e.Run(context.Background())
		if err != nil {
			log.Fatal(err)
		}
		for _, n := range result.Nodes {
			fmt.Printf("%s: %s", n.Node, n.Output)
		}
	}
	run("echo 1", consulexec.WithNode("^web-"))
	run("echo 2", consulexec.WithNode("^db-"))
	// Output:
	// web-1: 1
	// db-1: 2
}
