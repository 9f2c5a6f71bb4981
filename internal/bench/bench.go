package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec/internal/devcluster"
)

const (
	// server is the node whose API the clients and virtual nodes use.
	server = "server-1"

	// settleTime is the pause before each run, so that work left from one run
	// does not count for the next.
	settleTime = time.Second

	// grace is how long a client may run after its nodes failed, or the nodes
	// after their client ended.
	grace = 2 * time.Second
)

// bench measures one workload on one cluster.
type bench struct {
	work    work
	options options
	binary  string
	cluster *devcluster.Cluster
	pid     int // of the server
	client  *api.Client
	catalog *catalog
	proxy   *proxy
	relay   *relay // in place of the proxy if runs are at once
	writer  writer
}

// measureWork measures a workload on its own cluster. With an error it returns
// the measurements so far.
func measureWork(ctx context.Context, w work, o options) (r results, err error) {
	ctx, stop := context.WithCancelCause(ctx)
	b := &bench{work: w, options: o}
	var tasks sync.WaitGroup
	defer func() {
		stop(nil)
		tasks.Wait()
		err = errors.Join(err, b.close())
	}()
	if err := b.start(ctx); err != nil {
		return nil, err
	}
	if batch, ok := b.writer.(*batchWriter); ok {
		tasks.Go(func() { batch.run(ctx) })
	}
	if !w.Real && !w.Undiscovered {
		tasks.Go(func() {
			if err := b.catalog.watch(ctx); err != nil {
				stop(err)
			}
		})
	}
	return b.measure(ctx)
}

// start starts the cluster, the proxy or relay, and the writer.
func (b *bench) start(ctx context.Context) (err error) {
	if b.binary, err = devcluster.Binary(ctx); err != nil {
		return err
	}
	// Only virtual nodes run jobs, so the server has exec disabled. All virtual
	// nodes share one client address. Real agents keep Consul's default limit.
	const limits = `limits { http_max_conns_per_client = 1000 }`
	nodes := []devcluster.Node{{Name: server, Server: true, ExecDisabled: true, Config: limits}}
	if b.work.Real {
		nodes = devcluster.Nodes(1, b.work.Nodes-1)
	}
	b.catalog = &catalog{reconciled: time.Now()} // a leader reconciles first when it is elected
	if b.cluster, err = devcluster.New(ctx, devcluster.Config{Nodes: nodes}); err != nil {
		return err
	}
	processes, err := b.cluster.Processes()
	if err != nil {
		return err
	}
	for _, p := range processes {
		if p.Agent && p.Node == server {
			b.pid = p.PID
		}
	}
	b.client = b.cluster.Client(server)
	b.catalog.client = b.client
	if b.work.Batch > 1 {
		b.writer = newBatchWriter(b.cluster.Address(server), b.work.Batch)
	} else {
		b.writer = newSingleWriter(b.cluster.Address(server))
	}
	if b.work.AtOnce > 0 {
		b.relay, err = newRelay(b.cluster.Address(server))
	} else {
		b.proxy, err = newProxy(b.cluster.Address(server))
	}
	return err
}

func (b *bench) close() error {
	if b.proxy != nil {
		b.proxy.close()
	}
	if b.relay != nil {
		b.relay.close()
	}
	if b.writer != nil {
		b.writer.close()
	}
	if b.cluster != nil {
		return b.cluster.Close()
	}
	return nil
}

// measure runs the clients in turn. It also runs the writes alone, to measure
// the server's CPU time without a client.
func (b *bench) measure(ctx context.Context) (results, error) {
	r := make(results)
	for i := range b.options.runs {
		for _, client := range b.clients() {
			fmt.Fprintf(os.Stderr, "%s: %s, run %d of %d\n", b.work.Name, client, i+1, b.options.runs)
			m, err := b.run(ctx, client)
			if err != nil {
				return r, fmt.Errorf("%s: %w", client, err)
			}
			for _, p := range m.problems {
				fmt.Fprintf(os.Stderr, "%s: %s: %s\n", b.work.Name, client, p)
			}
			r[client] = append(r[client], m)
		}
	}
	return r, nil
}

// writesAlone is the name of the run that writes without a client.
const writesAlone = "writing alone"

// clients returns the names of the clients that run, in order.
func (b *bench) clients() []string {
	var names []string
	if !b.work.Real {
		names = append(names, writesAlone)
	}
	for _, client := range b.options.clientsOf(b.work) {
		if client == consulExec && (b.work.Slow > 0 || b.work.AtOnce > maxProcesses) {
			continue
		}
		names = append(names, client)
	}
	return names
}

