package consulexec

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-uuid"

	"github.com/consulexec/consulexec/internal/consul"
	"github.com/consulexec/consulexec/internal/reader"
	"github.com/consulexec/consulexec/internal/runner"
)

// cleanUpTimeout bounds the removal of session and keys if the context has
// ended or the run has failed. If it is too short, the session's TTL removes
// them.
const cleanUpTimeout = 4500 * time.Millisecond

// turnLife is how long a run may take to use the turn of its first event. If Consul
// keeps it waiting for longer, others wait too, and all would fire at once.
const turnLife = time.Second

// An Exec is one command for the nodes of a cluster. It runs once.
type Exec struct {
	config *config
	id     string

	started atomic.Bool
	done    chan struct{} // closed when the fields below are final
	result  *Result
	err     error
}

// New prepares to run command on every node that the options select. The shell
// of the node's agent runs it: $SHELL with -c, or /bin/sh if the agent has no
// $SHELL. WithShell names another. The command is valid UTF-8 of under 128 KiB,
// without a NUL byte. With WithScript and WithArgs it has to be empty.
//
// New touches no network. Its error has everything that is wrong: with the
// command and the options, each as an *OptionError, or ErrNoCommand; and with
// Consul's environment variables, if there is no WithConfig and no WithClient.
func New(command string, options ...Option) (*Exec, error) {
	e, errs := newExec(command, options)
	for i, err := range errs {
		errs[i] = prefixed(err)
	}
	return e, errors.Join(errs...)
}

// newExec is New, with the errors one by one.
func newExec(command string, options []Option) (*Exec, []error) {
	config, errs := newConfig(command, options)
	if len(errs) > 0 {
		return nil, errs
	}
	id, err := uuid.GenerateUUID()
	if err != nil {
		return nil, []error{fmt.Errorf("make the run's ID: %w", err)}
	}
	return &Exec{config: config, id: id, done: make(chan struct{})}, nil
}

// ID returns the ID of the run, a UUID. It is in the name of the run's session,
// which `GET /v1/session/list` shows, and in each line of its log.
func (e *Exec) ID() string { return e.id }

// Run runs the command and waits for its end, or for that of ctx, whose deadline
// bounds the run; what bounds the command on each node is WithTimeout. Run is
// Start and Wait in one, but calls the callbacks on the caller's goroutine. So a
// panic in a callback passes through Run.
//
// The Result is never nil, and Result.Err has the error, too. If nothing was
// started, as with ErrStarted, it is a new Result that has the error only.
func (e *Exec) Run(ctx context.Context) (*Result, error) {
	if err := e.begin(ctx); err != nil {
		return &Result{err: err}, err
	}
	e.run(ctx, e.config.handlers.listener())
	return e.Wait()
}

// Start begins to run the command and returns at once. A goroutine of the run
// calls the callbacks. If the run fails, Wait returns the error. Start itself
// returns ErrStarted for an Exec that was started before, and an error for a
// nil ctx.
//
// When ctx ends, the run ends: its session and keys are removed, and the error
// wraps the context's. Commands that run on nodes go on, as Consul's agents
// never end them; WithKillOnCancel ends them.
func (e *Exec) Start(ctx context.Context) error {
	if err := e.begin(ctx); err != nil {
		return err
	}
	go e.run(ctx, e.config.handlers.listener())
	return nil
}

// Wait waits for the end of a run. No callback is called after it has returned.
// Several goroutines may call Wait, more than once. A callback that calls Wait
// waits for ever.
//
// The error is nil if the run went to its end. If the command failed on a node,
// or a node did not answer, the error is in Result.Err, not here. The Result is
// never nil. It says how far the run got, and its Err has this error, too.
// Before a start the error is ErrNotStarted, and the Result is a new one.
func (e *Exec) Wait() (*Result, error) {
	if !e.started.Load() {
		return &Result{err: ErrNotStarted}, ErrNotStarted
	}
	<-e.done
	return e.result, e.err
}

