package consulexec_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
)

// The callbacks tell what happens as it happens. Here the cluster is one of
// package exectest; without WithClient it is the one that CONSUL_HTTP_ADDR names.
func Example() {
	srv := exectest.NewServer(exectest.Node("web-1"), exectest.Node("db-1"))
	defer srv.Close()

	e, err := consulexec.New("echo hello",
		consulexec.WithClient(srv.Client()),
		consulexec.WithNode(`^web-`),
		consulexec.OnSubmit(func() { fmt.Println("submitted") }),
		consulexec.OnAck(func(node string) { fmt.Println(node, "takes it") }),
		consulexec.OnOutput(func(node string, output []byte) { fmt.Printf("%s says %s", node, output) }),
		consulexec.OnExit(func(node string, code int) { fmt.Println(node, "exits with", code) }),
		consulexec.OnDone(func() { fmt.Println("done") }),
	)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := e.Run(context.Background()); err != nil {
		log.Fatal(err)
	}
	// Output:
	// submitted
	// web-1 takes it
	// web-1 says hello
	// web-1 exits with 0
	// done
}

// The result has it all at the end. Run's error is about the job; that a command
// failed on some node is in the result.
func ExampleResult() {
	srv := exectest.NewServer(
		exectest.Node("web-1", exectest.Run(exectest.Answer("nginx/1.27\n", 0))),
		exectest.Node("web-2", exectest.Run(exectest.Answer("nginx: command not found\n", 127))),
	)
	defer srv.Close()

	e, err := consulexec.New("nginx -v",
		consulexec.WithClient(srv.Client()),
		consulexec.WithCapture(4096),
	)
	if err != nil {
		log.Fatal(err)
	}
	result, err := e.Run(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	for _, n := range result.Nodes {
		fmt.Printf("%s: %v with %d: %s", n.Node, n.State, n.ExitCode, n.Output)
	}
	var failed *consulexec.NodeError
	if errors.As(result.Err(), &failed) {
		fmt.Println("first to fail:", failed)
	}
	// Output:
	// web-1: exited with 0: nginx/1.27
	// web-2: exited with 127: nginx: command not found
	// first to fail: node web-2: exit status 127
}

// Start returns at once; the callbacks then come on a goroutine of the run.
func ExampleExec_Start() {
	srv := exectest.NewServer(exectest.Node("web-1"))
	defer srv.Close()

	e, err := consulexec.New("", consulexec.WithArgs("echo", "a  b"),
		consulexec.WithClient(srv.Client()),
		consulexec.OnOutput(func(node string, output []byte) { fmt.Printf("%s: %s", node, output) }),
	)
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := e.Start(ctx); err != nil {
		log.Fatal(err)
	}
	// ... other work ...
	result, err := e.Wait()
	fmt.Println(err, result.Err())
	// Output:
	// web-1: a  b
	// <nil> <nil>
}

// A script may be of any length up to some 380 KiB, in any language that its
// first line names.
func ExampleWithScript() {
	srv := exectest.NewServer(exectest.Node("web-1"))
	defer srv.Close()

	e, err := consulexec.New("", consulexec.WithScript([]byte("#!/bin/sh\nfor i in 1 2 3; do echo $i; done\n")),
		consulexec.WithClient(srv.Client()),
		consulexec.WithCapture(100),
	)
	if err != nil {
		log.Fatal(err)
	}
	result, err := e.Run(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s", result.Nodes[0].Output)
	// Output:
	// 1
	// 2
	// 3
}

// Where nothing matches, no node is told, and that is an error.
func ExampleWithService() {
	srv := exectest.NewServer(exectest.Node("web-1", exectest.WithService("nginx", "v1")))
	defer srv.Close()

	e, err := consulexec.New("uptime",
		consulexec.WithClient(srv.Client()),
		consulexec.WithService("nginx"),
		consulexec.WithTag("^v2$"),
	)
	if err != nil {
		log.Fatal(err)
	}
	_, err = e.Run(context.Background())
	fmt.Println(errors.Is(err, consulexec.ErrNoTargets))
	fmt.Println(err)
	// Output:
	// true
	// consulexec: no matching node is alive (WithService("nginx"), WithTag("^v2$")); WithService matches IDs, not names: see WithHealthyService
}

// Consul's catalog selects the nodes of a rack, and of these the ones on which
// the service is healthy. Targets says which they are, before anything runs.
func ExampleExec_Targets() {
	rack := func(name string) exectest.NodeOption { return exectest.WithMeta(map[string]string{"rack": name}) }
	srv := exectest.NewServer(
		exectest.Node("web-1", rack("a"), exectest.WithNamedService("web-17", "web")),
		exectest.Node("web-2", rack("b"), exectest.WithNamedService("web-42", "web")),
		exectest.Node("web-3", rack("b"), exectest.WithNamedService("web-99", "web")),
	)
	defer srv.Close()
	srv.SetHealth("web-2", "web", "critical")

	e, err := consulexec.New("uptime",
		consulexec.WithClient(srv.Client()),
		consulexec.WithFilter(`Meta.rack == "b"`),
		consulexec.WithHealthyService("web"),
	)
	if err != nil {
		log.Fatal(err)
	}
	nodes, err := e.Targets(context.Background())
	fmt.Println(nodes, err)
	// Output:
	// [web-3] <nil>
}

// Exactly these nodes. One that is not there is reported at once.
func ExampleWithNodes() {
	srv := exectest.NewServer(exectest.Node("web-1"), exectest.Node("web-2"), exectest.Node("web-3"))
	defer srv.Close()

	e, err := consulexec.New("true",
		consulexec.WithClient(srv.Client()),
		consulexec.WithNodes("web-3", "web-1", "web-9"),
	)
	if err != nil {
		log.Fatal(err)
	}
	result, err := e.Run(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	for _, n := range result.Nodes {
		fmt.Println(n.Node, n.State)
	}
	fmt.Println(result.Err())
	// Output:
	// web-1 exited
	// web-3 exited
	// web-9 no response
	// node web-9: no response: the catalog has no such agent
}

// A rolling run: one node after another, until the first failure.
func ExampleWithConcurrency() {
	upgrade := func(code int) exectest.NodeOption { return exectest.Run(exectest.Answer("", code)) }
	srv := exectest.NewServer(
		exectest.Node("web-1", upgrade(0)),
		exectest.Node("web-2", upgrade(3)),
		exectest.Node("web-3", upgrade(0)),
	)
	defer srv.Close()

	e, err := consulexec.New("upgrade",
		consulexec.WithClient(srv.Client()),
		consulexec.WithConcurrency(1),
		consulexec.WithMaxFailures(1),
		consulexec.OnExit(func(node string, code int) { fmt.Println(node, "exits with", code) }),
	)
	if err != nil {
		log.Fatal(err)
	}
	result, err := e.Run(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(result.Err())
	// Output:
	// web-1 exits with 0
	// web-2 exits with 3
	// consulexec: 1 failed, and 1 skipped: WithMaxFailures(1)
	// node web-2: exit status 3
	// node web-3: skipped
}

// When the context ends, the command does too, on every node, children included.
func ExampleWithKillOnCancel() {
	srv := exectest.NewServer(exectest.Node("web-1"))
	defer srv.Close()

	ctx, cancel := context.WithCancel(context.Background())
	e, err := consulexec.New("echo started; sleep 4321",
		consulexec.WithClient(srv.Client()),
		consulexec.WithKillOnCancel(),
		consulexec.OnOutput(func(node string, output []byte) {
			fmt.Printf("%s: %s", node, output)
			cancel()
		}),
	)
	if err != nil {
		log.Fatal(err)
	}
	result, err := e.Run(ctx)
	fmt.Println(errors.Is(err, context.Canceled))
	fmt.Println(result.Nodes[0].State)
	// Output:
	// web-1: started
	// true
	// killed
}