// run runs a client once and measures it.
func (b *bench) run(ctx context.Context, client string) (measurement, error) {
	if !b.work.Real && !b.work.Undiscovered {
		expected := 2*b.work.Over + 10*time.Second
		if err := b.catalog.awaitRoom(ctx, expected); err != nil {
			return measurement{}, err
		}
		if err := b.catalog.registerNodes(ctx, b.work.Nodes); err != nil {
			return measurement{}, err
		}
	}
	if err := sleepUntil(ctx, time.Now().Add(settleTime)); err != nil {
		return measurement{}, err
	}
	begun := time.Now()
	before, _ := cpuTime(b.pid)
	var m measurement
	var err error
	if b.work.AtOnce > 0 {
		m, err = b.runAtOnce(ctx, client)
	} else {
		m, err = b.runOne(ctx, client)
	}
	if b.catalog.lastReconciled().After(begun) {
		m.problems = append(m.problems, "the leader removed the nodes from the catalog during the run")
	}
	if after, ok := cpuTime(b.pid); ok {
		m.serverCPU = after - before
	}
	return m, err
}

// runOne makes one run within the work's limit.
func (b *bench) runOne(ctx context.Context, client string) (m measurement, err error) {
	limit := b.work.limit()
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the run did not end within %v", limit))
	defer cancel()
	if client == writesAlone {
		m, err = b.writeAlone(ctx)
	} else {
		m, err = b.runClient(ctx, client)
	}
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	return m, err
}

// writeAlone runs the virtual nodes for a job without a client.
func (b *bench) writeAlone(ctx context.Context) (m measurement, err error) {
	options := (&api.WriteOptions{}).WithContext(ctx)
	entry := &api.SessionEntry{Name: "bench", Behavior: api.SessionBehaviorDelete}
	session, _, err := b.client.Session().Create(entry, options)
	if err != nil {
		return m, err
	}
	start := time.Now()
	lastExit, err := simulate(ctx, b.work, b.writer, job{"_rexec", session})
	if err != nil {
		return m, err
	}
	m.writing = lastExit.Sub(start)
	_, err = b.client.Session().Destroy(session, options)
	return m, err
}

// runClient runs a client's process. When the client has submitted its job, it
// runs the nodes.
func (b *bench) runClient(ctx context.Context, client string) (measurement, error) {
	b.proxy.meter.reset()
	select {
	case <-b.proxy.jobs: // left by an earlier run that failed
	default:
	}
	p, err := b.startProcess(client, b.proxy.addr)
	if err != nil {
		return measurement{}, err
	}
	defer p.kill()
	working, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	nodes := make(chan nodesEnd, 1)
	go func() { nodes <- b.answer(working) }()

	var end nodesEnd
	select {
	case end = <-nodes:
		if end.err != nil { // for example, the client destroyed its session early and is about to end
			ctx, cancel := context.WithTimeout(ctx, grace)
			defer cancel()
			p.wait(ctx)
		} else {
			p.wait(ctx)
		}
	case <-p.ended:
		stopping := time.AfterFunc(grace, func() { stop(errors.New("the client ended before the nodes")) })
		defer stopping.Stop()
		end = <-nodes
	}
	p.kill()
	if err := context.Cause(ctx); err != nil {
		return measurement{}, err
	}
	return b.summarize(p, end), nil
}

// nodesEnd is the result of the nodes' work.
type nodesEnd struct {
	started, lastExit time.Time
	err               error
}

// answer waits for the job, then runs the virtual nodes or watches the real
// ones. It returns after the last exit was written.
func (b *bench) answer(ctx context.Context) nodesEnd {
	var end nodesEnd
	select {
	case j := <-b.proxy.jobs:
		end.started = time.Now()
		if b.work.Real {
			end.lastExit, end.err = b.watchExits(ctx, j)
		} else {
			end.lastExit, end.err = simulate(ctx, b.work, b.writer, j)
		}
	case <-ctx.Done():
		end.err = context.Cause(ctx)
	}
	return end
}

// watchExits waits for the exits of all real nodes and returns the time of the
// last. It queries the server directly, so the proxy does not count its
// requests.
func (b *bench) watchExits(ctx context.Context, j job) (time.Time, error) {
	for index := uint64(0); ; {
		q := (&api.QueryOptions{WaitIndex: index, WaitTime: 10 * time.Second}).WithContext(ctx)
		keys, meta, err := b.client.KV().Keys(j.Prefix+"/"+j.Session+"/", "", q)
		if err != nil {
			return time.Time{}, err
		}
		if countExits(keys) == b.work.Nodes {
			return time.Now(), nil
		}
		index = max(meta.LastIndex, 1)
	}
}

func countExits(keys []string) int {
	n := 0
	for _, key := range keys {
		if strings.HasSuffix(key, "/exit") {
			n++
		}
	}
	return n
}