// Events runs the command and returns its events as a sequence to range over,
// in place of Start, Run and callbacks:
//
//	for event, err := range e.Events(ctx) {
//		if err != nil {
//			return err
//		}
//		...
//	}
//	result, err := e.Wait()
//
// The run begins with the loop, on the loop's goroutine. Events come in the
// order of the callbacks, and a slow loop body is like a slow callback. The
// error of the run, which Wait returns too, comes last, with a zero Event. If
// the loop ends without an error, the run is done. An Exec runs once: a second
// loop, or one after Start or Run, gets ErrStarted and nothing else.
//
// With WithConcurrency(1) no other node gets the job before the loop body has
// returned from the EventExit of the one before. So the body can be the gate of a
// rolling run: it waits until the node is healthy again, or leaves the loop.
//
// If you leave the loop, the run ends as if ctx were cancelled: its sessions and
// keys are removed before the statement after the loop. The error of Wait then wraps
// ErrLoopLeft and context.Canceled, unless the run had already ended. A run ends
// after the event of its last node. Result.Err does not have this error. It says
// what became of the nodes: those on which the command still runs, and those
// that did not get the job, are not a success. If the loop body panics, session
// and keys are removed before the panic goes on.
//
// Callbacks are called too, each before its event is in the loop. OnDone or
// OnError come after the last event and before the error. After the loop is
// left, callbacks are still called for what the run had read from Consul, which
// the Result has too, and then OnError or OnDone.
func (e *Exec) Events(ctx context.Context) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		if err := e.begin(ctx); err != nil {
			yield(Event{}, err)
			return
		}
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		callbacks := e.config.handlers.listener()
		left := false
		e.run(ctx, func(event Event) {
			callbacks(event)
			if event.Type > 0 && !left && !yield(event, nil) {
				left = true
				cancel(ErrLoopLeft)
			}
		})
		if e.err != nil && !left {
			yield(Event{}, e.err)
		}
	}
}

func (e *Exec) begin(ctx context.Context) error {
	if ctx == nil {
		return errors.New("consulexec: nil context")
	}
	if !e.started.CompareAndSwap(false, true) {
		return ErrStarted
	}
	return nil
}

// errAborted is the error of a run if a callback panicked or ended its
// goroutine.
var errAborted = errors.New("a callback panicked or ended its goroutine")

// prefixed says whose error it is, to callers outside this package.
func prefixed(err error) error { return fmt.Errorf("consulexec: %w", err) }

// run is the life of the run, on the one goroutine that owns all its state. It
// sends every event to listen.
func (e *Exec) run(ctx context.Context, listen listener) {
	r := newRun(ctx, e, listen)
	e.err = prefixed(errAborted)
	defer func() {
		e.result = r.result(e.err)
		close(e.done)
	}()
	defer r.consul.Pool.Leave()

	err := r.execute()
	r.reportTargets() // unless OnSubmit was called
	for _, node := range r.state.holding() {
		r.endOutput(node)
	}
	if err != nil {
		err = prefixed(err)
		r.log.Debug("failed", "error", err)
		r.emit(Event{Type: eventError, Err: err})
	} else {
		r.log.Debug("done")
		r.emit(Event{Type: eventDone})
	}
	e.err = err
}

// run is a run under way. Only the goroutine of Exec.run touches it.
type run struct {
	*config
	id     string
	consul *consul.Client
	log    *slog.Logger
	listen listener
	began  time.Time

	caller context.Context         // the caller's
	ctx    context.Context         // ends with caller, with the session, and at clean-up
	stop   context.CancelCauseFunc // ends ctx
	tasks  sync.WaitGroup          // the goroutines beside this one

	state          *state
	session        *session // nil before there is one
	mayHaveOrphans bool     // whether Consul may have created sessions that we don't know
	awaitOrphan    bool     // whether one of these may still be on its way
	dispatcher     *dispatcher
	reader         *reader.Reader // nil before the first event
	absent         []absence      // expected nodes that can't answer
	targets        *Event         // EventTargets until it is reported, or nil
	submitted      bool           // whether OnSubmit was called
	submittedAt    time.Time      // when it was
	found          chan sighting  // what the catalog says of silent nodes
	turn           *consul.Turn   // for the next event, or nil
	uncertain      uncertainty
	discoveryErr   error
	stillRunning   error     // why commands that had to end may still run, or nil
	heard          time.Time // when Consul answered last
}

