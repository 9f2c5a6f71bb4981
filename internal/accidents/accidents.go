// Package accidents has accidents happen to runs on a real cluster: agents die,
// connections fall silent, sessions vanish. The tests check what then becomes of
// runs, and internal/bench counts it.
package accidents

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/consulexec/consulexec/internal/devcluster"
)

// Patience is for how long WithRecovery has a node be out of reach, unless the
// accident says otherwise.
const Patience = 45 * time.Second

// A Group has accidents that happen on one cluster, one after the other. The
// groups can have a cluster each.
type Group struct {
	Name      string
	Accidents []Accident
}

// An Accident happens to a run.
type Accident struct {
	Name     string
	Patience time.Duration // for WithRecovery
	Recovers bool          // at least one node is reached again, with recovery
	Restarts bool          // the command has its agent restarted, and waits for that

	happen func(ctx context.Context, v *Victim) error
}

// Groups are all accidents. The clusters consist of [Nodes].
var Groups = []Group{
	{"servers", []Accident{
		{Name: "the leader is killed, and started 3 s later", Patience: Patience, Recovers: true, happen: killLeader},
		{Name: "the leader leaves (`consul leave`), and is started", Patience: Patience, Recovers: true, happen: leaveLeader},
		{Name: "the leader gets SIGTERM, and is started", Patience: Patience, happen: terminateLeader},
		{Name: "every server gets SIGTERM and is started, one after the other", Patience: Patience, Recovers: true, happen: terminateServers},
		{Name: "every agent is killed and started, one after the other", Patience: Patience, Recovers: true, happen: killAll},
	}},
	{"clients", []Accident{
		{Name: "a client agent gets SIGTERM, leaves, and is started", Patience: Patience, Recovers: true, happen: terminate("client-2")},
		{Name: "the agent that has the session gets SIGTERM and is started", Patience: Patience, Recovers: true, happen: terminate("client-1")},
		{Name: "the command has its own agent restarted, on every node", Patience: Patience, Recovers: true, Restarts: true, happen: restartAsAsked},
	}},
	{"sessions", []Accident{
		{Name: "the session is destroyed", Patience: Patience, Recovers: true, happen: destroySessions},
		{Name: "the prefix is deleted", Patience: Patience, happen: deletePrefix},
		{Name: "this client is cut off for a minute", Patience: 2 * Patience, Recovers: true, happen: cutOff},
	}},
}

// Nodes are five nodes whose cluster survives the loss of a server. A server
// that is killed keeps its vote. So the next one can be killed once the first is
// back. The agents share a directory for temporary files.
func Nodes(tmp string) []devcluster.Node {
	nodes := devcluster.Nodes(3, 2)
	for i := range nodes {
		n := &nodes[i]
		n.Env = []string{"TMPDIR=" + tmp, nodeEnv + "=" + n.Name}
		if n.Server {
			n.Config = `autopilot { cleanup_dead_servers = false }`
		}
	}
	return nodes
}

// A Victim is a run that has an accident. It runs Command and reaches client-1 of
// the cluster through Proxy.
type Victim struct {
	Cluster *devcluster.Cluster
	Proxy   *Proxy
	Command *Command
}

// startTime is how long after the first node the last one may start the command.
// It is consulexec's ack timeout: no node starts it later.
const startTime = 5 * time.Second

// Happen has the accident happen some time after the command has started on all
// nodes that start it. It returns when the cluster is as it was. If ctx ends
// before the accident, it does not happen, and the error says so.
func (a Accident) Happen(ctx context.Context, v *Victim, after time.Duration) error {
	if err := v.awaitStart(ctx); err != nil {
		return err
	}
	if !sleep(ctx, after) {
		return errors.New("the run ended before the accident")
	}
	return a.happen(ctx, v)
}

// awaitStart waits until the command has started on all nodes.
func (v *Victim) awaitStart(ctx context.Context) error {
	nodes := len(v.Cluster.Nodes())
	var last time.Time
	for {
		started, err := v.Command.Started()
		if err != nil {
			return err
		}
		if started > 0 && last.IsZero() {
			last = time.Now().Add(startTime)
		}
		if started >= nodes || !last.IsZero() && time.Now().After(last) {
			return nil
		}
		if !sleep(ctx, 10*time.Millisecond) {
			return fmt.Errorf("the run ended when %d of %d nodes had started the command", started, nodes)
		}
	}
}

// sleep returns false if ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// restart ends an agent in some way, and starts it again after a pause.
func (v *Victim) restart(end func(node string) error, node string, pause time.Duration) error {
	err := end(node)
	time.Sleep(pause)
	return errors.Join(err, v.Cluster.Restart(node))
}

// restartLeader is restart of the leader.
func (v *Victim) restartLeader(end func(node string) error, pause time.Duration) error {
	leader, err := v.Cluster.Leader("") // waits for an election
	if err != nil {
		return err
	}
	return v.restart(end, leader, pause)
}

func killLeader(_ context.Context, v *Victim) error {
	return v.restartLeader(v.Cluster.Kill, 3*time.Second)
}

func leaveLeader(_ context.Context, v *Victim) error {
	return v.restartLeader(v.Cluster.Stop, 0)
}

func terminateLeader(_ context.Context, v *Victim) error {
	return v.restartLeader(v.Cluster.Terminate, 0)
}

func terminateServers(_ context.Context, v *Victim) error {
	var errs []error
	for _, node := range []string{"server-1", "server-2", "server-3"} {
		errs = append(errs, v.restart(v.Cluster.Terminate, node, 0))
	}
	return errors.Join(errs...)
}

func killAll(_ context.Context, v *Victim) error {
	var errs []error
	for _, node := range v.Cluster.Nodes() {
		errs = append(errs, v.restart(v.Cluster.Kill, node, 0))
	}
	return errors.Join(errs...)
}

func terminate(node string) func(context.Context, *Victim) error {
	return func(_ context.Context, v *Victim) error {
		return v.restart(v.Cluster.Terminate, node, time.Second)
	}
}

// restartAsAsked restarts each agent whose command asks for that.
func restartAsAsked(_ context.Context, v *Victim) error {
	deadline := time.Now().Add(2 * time.Minute)
	for done := 0; ; time.Sleep(100 * time.Millisecond) {
		asking, err := v.Command.asking()
		if err != nil {
			return err
		}
		for _, node := range asking {
			if err := v.restart(v.Cluster.Terminate, node, 0); err != nil {
				return err
			}
			if err := v.Command.restarted(node); err != nil {
				return err
			}
			done++
		}
		started, err := v.Command.Started()
		if err != nil || done >= started {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d commands asked for a restart", done, started)
		}
	}
}

// cutOff holds back what the client sends and receives. It ends early if the run
// does.
func cutOff(ctx context.Context, v *Victim) error {
	v.Proxy.Hush()
	sleep(ctx, time.Minute)
	v.Proxy.Speak()
	return nil
}

func destroySessions(_ context.Context, v *Victim) error {
	client := v.Cluster.Client("server-1").Session()
	sessions, _, err := client.List(nil)
	if err != nil {
		return err
	}
	if len(sessions) == 0 {
		return errors.New("there is no session to destroy")
	}
	var errs []error
	for _, s := range sessions {
		_, err := client.Destroy(s.ID, nil)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func deletePrefix(_ context.Context, v *Victim) error {
	_, err := v.Cluster.Client("server-1").KV().DeleteTree("_rexec/", nil)
	return err
}
