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
// ends the run. [Result.DiscoveryErr] says so, and [Result.Err] too, unless it
// was WithoutDiscovery that the caller asked for.
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
// # Options by subject
//
//   - How to reach Consul: [WithClient] or [WithConfig], otherwise the
//     environment; [WithToken], [WithDatacenter], [WithPrefix]; [WithLogger].
//   - Which nodes: [WithNodes]; what the agents match: [WithNode], [WithService],
//     [WithTag]; what the catalog selects: [WithFilter], [WithHealthyService]; how
//     many: [WithLimit], [WithMinNodes]. [Exec.Targets] says which nodes that
//     makes, and [WithoutDiscovery] does without the catalog.
//   - What runs there: the command of [New], [WithScript] or [WithArgs];
//     [WithShell], [WithEnv], [WithDir], [WithStdin].
//   - Bounds of the command on a node: [WithTimeout], [WithMaxOutput],
//     [WithKillOnCancel]. The bound of the run is its context's deadline.
//   - One after the other: [WithConcurrency], [WithConcurrencyPercent],
//     [WithMaxFailures].
//   - What to wait for: [WithAckTimeout], [WithLostTimeout], [WithRecovery],
//     [WithWait], [WithReplicationWait].
//   - What comes back: callbacks such as [OnLine] and [OnExit], or [Exec.Events];
//     [WithCapture], [Result.Groups].
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
// returned. An option that is given twice adds a callback. A slow callback
// slows the reading of what the nodes report, and nothing else: the session
// stays alive. If a callback panics, the run ends, and session and keys are
// removed before the panic goes on. [Exec.Events] is the same run as a range
// loop.
//
// # Errors
//
// The error of Run and Wait is about the job itself. A command that fails on
// some node is no such error. [Result.Err] is the whole truth: it has both kinds,
// and what nobody knows, and is nil only if all went well everywhere. As the
// Result is never nil, this misses nothing:
//
//	result, _ := e.Run(ctx)
//	return result.Err()
//
// Programs tell errors apart by errors.Is, and *OptionError and *NodeError by
// errors.As. The last column says whether a new run may help. "If twice is
// harmless" means: only if the command may safely run twice on a node.
//
//	error                     meaning                                            again?
//	ErrNoCommand              there is nothing to run                            no; give a command
//	ErrBadOption              an *OptionError says which option is wrong         no; correct it
//	ErrUnavailable            Consul was not reached, had no leader, was         later; once Submitted,
//	                          overloaded or gave no answer                       if twice is harmless
//	ErrPermissionDenied       the token may not do that, or not see all nodes    no; the text says what it needs
//	ErrNoTargets              no node matches and is alive, or, if nobody knows  when there is a node
//	                          the nodes, none has answered
//	ErrSessionLost            the session ended before the run; commands go on,  if twice is harmless
//	                          unseen
//	ErrTooFewNodes            fewer nodes than WithMinNodes or WithLimit want    if twice is harmless
//	ErrTimedOut               WithTimeout ended the command on a node            if twice is harmless
//	*NodeError                what became of one node                            its State says it
//	context.Canceled          the run's context ended; without WithKillOnCancel  if twice is harmless
//	context.DeadlineExceeded  commands go on, unseen
//	ErrLoopLeft               the loop over Events was left, with the same       that was the caller's wish
//	                          effect; never in Result.Err
//	ErrStarted                the Exec runs, or has run                          yes, with a new Exec
//	ErrNotStarted             Wait came before the start                         yes, start it
//	ErrDiscoveryOff           is only Result.DiscoveryErr                        that was the caller's wish
//
// If [Result.Submitted] is false, no event went out: no node ran the command,
// and a new run repeats nothing. The same holds for each node in
// StateNoResponse or StateSkipped. An error may be of several kinds: a run that
// lost its session because Consul did not answer is ErrSessionLost and
// ErrUnavailable. A node may have such a reason, too.
//
// # When Consul falters
//
// A request is retried, with growing pauses, if Consul can't be reached, is
// overloaded, has no leader, or does not know a fresh token yet. Before the run
// has a session, retries go on for five seconds. After that they go on for as
// long as the session can live: 30 seconds after its last renewal. If Consul
// refuses a request because it grants no further connection, or by its rate
// limit (429), retries go on for as long as the context lets them, and the
// session if there is one. (Package net/http may log an "Unsolicited response
// received on idle HTTP channel" then.) A connection that is reset may be such
// a refusal: if it is no more than that, retries go on for 30 seconds. No node
// ages while nothing can be read. What a gateway in front of Consul answers by
// itself says nothing of session and keys. An event that may have gone out is
// fired again only for nodes that are fenced, so that no retry makes a node run
// the command twice. If the nodes are not known, it is fired again only if
// Consul says that it did nothing. An agent that lost its server meanwhile may
// say so of its second try only. An agent whose write fails in such a time
// gives up and falls silent: its node is lost. With [WithRecovery] the run asks
// such nodes, and it outlives its session.
//
// # Many runs at once
//
// Any number of runs may be under way in a process. Those that reach the same
// Consul with the same settings, or with the same client of [WithClient], share
// three things. Clients that New makes share their connections, which are
// closed with the last run. A run holds one connection while it waits for news,
// and further requests are made 32 at a time to each datacenter, besides
// renewals, or one at a time for ten seconds after Consul has refused a
// connection. If more than 50 runs are under way, or Consul has refused a
// connection, none is held: the runs list in turn, together at most 250 times a
// second. And the events of all go out in turn, at the pace of gossip, some
// twenty a second: a run asks for one turn at a time, so a large run does not
// keep a small one waiting. Runs under way alternate with runs that begin: none
// waits in its middle for a thousand others to begin. A run opens its session
// when the turn of its first event has come. So of a thousand runs that start
// at once, the last begins after some 50 seconds. Times that an option gives,
// such as the ack timeout, begin with the event. The context's deadline does
// not wait.
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
