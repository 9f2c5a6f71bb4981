package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec/exectest"
	"github.com/consulexec/consulexec/internal/devcluster"
)

const (
	// restartWeb is the command that restarts the service on an embedded node.
	// The node recognizes it and runs nothing.
	restartWeb = "restart web"

	// managerEnv has the URL that restarts the service of a node, without the
	// node's name. With -cluster, the command on the nodes is this program with
	// managerEnv.
	managerEnv = "ROLLING_EXAMPLE_MANAGER"

	// nodeEnv has the directory of the agent that runs the command. devcluster
	// sets it, and the last element of the path is the node's name.
	nodeEnv = "CONSULEXEC_DEVCLUSTER"
)

func init() {
	if url := os.Getenv(managerEnv); url != "" {
		if err := askManager(url + filepath.Base(os.Getenv(nodeEnv))); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	embedded := flag.Bool("demo", false, "try this program on an embedded cluster of twenty nodes with a service web, on this machine")
	cluster := flag.Bool("cluster", false, "like -demo, on a real Consul cluster of three nodes; the first time, this builds Consul")
	broken := flag.String("break", "", "with -demo or -cluster, and without -command: the service of this `node` does not come up again after its restart")
	startDemo = func(ctx context.Context, r *rollout) (func(), error) {
		switch {
		case *embedded && *cluster:
			return nil, errors.New("-demo cannot be combined with -cluster: each starts a cluster of its own")
		case !*embedded && !*cluster && *broken != "":
			return nil, errors.New("-break needs -demo or -cluster")
		case !*embedded && !*cluster:
			return nil, nil
		case r.service != "web":
			return nil, fmt.Errorf("-service %s cannot be combined with -demo or -cluster, whose nodes have a service web", r.service)
		}
		nodes := nodeNames(*cluster)
		if *broken != "" && !slices.Contains(nodes, *broken) {
			return nil, fmt.Errorf("-break %s: there is no such node; the nodes are %s", *broken, strings.Join(nodes, " "))
		}
		if *broken != "" && r.command != "" {
			return nil, fmt.Errorf("-break %s cannot be combined with -command %s, which does not restart the service of -demo or -cluster", *broken, r.command)
		}
		if os.Getenv(api.HTTPAddrEnvName) != "" {
			fmt.Fprintf(os.Stderr, "-demo and -cluster ignore %s\n", api.HTTPAddrEnvName)
		}
		if *cluster {
			return startCluster(ctx, r, nodes, *broken)
		}
		fmt.Fprintln(os.Stderr, "demo: twenty embedded nodes with a service web; a -command runs on this machine, once for each of them")
		return startEmbedded(r, nodes, *broken).Close, nil
	}
}

// nodeNames returns the names of the nodes of -cluster, or else of -demo.
func nodeNames(cluster bool) (names []string) {
	if cluster {
		for _, node := range devcluster.Nodes(1, 2) {
			names = append(names, node.Name)
		}
		return names
	}
	for i := range 20 {
		names = append(names, fmt.Sprintf("web-%02d", i+1))
	}
	return names
}

// services simulates the service web on each node of a cluster started here.
type services struct {
	broken string        // the node whose service does not come up again
	boot   time.Duration // how long a start takes
	lag    time.Duration // how long a health check lags behind

	mu     sync.Mutex      // guards starts and down
	starts map[string]int  // by node
	down   map[string]bool // by node
}

func newServices(nodes []string, broken string) *services {
	s := &services{broken: broken, boot: 300 * time.Millisecond, starts: map[string]int{}, down: map[string]bool{}}
	for _, node := range nodes {
		s.starts[node] = 1
	}
	return s
}

// restart stops the service on a node and starts it again. Like the restart of
// many daemons, it returns before the service is up.
func (s *services) restart(node string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.starts[node]++
	if s.lag == 0 {
		s.down[node] = true
	} else {
		time.AfterFunc(s.lag, func() { s.setDown(node, true) })
	}
	if node != s.broken {
		time.AfterFunc(s.lag+s.boot, func() { s.setDown(node, false) })
	}
	return fmt.Sprintf("web stopped and started, start %d\n", s.starts[node])
}

func (s *services) setDown(node string, down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down[node] = down
}

// ServeHTTP answers a GET as the service of the node that the path names, and
// restarts that service for a POST.
func (s *services) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	node := filepath.Base(r.URL.Path)
	if r.Method == http.MethodPost {
		io.WriteString(w, s.restart(node))
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down[node] {
		http.Error(w, "starting", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintf(w, "web on %s, started %d times\n", node, s.starts[node])
}

// health answers a request for the health of the service, which has one check
// on each node.
func (s *services) health(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	instances := []*api.ServiceEntry{}
	for node := range s.starts {
		check := &api.HealthCheck{Node: node, CheckID: "service:web", Name: "web answers", ServiceID: "web", Status: api.HealthPassing, Output: "200 OK"}
		if s.down[node] {
			check.Status, check.Output = api.HealthCritical, "503 Service Unavailable"
		}
		instances = append(instances, &api.ServiceEntry{
			Node:    &api.Node{Node: node},
			Service: &api.AgentService{ID: "web", Service: "web"},
			Checks:  api.HealthChecks{check},
		})
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(instances)
}

// startEmbedded starts nodes with these names in this process, and points r to
// them. Their services have no sockets. Any command but restartWeb really runs,
// on this machine.
func startEmbedded(r *rollout, nodes []string, broken string) *exectest.Server {
	s := newServices(nodes, broken)
	var options []exectest.Option
	for _, node := range nodes {
		options = append(options, exectest.Node(node, exectest.WithService("web"), exectest.Run(func(ctx context.Context, j *exectest.Job) int {
			if j.Command != restartWeb {
				return exectest.RunCommand(ctx, j)
			}
			io.WriteString(j.Output, s.restart(node))
			return 0
		})))
	}
	srv := exectest.NewServer(options...)
	srv.Fault(exectest.Fault{Match: exectest.Path("GET", "/v1/health/service/web"), Do: s.health})
	r.client = srv.Client()
	r.command = cmp.Or(r.command, restartWeb)
	r.settle = cmp.Or(r.settle, pollInterval)
	return srv
}

// startCluster starts three real agents on this machine and points r to them.
// The services are in this process, and the agents check their health by HTTP.
// The command on the nodes is this program, which asks this process to restart
// one.
func startCluster(ctx context.Context, r *rollout, names []string, broken string) (func(), error) {
	fmt.Fprintln(r.out, "starting a real Consul cluster of three nodes on this machine")
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	url := fmt.Sprintf("http://%s/", listener.Addr())
	nodes := devcluster.Nodes(1, 2)
	for i, node := range nodes {
		nodes[i].Config = fmt.Sprintf(`services {
			name = "web"
			checks = [{ name = "web answers", http = %q, interval = "1s", timeout = "1s", status = "passing" }]
		}`, url+node.Name)
	}
	web := &http.Server{Handler: newServices(names, broken)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		web.Serve(listener)
	}()
	closeWeb := func() {
		web.Close()
		<-done
	}
	cluster, err := devcluster.New(ctx, devcluster.Config{Nodes: nodes})
	if err != nil {
		closeWeb()
		return nil, err
	}
	r.client = cluster.Client("client-1")
	r.command = cmp.Or(r.command, fmt.Sprintf("%s=%s '%s'", managerEnv, url, program))
	r.settle = cmp.Or(r.settle, 3*time.Second) // interval and timeout of the check, and a second more
	closeAll := func() {
		if err := cluster.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		closeWeb()
	}
	if err := r.registered(ctx, len(nodes)); err != nil {
		closeAll()
		return nil, err
	}
	return closeAll, nil
}

// registered waits until all agents have registered the service with the
// servers.
func (r *rollout) registered(ctx context.Context, nodes int) error {
	for {
		status, err := r.status(ctx)
		if err != nil {
			return err
		}
		if len(status) == nodes {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pollInterval):
		}
	}
}

// askManager restarts the service at url and prints the answer.
func askManager(url string) error {
	response, err := http.Post(url, "", nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(os.Stdout, response.Body)
	return err
}