func newRun(ctx context.Context, e *Exec, listen listener) *run {
	log := e.config.logger.With("run", e.id)
	r := &run{
		config: e.config,
		id:     e.id,
		consul: e.newClient(e.config.connection.Open(), log),
		log:    log,
		listen: listen,
		began:  time.Now(),
		caller: ctx,
		state:  newState(e.config),
	}
	for _, note := range r.possibleNotes() {
		r.state.notes = append(r.state.notes, note.Text(e.id))
	}
	r.ctx, r.stop = context.WithCancelCause(ctx)
	return r
}

// newClient returns a client for the requests of a run.
func (e *Exec) newClient(pool *consul.Pool, log *slog.Logger) *consul.Client {
	return &consul.Client{API: e.config.client, Datacenter: e.config.datacenter, Token: e.config.token, Pool: pool, Log: log}
}

// possibleNotes returns the notes with which the runner may end the output, the
// first of noteOrder.
func (r *run) possibleNotes() []runner.Note {
	switch {
	case r.recovery > 0:
		return noteOrder
	case r.job.Timeout > 0:
		return noteOrder[:1]
	}
	return nil
}

// emit sends an event to whoever listens to the run.
func (r *run) emit(e Event) {
	e.Time = time.Now()
	r.listen(e)
}

// execute runs the command, removes session and keys, and ends commands that
// must not go on. It does so even if a callback panics or ends the goroutine:
// then main does not return.
func (r *run) execute() (err error) {
	timeout, aborted := cleanUpTimeout, true
	defer func() {
		r.cleanUp(timeout)
		if r.job.Killable && (aborted || err != nil && r.caller.Err() != nil) {
			err = r.kill(err)
		}
	}()
	err = r.main()
	if aborted = false; err == nil {
		timeout = consul.SessionLife // Consul may falter at this moment too
	}
	return err
}

// main runs the command, from the session to the last node's exit.
func (r *run) main() error {
	err := r.prepare()
	if err == nil {
		err = r.submit()
	}
	if err == nil {
		err = r.follow()
	}
	for {
		if err != nil && r.ctx.Err() != nil && r.caller.Err() == nil {
			err = context.Cause(r.ctx) // the loss of the session is behind every other failure
		}
		if !r.mayReopen(err) {
			return err
		}
		if err = r.reopen(err); err != nil {
			return err
		}
		if err = r.dispatch(); err == nil {
			err = r.follow()
		}
	}
}

// prepare waits for the turn of the run's first event. So the runs of a process
// begin as gossip can carry their events. Then it opens the session and writes the
// job. Meanwhile it asks the catalog which nodes to expect.
func (r *run) prepare() error {
	if err := r.awaitTurn(); err != nil {
		return err
	}
	came := time.Now()
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	var found targets
	var discoveryErr error
	var discovery sync.WaitGroup
	discovery.Go(func() {
		if r.noDiscovery {
			discoveryErr = ErrDiscoveryOff
			return
		}
		found, discoveryErr = catalog{Client: r.consul}.targets(ctx, r.config)
	})
	err := r.createSession(r.ctx)
	if err == nil {
		err = r.dispatcher.prepare(r.ctx)
	}
	if err != nil {
		cancel()
	}
	discovery.Wait()
	if err != nil {
		return err
	}
	if err := r.expect(found, discoveryErr); err != nil {
		return err
	}
	if time.Since(came) > turnLife {
		r.turn = nil // its time has passed unused
	}
	return r.awaitTurn()
}

// awaitTurn waits for the turn of the first event, unless it has come.
func (r *run) awaitTurn() error {
	if r.turn == nil {
		r.turn = r.askTurn(r.config.firstEventSize(), !r.kills)
	}
	r.onTurn(true)
	if !r.turn.Wait(r.ctx) {
		r.turn = nil
		return consul.ContextError(r.ctx)
	}
	r.onTurn(false)
	return nil
}

// expect sets the expected nodes, or the reason why they are not known.
func (r *run) expect(found targets, err error) error {
	if isUnknown(err) {
		r.discoveryErr = err
		r.log.Debug("nobody knows which nodes are alive", "reason", err)
	}
	found, err = r.config.expected(found, err)
	r.absent = found.absent
	for _, a := range found.absent {
		r.state.addAbsent(a.name, a.reason)
	}
	if err != nil {
		return err
	}
	r.targets = &Event{Type: EventTargets, Nodes: slices.Clone(found.names)}
	if found.names == nil {
		return nil // nobody is expected
	}
	r.state.reach.listed = r.discoveryErr == nil
	r.log.Debug("targets found", "nodes", len(found.names), "absent", len(found.absent))
	r.state.expect(found.names)
	return nil
}

