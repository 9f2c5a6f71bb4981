// Package consulexec runs a command on every matching node of a Consul cluster
// and reports, node by node and as it happens, who acknowledged it, what it
// printed and how it exited. It speaks the protocol behind `consul exec`, which
// every Consul agent understands that has remote exec enabled.
//
//	e, err := consulexec.New("uptime",
//		consulexec.WithNode(`^web-`),
//		consulexec.OnOutput(func(node string, output []byte) { fmt.Printf("%s: %s", node, output) }),
//		consulexec.OnExit(func(node string, code int) { fmt.Printf("%s: exit %d\n", node, code) }),
//	)
//	...
//	result, err := e.Run(ctx)
//
// # The life of a run
//
// A run opens a session in Consul and writes the job under it; meanwhile it asks
// the catalog which nodes are alive and match the filters. Where there is none it
// ends with [ErrNoTargets], and no node was told. Otherwise it fires an event,
// which reaches the nodes by gossip: [OnSubmit]. Each node that takes the job
// acknowledges it ([OnAck]), runs the command and sends its output as it comes
// ([OnOutput]), a heartbeat where there is none for a while ([OnHeartbeat]), and
// at last the exit status ([OnExit]).
//
// The run is done ([OnDone]) when no node is running any more and each expected
// node has exited, is lost ([OnLost]: it acknowledged and then fell silent, see
// [WithLostTimeout]) or has not answered ([OnNoResponse], see [WithAckTimeout]);
// with [WithMinNodes], when at least that many have exited besides, or nothing
// new has come for the ack timeout. Where the token may not read the catalog, and
// with [WithoutDiscovery], nobody is expected, and silence ends the run;
// [Result.DiscoveryErr] says so.
//
// [WithNodes] addresses nodes by name, however many. With [WithConcurrency] the
// nodes are told one after another, the next as one ends, and [WithMaxFailures]
// stops that: a rolling run. [RunDatacenters] makes a run in each of several
// datacenters.
//
// However a run ends, its session is destroyed and its keys are deleted before
// the last callback. Where that fails, or this process dies, the session's TTL
// does it, within 30 seconds.
//
// # Callbacks and events
//
// Callbacks are called one at a time, on one goroutine: the one that called
// [Exec.Run], or one that [Exec.Start] started. For each node the order is ack,
// output and heartbeats, exit or lost. [OnSubmit] comes before all of them,
// exactly one of [OnDone] and [OnError] last, and none after [Exec.Wait] has
// returned. A callback that takes its time slows the reading of what the nodes
// report, and nothing else: the session stays alive. A callback that panics ends
// the run; session and keys are removed before the panic goes on. [Exec.Events] is
// the same run as a range loop.
//
// # Errors
//
// The error of Run and Wait is about the job itself: Consul cannot be reached, a
// permission is missing ([ErrPermissionDenied]), the session is lost
// ([ErrSessionLost]), the context has ended. A command that fails on some node is
// no such error. [Result.Err] has both: it is nil only when all went well
// everywhere.
//
// # When Consul falters
//
// Requests that fail because Consul cannot be reached, is overloaded or has no
// leader are repeated, with growing pauses: before there is a session for five
// seconds, then for as long as the session can live, which is 30 seconds after it
// was last renewed. No node ages while nothing can be read. The event is repeated
// only when it certainly did not go out, so that no node runs the command twice.
// An agent whose write meets such a gap gives up and falls silent: its node is
// lost.
//
// # What Consul's agents do not do
//
// An agent never ends a command: when the run ends before the command does, as
// when its context is cancelled, the command runs on, unseen. [WithTimeout] and
// [WithKillOnCancel] end it: with them the command runs by way of a small shell
// program that can.
//
// Gossip, which carries the event, may miss a node: each agent passes it on a few
// times only, to others picked at random. Anti-entropy brings it to that node some
// 30 seconds later; [WithAckTimeout] says for how long the run waits for that.
//
// # What a cluster must allow
//
// Agents take part where their configuration has disable_remote_exec = false;
// since Consul 0.8 they don't by default. With ACLs, the run's token needs
// session:write on the node that holds the session, key:write on the prefix and
// event:write on "_rexec"; node:read on all nodes for an exact end, and
// service:read for WithService and WithDatacenter. Each agent's own token needs
// key:write on the prefix.
package consulexec
