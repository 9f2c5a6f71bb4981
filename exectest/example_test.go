package exectest_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/consulexec/consulexec/exectest"
	"github.com/hashicorp/consul/api"
)

// This example submits a job by hand: session, job and event. Then it waits for
// the node's exit.
func Example() {
	srv := exectest.NewServer(
		exectest.Node("web-1", exectest.WithService("web"), exectest.Run(exectest.Answer("hello\n", 3))),
		exectest.Node("db-1"),
	)
	defer srv.Close()
	client := srv.Client()

	session, _, err := client.Session().Create(&api.SessionEntry{Behavior: "delete", TTL: "15s"}, nil)
	if err != nil {
		log.Fatal(err)
	}
	dir := "_rexec/" + session + "/"
	job := &api.KVPair{Key: dir + "job", Value: []byte(`{"Command": "uptime", "Wait": 2000000000}`), Session: session}
	if _, _, err := client.KV().Acquire(job, nil); err != nil {
		log.Fatal(err)
	}
	event := &api.UserEvent{Name: "_rexec", Payload: []byte(`{"Prefix": "_rexec", "Session": "` + session + `"}`), ServiceFilter: "web"}
	if _, _, err := client.Event().Fire(event, nil); err != nil {
		log.Fatal(err)
	}

	for index := uint64(0); ; {
		exit, meta, err := client.KV().Get(dir+"web-1/exit", &api.QueryOptions{WaitIndex: index})
		if err != nil {
			log.Fatal(err)
		}
		if exit != nil {
			fmt.Printf("web-1 exited with %s\n", exit.Value)
			break
		}
		index = meta.LastIndex
	}
	fmt.Println("db-1 ran it", srv.Executions("db-1"), "times")
	// Output:
	// web-1 exited with 3
	// db-1 ran it 0 times
}

// This node's agent dies 10 seconds after it has started the command.
func ExampleHandler() {
	srv := exectest.NewServer(
		exectest.Node("web-1", exectest.Run(func(ctx context.Context, j *exectest.Job) int {
			fmt.Fprintf(j.Output, "running %s\n", j.Command)
			select {
			case <-time.After(10 * time.Second):
				j.Die()
			case <-ctx.Done():
			}
			return 0
		})),
	)
	defer srv.Close()
}

// Consul fires the next event, but its answer is lost.
func ExampleServer_Fault() {
	srv := exectest.NewServer(exectest.Node("web-1"))
	defer srv.Close()
	srv.Fault(exectest.Fault{Match: exectest.Path("PUT", "/v1/event/fire/"), Times: 1, Do: exectest.Drop})

	_, _, err := srv.Client().Event().Fire(&api.UserEvent{Name: "_rexec"}, nil)
	fmt.Println(err)
	// Output: Put "http://exectest/v1/event/fire/_rexec": EOF
}