// createSession creates the session, unless ctx ends first, and begins to renew it.
func (r *run) createSession(ctx context.Context) error {
	session, mayHaveOrphans, err := createJobSession(ctx, r.consul, r.sessionName())
	r.mayHaveOrphans, r.awaitOrphan = r.mayHaveOrphans || mayHaveOrphans, err != nil
	if err != nil {
		return err
	}
	r.session = session
	r.dispatcher = &dispatcher{
		Client:  r.consul,
		prefix:  r.prefix,
		session: session,
		filter:  r.filter,
		byName:  r.byName() || r.submitted,
		job:     r.jobDocument(),
		written: make(map[string]time.Time),
	}
	r.tasks.Go(func() {
		if err := session.keep(r.ctx); err != nil {
			r.stop(err)
		}
	})
	return nil
}

// sessionName returns a name that shows an operator whose session it is.
func (r *run) sessionName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	return fmt.Sprintf("consulexec %s by %s[%d]", r.id, host, os.Getpid())
}

// jobDocument returns the document that agents read.
func (r *run) jobDocument() []byte {
	return marshal(jobSpec{Job: r.job.Job(r.id), Wait: r.wait})
}

// submit makes the first dispatch, and reports it and the absent nodes.
func (r *run) submit() error {
	if r.replicationWait > 0 && !consul.Sleep(r.ctx, r.replicationWait) {
		return consul.ContextError(r.ctx)
	}
	r.reader = reader.New(r.consul, r.session.id, r.dispatcher.base(), r.job.NeedsRunner())
	r.heard = time.Now()
	if err := r.dispatch(); err != nil {
		return err
	}
	r.reportSubmit()
	return nil
}

// reportTargets reports the expected nodes once, if it is known who they are. It
// waits for the first dispatch, so that no callback delays that.
func (r *run) reportTargets() {
	if event := r.targets; event != nil {
		r.targets = nil
		r.emit(*event)
	}
}

// reportSubmit reports the first dispatch and the absent nodes, once.
func (r *run) reportSubmit() {
	if r.submitted {
		return
	}
	r.reportTargets()
	r.submitted, r.submittedAt = true, time.Now()
	r.emit(Event{Type: EventSubmit})
	for _, a := range r.absent {
		r.emit(Event{Type: EventNoResponse, Node: a.name, Err: r.state.failure(a.name)})
	}
}

// dispatch hands the job to the nodes whose turn it is, asks those in doubt, and
// fires the events that gossip can carry now.
func (r *run) dispatch() error {
	if err := r.ask(); err != nil {
		return err
	}
	names := r.state.next()
	if len(names) > 0 || !r.state.known && r.dispatcher.unused {
		if err := r.enqueue(names); err != nil {
			return err
		}
	}
	if err := r.repeatUncertain(); err != nil {
		return err
	}
	for r.mayFire() {
		next := r.state.nextEvent()
		uncertain, err := r.dispatcher.fire(r.ctx, next)
		if err != nil {
			return err
		}
		r.state.dispatched(next, time.Now(), uncertain)
		r.onTurn(len(r.state.queue) > 0)
		if r.ctx.Err() != nil {
			return uncertain
		}
		r.reportSubmit()
		if uncertain == nil {
			r.uncertain = uncertainty{}
		} else if next.asks {
			continue // they are asked again
		} else if r.state.known {
			r.uncertain.add(next.names, uncertain, time.Now())
		}
	}
	return nil
}

// mayFire reports whether the next event in the queue may go out now. If it waits
// for its turn, r.turn is set.
func (r *run) mayFire() bool {
	if len(r.state.queue) == 0 || time.Now().Before(r.uncertain.notBefore) {
		r.leaveTurn()
		return false
	}
	if r.turn == nil {
		r.turn = r.askTurn(eventSize(r.state.queue[0].event), false)
	}
	select {
	case <-r.turn.C:
		r.turn = nil
		return true
	default:
		return false
	}
}

