package consulexec_test

import (
	"context"
	"fmt"
	"log"
	"strings"
	"time"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
)

// An agent cuts the output where it likes; OnLine puts it together again.
func ExampleOnLine() {
	srv := exectest.NewServer(exectest.Node("web-1"))
	defer srv.Close()

	e, err := consulexec.New("printf 'first\nsec'; sleep 1; printf 'ond\r\nand last'",
		consulexec.WithClient(srv.Client()),
		consulexec.OnOutput(func(node string, output []byte) { fmt.Printf("piece %q\n", output) }),
		consulexec.OnLine(func(node, line string) { fmt.Printf("%s: %s\n", node, line) }),
	)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := e.Run(context.Background()); err != nil {
		log.Fatal(err)
	}
	// Output:
	// piece "first\nsec"
	// web-1: first
	// piece "ond\r\nand last"
	// web-1: second
	// web-1: and last
}

// The run as a loop. What is wrong with the job is the last thing the loop gets.
func ExampleExec_Events() {
	srv := exectest.NewServer(exectest.Node("web-1", exectest.Run(exectest.Answer("nginx: command not found\n", 127))))
	defer srv.Close()

	e, err := consulexec.New("nginx -v", consulexec.WithClient(srv.Client()))
	if err != nil {
		log.Fatal(err)
	}
	for event, err := range e.Events(context.Background()) {
		if err != nil {
			log.Fatal(err)
		}
		switch event.Type {
		case consulexec.EventTargets:
			fmt.Println("expected:", event.Nodes)
		case consulexec.EventOutput:
			fmt.Printf("%s says %s", event.Node, event.Output)
		case consulexec.EventExit:
			fmt.Println(event.Node, "exits with", event.ExitCode)
		default:
			fmt.Printf("%v %q\n", event.Type, event.Node)
		}
	}
	result, _ := e.Wait()
	fmt.Println(result.Err())
	// Output:
	// expected: [web-1]
	// submit ""
	// ack "web-1"
	// web-1 says nginx: command not found
	// web-1 exits with 127
	// node web-1: exit status 127
}

// Leaving the loop ends the run: here once one node has found what was looked for.
func ExampleExec_Events_break() {
	found := exectest.Answer("found it\n", 0)
	srv := exectest.NewServer(
		exectest.Node("web-1", exectest.Run(exectest.NeverExit)),
		exectest.Node("web-2", exectest.Run(found), exectest.AckAfter(100*time.Millisecond)),
	)
	defer srv.Close()

	e, err := consulexec.New("find / -name lost.txt", consulexec.WithClient(srv.Client()))
	if err != nil {
		log.Fatal(err)
	}
	for event, err := range e.Events(context.Background()) {
		if err != nil {
			log.Fatal(err)
		}
		if event.Type == consulexec.EventOutput {
			fmt.Printf("%s: %s", event.Node, event.Output)
			break
		}
	}
	fmt.Println("left in Consul:", len(srv.Keys(""))+len(srv.Sessions()))
	// Output:
	// web-2: found it
	// left in Consul: 0
}

// Which nodes differ from the others?
func ExampleResult_Groups() {
	version := func(v string) exectest.NodeOption { return exectest.Run(exectest.Answer(v+"\n", 0)) }
	srv := exectest.NewServer(
		exectest.Node("web-1", version("nginx/1.27")),
		exectest.Node("web-2", version("nginx/1.26")),
		exectest.Node("web-3", version("nginx/1.27")),
		exectest.Node("web-4", version("nginx/1.27")),
	)
	defer srv.Close()

	e, err := consulexec.New("nginx -v", consulexec.WithClient(srv.Client()), consulexec.WithCapture(4096))
	if err != nil {
		log.Fatal(err)
	}
	result, err := e.Run(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	for _, g := range result.Groups() {
		fmt.Printf("%d (%s): %v %d: %s", len(g.Nodes), strings.Join(g.Nodes, " "), g.State, g.ExitCode, g.Output)
	}
	// Output:
	// 3 (web-1 web-3 web-4): exited 0: nginx/1.27
	// 1 (web-2): exited 0: nginx/1.26
}

// The same command in several datacenters. The callbacks know their datacenter, and
// one datacenter that fails does not end the others.
func ExampleRunDatacenters() {
	srv := exectest.NewServer(
		exectest.Node("web-1"),
		exectest.Datacenter("dc2", exectest.Node("web-1")),
		exectest.Datacenter("dc3", exectest.Node("db-1")),
	)
	defer srv.Close()

	results, err := consulexec.RunDatacenters(context.Background(), []string{"dc1", "dc2", "dc3"}, "echo hello",
		func(datacenter string) []consulexec.Option {
			return []consulexec.Option{
				consulexec.WithClient(srv.Client()),
				consulexec.WithNode("^web-"),
				consulexec.OnExit(func(node string, code int) { fmt.Printf("%s in %s exits with %d\n", node, datacenter, code) }),
			}
		})
	fmt.Println(err)
	for _, result := range results {
		fmt.Printf("%s: %d nodes\n", result.Datacenter, len(result.Nodes))
	}
	// Unordered output:
	// web-1 in dc1 exits with 0
	// web-1 in dc2 exits with 0
	// datacenter "dc3": consulexec: no matching node is alive in datacenter "dc3" (WithNode("^web-"))
	// dc1: 1 nodes
	// dc2: 1 nodes
	// dc3: 0 nodes
}
