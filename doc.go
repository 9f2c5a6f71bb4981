// Package consulexec runs a command on every matching node of a Consul cluster
// and reports, node by node and as it happens, who acknowledged it, what it
// printed and how it exited. It speaks the protocol behind `consul exec`, which
// every Consul agent understands if remote exec is enabled there.
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
// A run opens a session in Consul and writes the job under it. Meanwhile it
// asks the catalog which nodes are alive and match the filters. If there is
// none, the run ends with [ErrNoTargets] and no node gets the job. Otherwise
// the run fires an event, which reaches the nodes by gossip: [OnTargets] says
// to whom, and [OnSubmit] that it is on its way. Each node that takes the job
// acknowledges it ([OnAck]), runs the command and sends the output as it comes
// ([OnOutput]). A silent command sends heartbeats ([OnHeartbeat]). At last the
// node sends the exit status ([OnExit]).
//
// The run is done ([OnDone]) when no node is running and each expected node has
// exited, is lost, or has not responded. A lost node acknowledged and then fell
// silent ([OnLost], see [WithLostTimeout]); for a node without a response see
// [OnNoResponse] and [WithAckTimeout]. With [WithMinNodes] the run also waits
// until that many nodes have exited, or nothing new has come for the ack
// timeout. If the token may not read the catalog, or with [WithoutDiscovery],
// only the nodes of [WithNodes] are expected. Without WithNodes silence then
// ends the run. [Result.DiscoveryErr] says so.
//
// The agents match [WithNode], [WithService] and [WithTag]. Consul's catalog
// matches [WithFilter] and [WithHealthyService]. [Exec.Targets] says which
// nodes that makes, without a run. [WithNodes] addresses nodes by name, however
// many. With [WithConcurrency] the job goes to some nodes at a time, and to the
// next one as one ends: a rolling run. [WithMaxFailures] stops it.
// [RunDatacenters] makes a run in each of several datacenters.
//
// However a run ends, its sessions are destroyed and its keys are deleted before
// the last callback. If that fails, or this process dies, the TTLs remove the
// session and the job within 30 seconds, and fences within two minutes. A new
// leader of Consul's servers restarts these times. If the servers'
// session_ttl_min is over 15 seconds, it is twice that, and eight times that for
// fences.
//
// # Gossip, fences and running twice
//
// Gossip, which carries the event, may miss a node: each agent passes it on a
// few times only, to others picked at random. So an expected node that has not
// acknowledged after a fifth of the ack timeout, and again after two fifths, is
// dispatched to again. It is fenced before: a second session locks the key of
// its acknowledgement, so that the node can no longer take the job from the
// dispatch before. Each of these two rounds fires at most ten events. With an
// ack timeout of less than two seconds there is none.
//
// At the ack timeout a silent node is fenced for good. So StateNoResponse means
// that the node did not run the command and will not. (Somebody else who deletes
// keys of the run meanwhile can make that untrue.) If the run ends early,
// silent nodes are fenced as well. A node that can't be fenced is StateLost, and
// its error says that it may have taken the job.
//
// The nodes that get the job at one time share a key for it. The key is deleted
// when each of them has acknowledged or is fenced. From then on a late or
// second copy of the event starts nothing. Until then an agent or a proxy that
// repeats the request for the event by itself can make a node run the command
// twice; Consul's protocol does not prevent that. The runner does, which
// [WithTimeout] describes, until a minute after the command's end. Without the
// runner it hardly shows in Consul
// either: only if a value was written over before the run read it, or if a key
// is there again that the run has deleted. Then the node's error says that the
// command may have run twice, whatever its status. Nodes that are not known (see
// [WithoutDiscovery]) can't be fenced: their job stays until the run ends.
//
// # Callbacks and events
//
// Callbacks are called one at a time, on one goroutine: the one that called
// [Exec.Run], or one that [Exec.Start] started. For each node the order is ack,
// output and heartbeats, exit or lost. [OnTargets] and [OnSubmit] come before,
// exactly one of [OnDone] and [OnError] last, and none after [Exec.Wait] has
// returned. A slow callback slows the reading of what the nodes report, and
// nothing else: the session stays alive. If a callback panics, the run ends,
// and session and keys are removed before the panic goes on. [Exec.Events] is
// the same run as a range loop.
//
// # Errors
//
// The error of Run and Wait is about the job itself: Consul can't be reached, a
// permission is missing ([ErrPermissionDenied]), the session is lost
// ([ErrSessionLost]), the context has ended. A command that fails on some node
// is no such error. [Result.Err] has both kinds: it is nil only if all went
// well everywhere. [New] returns an [OptionError] for each option that is not
// usable.
//
// # When Consul falters
//
// A request is retried, with growing pauses, if Consul can't be reached, is
// overloaded, has no leader, or does not know a fresh token yet. Before the run
// has a session, retries go on for five seconds. After that they go on for as
// long as the session can live: 30 seconds after its last renewal. No node ages
// while nothing can be read. What a gateway in front of Consul answers by itself
// says nothing of session and keys. An event that may have gone out is fired
// again only for nodes that are fenced, so that no retry makes a node run the
// command twice. If the nodes are not known, it is fired again only if Consul
// says that it did nothing. An agent that lost its server meanwhile may say so of
// its second try only. An agent whose write fails in such a time gives up and
// falls silent: its node is lost.
//
// # What Consul's agents do not do
//
// An agent never ends a command. If the run ends before the command does, for
// example because its context is cancelled, the command runs on, unseen.
// [WithTimeout] and [WithKillOnCancel] end it: with them the command runs under
// a small shell program, the runner. It also sets the environment, the directory
// and the input, and caps the output: [WithEnv], [WithDir], [WithStdin] and
// [WithMaxOutput]. A [WithScript] always runs under it.
//
// An agent waits for everybody who holds the command's output. So a child in the
// background can hold a run for ever; [OnExit] says what to do about it.
//
// # What a cluster must allow
//
// Agents take part if their configuration has disable_remote_exec = false;
// since Consul 0.8 the default is true. With ACLs, the run's token needs
// session:write on the node that holds the session, key:write on the prefix and
// event:write on "_rexec". It needs node:read on all nodes for an exact end,
// and service:read for WithService, WithHealthyService and WithDatacenter.
// [WithToken] is the token of one run. Each agent's own token needs key:write
// on the prefix.
package consulexec