// askTurn asks for the turn of an event. first says that a run begins with it.
func (r *run) askTurn(size int, first bool) *consul.Turn {
	return r.consul.Pool.Events.Ask(consul.EventCost(size), first)
}

// leaveTurn gives up the turn of an event that does not go out now.
func (r *run) leaveTurn() {
	r.turn.Leave()
	r.turn = nil
}

// turnCome returns a channel that is closed when the turn of the next event has
// come, or nil if no event waits for it.
func (r *run) turnCome() <-chan struct{} {
	if r.turn == nil {
		return nil
	}
	return r.turn.C
}

// enqueue opens a dispatch for nodes and queues its events.
func (r *run) enqueue(names []string) error {
	dispatch, err := r.dispatcher.open(r.ctx)
	if err != nil {
		r.state.putBack(names)
		return err
	}
	r.state.enqueue(r.dispatcher.plan(dispatch, names))
	return nil
}

// follow reports what the nodes do until the run is done. Before it acts on a
// timeout it asks for a fresh listing: what counts is that Consul had nothing,
// not that nothing had arrived here.
func (r *run) follow() error {
	r.found = make(chan sighting)
	r.tasks.Go(func() { r.reader.Run(r.ctx) })
	timer := time.NewTimer(0)
	defer timer.Stop()
	r.setTimer(timer)
	for {
		select {
		case <-r.ctx.Done():
			return consul.ContextError(r.ctx)
		case <-r.turnCome():
			if err := r.dispatch(); err != nil {
				return err
			}
			r.setTimer(timer)
		case <-timer.C:
			if err := r.dispatch(); err != nil {
				return err
			}
			if r.isDue(time.Now()) {
				r.reader.Refresh() // and the listing sets the timer
			} else {
				r.setTimer(timer)
			}
		case sighting := <-r.found:
			r.state.sighted(sighting)
			r.setTimer(timer)
		case b := <-r.reader.Out:
			if b.Err != nil {
				return b.Err
			}
			r.apply(b.Records)
			if b.Listed.IsZero() {
				continue
			}
			if err := r.endListing(b); err != nil {
				return err
			}
			if r.state.done(b.Listed) {
				return r.verdict()
			}
			r.dispatcher.close(r.ctx, r.state.takeEnded())
			r.setTimer(timer)
		}
	}
}

// isDue reports whether the run may have to act on what has not come.
func (r *run) isDue(now time.Time) bool {
	due := r.state.due(now)
	return !due.IsZero() && !now.Before(due)
}

// setTimer sets the timer to the next time at which the run has to act by itself.
func (r *run) setTimer(timer *time.Timer) {
	if at := r.wakeAt(); at.IsZero() {
		timer.Stop()
	} else {
		timer.Reset(time.Until(at))
	}
}

// wakeAt returns when to look at the timeouts and at an uncertain event again, or
// zero if that depends on the turn of an event.
func (r *run) wakeAt() time.Time {
	at := r.state.due(time.Now())
	waits := len(r.uncertain.names) > 0 || len(r.state.queue) > 0 && r.turn == nil
	if waits && (at.IsZero() || r.uncertain.notBefore.Before(at)) {
		at = r.uncertain.notBefore
	}
	return at
}

// endListing acts on what a listing did not have: silent nodes are dispatched to
// again or given up. If nodes have ended, the next ones get the job.
func (r *run) endListing(b reader.Batch) error {
	for _, name := range b.Twice {
		r.state.ranTwice(r.state.expectedName(name))
	}
	for _, name := range b.TurnedAway {
		r.state.turnedAway(r.state.expectedName(name))
	}
	r.heard = b.Listed
	if b.Empty {
		r.session.check()
	}
	if dispatch, found := r.dispatcher.missing(b.Jobs, b.Listed); found {
		if err := r.dispatcher.confirmJob(r.ctx, dispatch); err != nil {
			return err
		}
	}
	if b.Outage > 0 {
		r.state.pause(b.Outage, time.Now())
	}
	if r.state.isQuiet(b.Listed) {
		return r.dispatch()
	}
	if silent, due := r.state.lookUp(b.Listed, time.Now()); due {
		r.lookUp(silent)
	}
	if err := r.giveUp(b.Listed); err != nil {
		return err
	}
	return r.dispatch()
}

// verdict returns the error of a run that came to its end. If nobody was
// expected, or a node is lost, the loss of the session may be why nothing more
// came. If nobody was expected and nobody came, nothing ran.
func (r *run) verdict() error {
	if !r.state.known || r.state.lost > 0 {
		if err := r.session.confirm(r.ctx); err != nil {
			return err
		}
	}
	switch {
	case len(r.state.nodes) > 0:
		return nil
	case r.state.dispatchErr != nil:
		return fmt.Errorf("%w: %w", r.noTargets("has answered"), r.state.dispatchErr)
	}
	return r.noTargets("has answered")
}

// apply reports the records of a batch.
func (r *run) apply(records []reader.Record) {
	for _, rec := range records {
		rec.Node = r.state.expectedName(rec.Node)
		if !r.report(rec, time.Now()) {
			level := slog.LevelWarn
			if r.recovery > 0 {
				level = slog.LevelDebug // several dispatches bring the same
			}
			r.log.Log(r.ctx, level, "came too late", "node", rec.Node, "key", rec.Kind)
		}
	}
}

// report updates the state with one record and reports it. It returns false if
// the node was given up before.
func (r *run) report(rec reader.Record, now time.Time) bool {
	switch {
	case rec.Kind == reader.Ack:
		if r.state.answers(rec.Node, rec.Dispatch, now) {
			r.log.Info("reached again", "node", rec.Node)
			return true
		}
		if !r.state.ack(rec.Node, rec.Dispatch, now) {
			return false
		}
		r.log.Debug("ack", "node", rec.Node)
		r.emit(Event{Type: EventAck, Node: rec.Node})
	case rec.Kind == reader.Exit:
		return r.reportExit(rec, now)
	default:
		return r.reportOutput(rec, now)
	}
	return true
}

// reportExit is report for an exit.
func (r *run) reportExit(rec reader.Record, now time.Time) bool {
	code, err := reader.ParseExit(rec.Value)
	if err != nil {
		return r.lose(rec.Node, err)
	}
	rest, note, ok := r.state.end(rec.Node, rec.Dispatch)
	if !ok {
		return false
	}
	if len(rest) > 0 {
		r.reportTaken(rec.Node, now)
	}
	r.emitOutput(rec.Node, rest)
	switch {
	case note == runner.NoteNoTrace && r.state.noTrace(rec.Node):
		r.reportNoResponse(rec.Node)
		return true
	case note == runner.NoteNoTrace:
		return r.lose(rec.Node, errNoTrace)
	case note == runner.NoteKilled:
		r.reportTaken(rec.Node, now)
		return r.lose(rec.Node, errKilled)
	case !r.state.isCertain(rec.Node, rec.Dispatch, code, note):
		_, from := r.state.stream(rec.Node, rec.Dispatch)
		r.state.drop(rec.Node, rec.Dispatch, errGaveUp)
		if from.ask && code != agentGaveUp {
			r.giveUpNode(rec.Node, fmt.Errorf("can't say what became of the command: the program that asks exited with status %d", code))
		}
		return true
	}
	r.reportTaken(rec.Node, now)
	r.endOutput(rec.Node)
	r.state.exit(rec.Node, code, note, now)
	r.log.Debug("exit", "node", rec.Node, "code", code)
	r.emit(Event{Type: EventExit, Node: rec.Node, ExitCode: code, Err: r.state.failure(rec.Node)})
	return true
}

// reportNoResponse reports that a node did not take the job and never will.
func (r *run) reportNoResponse(node string) {
	r.log.Debug("no response", "node", node)
	r.emit(Event{Type: EventNoResponse, Node: node, Err: r.state.failure(node)})
}

// reportTaken reports that a node of which nobody was sure has taken the job.
func (r *run) reportTaken(node string, now time.Time) {
	if r.state.tookJob(node, now) {
		r.log.Debug("ack", "node", node)
		r.emit(Event{Type: EventAck, Node: node})
	}
}

// reportOutput is report for a chunk.
func (r *run) reportOutput(rec reader.Record, now time.Time) bool {
	node, chunk := rec.Node, rec.Value
	if rec.Incomplete && r.recovery > 0 {
		if _, from := r.state.stream(node, rec.Dispatch); from == nil {
			return false
		}
		r.state.drop(node, rec.Dispatch, errMissing)
		return true
	}
	before, output, ok := r.state.output(node, rec.Dispatch, chunk, now)
	if !ok {
		return false
	}
	if len(chunk) == 0 || len(before)+len(output) > 0 {
		r.reportTaken(node, now)
	}
	if len(chunk) == 0 {
		r.log.Debug("heartbeat", "node", node)
		r.emit(Event{Type: EventHeartbeat, Node: node})
	}
	r.emitOutput(node, before)
	r.emitOutput(node, output)
	return true
}

// endOutput reports output of a node that was held back, as no more will come.
func (r *run) endOutput(node string) { r.emitOutput(node, r.state.endOutput(node)) }

// emitOutput reports output of a node, if it is not empty.
func (r *run) emitOutput(node string, output []byte) {
	if len(output) > 0 {
		r.log.Debug("output", "node", node, "bytes", len(output))
		r.emit(Event{Type: EventOutput, Node: node, Output: output})
	}
}

// lose gives a running node up and reports it. It returns false if the node is
// not running.
func (r *run) lose(name string, reason error) bool {
	r.endOutput(name)
	err := r.state.lose(name, reason, time.Now())
	if err == nil {
		return false
	}
	r.log.Debug("lost", "node", name, "error", err)
	r.emit(Event{Type: EventLost, Node: name, Err: err})
	return true
}

// cleanUp ends the run's goroutines, decides about silent nodes, and removes the
// run's sessions and keys, within timeout. If the context has ended, or ends
// meanwhile, it has cleanUpTimeout.
func (r *run) cleanUp(timeout time.Duration) {
	r.stop(nil)
	r.tasks.Wait()
	r.leaveTurn()
	grace, end := consul.WithGrace(r.caller, cleanUpTimeout)
	defer end()
	ctx, cancel := context.WithTimeout(grace, timeout)
	defer cancel()
	r.state.settleUnsure(errNotAsked, time.Now())
	r.settle(ctx, timeout/2)
	if err := r.remove(ctx); err != nil {
		r.log.Warn("left to the session's TTL", "error", err)
	}
}

// remove removes all that the run may have in Consul.
func (r *run) remove(ctx context.Context) error {
	var err, orphans error
	if r.session != nil {
		err = r.endSession(ctx)
	}
	if r.mayHaveOrphans {
		orphans = destroyNamed(ctx, r.consul, r.sessionName(), r.awaitOrphan)
	}
	return errors.Join(err, orphans)
}

// endSession destroys the sessions and deletes the keys, and then makes sure that
// the sessions are gone. The one of the job goes first: after that no agent can
// write, the fences are no longer needed, and the deletion leaves nothing.
func (r *run) endSession(ctx context.Context) error {
	if err := r.session.destroy(ctx); err != nil {
		return err
	}
	sessions := []*session{r.session}
	var errs []error
	if fences := r.session.fences.Load(); fences != nil {
		sessions = append(sessions, fences)
		errs = append(errs, fences.destroy(ctx))
	}
	errs = append(errs, r.dispatcher.deleteKeys(ctx))
	for _, s := range sessions {
		errs = append(errs, s.makeSure(ctx))
	}
	return errors.Join(errs...)
}

// result sums the run up. err is what Wait returns.
func (r *run) result(err error) *Result {
	result := &Result{
		ID:           r.id,
		Datacenter:   r.consul.Datacenter,
		Submitted:    r.state.sent(),
		Started:      r.began,
		Ended:        time.Now(),
		Nodes:        r.state.results(),
		DiscoveryErr: r.discoveryErr,
		err:          err,
	}
	if r.session != nil {
		result.Session = r.session.id
	}
	switch {
	case err == nil:
		result.err = r.state.shortfall()
	case errors.Is(err, ErrLoopLeft) && r.stillRunning == nil:
		result.err = r.state.shortfall()
	case errors.Is(err, ErrLoopLeft):
		result.err = errors.Join(prefixed(r.stillRunning), r.state.shortfall())
	}
	return result
}
