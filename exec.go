package consulexec

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-uuid"
)

const (
	// cleanUpTimeout bounds what it takes to remove session and keys when the
	// context has ended or the run has failed. Where it is not enough, the
	// session's TTL does it.
	cleanUpTimeout = 4500 * time.Millisecond

	// cleanUpTry bounds each request of that, so that one that gets no answer
	// leaves time for another.
	cleanUpTry = 1500 * time.Millisecond

	// eventPace is how fast gossip carries events: two of the size of a full list of
	// names fit in a packet, which goes out five times a second. A node's time to
	// acknowledge begins with its own event's turn.
	eventPace = 100 * time.Millisecond
)

// An Exec is one command for the nodes of a cluster. It runs once.
type Exec struct {
	config *config
	id     string

	started atomic.Bool
	done    chan struct{} // closed when the two below are final
	result  *Result
	err     error
}

// New prepares to run command by the shell of every node that the options
// select: by $SHELL, or /bin/sh where the agent has none set, with -c. The
// command has to be empty with WithScript and WithArgs. New touches no network.
// Its error has everything that is wrong with the command and the options.
func New(command string, options ...Option) (*Exec, error) {
	config, err := newConfig(command, options)
	if err != nil {
		return nil, err
	}
	id, err := uuid.GenerateUUID()
	if err != nil {
		return nil, fmt.Errorf("consulexec: make the run's ID: %w", err)
	}
	return &Exec{config: config, id: id, done: make(chan struct{})}, nil
}

// ID returns the ID of the run, a UUID. It stands in the name of the run's
// session, which `GET /v1/session/list` shows, and in each line of its log.
func (e *Exec) ID() string { return e.id }

// Run runs the command and waits for its end. It is Start and Wait, but the
// callbacks are called on the caller's goroutine, so that a panic in one passes
// through Run.
func (e *Exec) Run(ctx context.Context) (*Result, error) {
	if err := e.begin(ctx); err != nil {
		return nil, err
	}
	e.run(ctx)
	return e.Wait()
}

// Start begins to run the command and returns at once. The callbacks are called
// on a goroutine of its own; what goes wrong is the error of Wait. Start itself
// returns ErrStarted for an Exec that was started before, and an error for a nil ctx.
//
// When ctx ends, the run does: its session and keys are removed, and the error
// wraps the context's. The commands that run on nodes go on, as Consul's agents
// never end them, unless WithKillOnCancel says otherwise.
func (e *Exec) Start(ctx context.Context) error {
	if err := e.begin(ctx); err != nil {
		return err
	}
	go e.run(ctx)
	return nil
}

// Wait waits for the end of a run, after which no callback is called. It may be
// called by several goroutines, and more than once; a callback that calls it
// waits for ever.
//
// The error is nil where the run went to its end. A command that failed on some
// node, or a node that did not answer, is no error of the run: it is in
// Result.Err. The Result is never nil after a start, and says how far the run
// came.
func (e *Exec) Wait() (*Result, error) {
	if !e.started.Load() {
		return nil, ErrNotStarted
	}
	<-e.done
	return e.result, e.err
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

// errAborted is the error of a run whose callback panicked or ended its
// goroutine.
var errAborted = errors.New("consulexec: a callback panicked or ended its goroutine")

// run is the life of the run, on the one goroutine that owns all its state.
// What it defers leaves nothing behind when a callback panics.
func (e *Exec) run(ctx context.Context) {
	r := newRun(ctx, e)
	e.err = errAborted
	defer func() {
		e.result = r.result(e.err)
		close(e.done)
	}()
	if r.transport != nil {
		defer r.transport.CloseIdleConnections()
	}
	defer r.cleanUp(cleanUpTimeout)

	err := r.main()
	if err != nil {
		r.cleanUp(cleanUpTimeout)
	} else {
		r.cleanUp(sessionLife) // Consul may falter at this moment too
	}
	if r.killOnCancel && err != nil && ctx.Err() != nil {
		if running := r.endCommands(); running != nil {
			err = fmt.Errorf("%w; commands may still run: %w", err, running)
		}
	}
	if err != nil {
		err = fmt.Errorf("consulexec: %w", err)
		r.log.Debug("failed", "error", err)
		r.callbacks.fail(err)
	} else {
		r.log.Debug("done")
		r.callbacks.done()
	}
	e.err = err
}

// run is a run under way. Only the goroutine of Exec.run touches it.
type run struct {
	*config
	consul *consul
	id     string
	log    *slog.Logger

	caller context.Context         // the caller's
	ctx    context.Context         // ends with the caller's, with the session, and at clean-up
	stop   context.CancelCauseFunc // ends ctx
	tasks  sync.WaitGroup          // the goroutines beside this one

	state        *state
	session      *session // nil before there is one
	strays       bool     // whether Consul may have made sessions without our knowing
	reader       *reader  // nil before the event
	failures     chan []string
	absent       []absence // nodes of WithNodes that can't answer
	discoveryErr error
	cleaned      bool
}

func newRun(ctx context.Context, e *Exec) *run {
	log := e.config.logger.With("run", e.id)
	r := &run{
		config:   e.config,
		consul:   &consul{client: e.config.client, datacenter: e.config.datacenter, log: log},
		id:       e.id,
		log:      log,
		caller:   ctx,
		state:    newState(e.config),
		failures: make(chan []string),
	}
	r.ctx, r.stop = context.WithCancelCause(ctx)
	return r
}

// main runs the command, from the session to the last node's exit.
func (r *run) main() error {
	err := r.prepare()
	if err == nil {
		err = r.submit()
	}
	if err == nil {
		r.callbacks.submit()
		for _, a := range r.absent {
			r.callbacks.noResponse(a.name)
		}
		err = r.follow()
	}
	if err != nil && r.ctx.Err() != nil && r.caller.Err() == nil {
		return context.Cause(r.ctx) // the session, whatever else went wrong for that
	}
	return err
}

// prepare opens the session and writes the job, and meanwhile asks the catalog
// which nodes to expect.
func (r *run) prepare() error {
	if r.ctx.Err() != nil {
		return contextError(r.ctx)
	}
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
		found, discoveryErr = catalog{r.consul}.targets(ctx, r.filter, r.names)
	})
	err := r.openSession()
	if err == nil {
		err = r.writeJob()
	}
	if err != nil {
		cancel()
	}
	discovery.Wait()
	if err != nil {
		return err
	}
	return r.expect(found, discoveryErr)
}

// expect takes note of the expected nodes, or of why they are not known.
func (r *run) expect(found targets, err error) error {
	switch {
	case errors.Is(err, ErrPermissionDenied), errors.Is(err, ErrDiscoveryOff):
		r.discoveryErr = err
		r.log.Debug("nobody knows which nodes are alive", "reason", err)
		if r.names == nil && r.rolling() != "" {
			return fmt.Errorf("%s: the nodes are not known: %w", r.rolling(), err)
		}
		if r.names == nil {
			return nil // nobody is expected
		}
		found.names = slices.DeleteFunc(slices.Clone(r.names), func(name string) bool { return !r.filter.matchNode(name) })
	case err != nil:
		return err
	}
	r.absent = found.absent
	for _, a := range found.absent {
		r.state.absent(a.name, a.why)
	}
	if len(found.names) == 0 {
		return fmt.Errorf("%w is alive%s (%s)", ErrNoTargets, r.consul.in(), r.selection())
	}
	r.log.Debug("targets found", "nodes", len(found.names), "absent", len(found.absent))
	r.state.expect(found.names)
	return nil
}

// openSession opens the session and keeps it.
func (r *run) openSession() error {
	session, strays, err := createSession(r.ctx, r.consul, r.sessionName())
	r.strays = strays
	if err != nil {
		return err
	}
	r.session = session
	r.tasks.Go(func() {
		if err := session.keep(r.ctx); err != nil {
			r.stop(err)
		}
	})
	return nil
}

// writeJob writes what the agents are to read.
func (r *run) writeJob() error {
	spec := jobSpec{Command: r.command, Args: r.args, Script: r.script, Wait: r.wait}
	if r.timeout > 0 || r.killOnCancel {
		spec = wrap(spec, r.id, r.timeout)
	}
	job := &api.KVPair{
		Key:     r.base() + jobKey{kind: keyJob}.path(),
		Value:   marshal(spec),
		Session: r.session.id,
	}
	op := operation{doing: "write job to " + job.Key, need: "key:write on " + r.base()}
	err := r.consul.do(r.ctx, op, func(ctx context.Context) error {
		acquired, _, err := r.client.KV().Acquire(job, r.consul.write(ctx))
		if err == nil && !acquired {
			err = fmt.Errorf("not acquired: %w", ErrSessionLost)
		}
		return err
	})
	if err == nil {
		r.log.Debug("job written", "key", job.Key, "bytes", len(job.Value))
	}
	return err
}

// sessionName tells an operator whose session it is.
func (r *run) sessionName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	return fmt.Sprintf("consulexec %s by %s[%d]", r.id, host, os.Getpid())
}

// base is the folder of the job's keys, with the slash.
func (r *run) base() string { return r.prefix + "/" + r.session.id + "/" }

// submit tells the first nodes; all of them, where not WithConcurrency says
// otherwise.
func (r *run) submit() error {
	if r.replicationWait > 0 && !sleep(r.ctx, r.replicationWait) {
		return contextError(r.ctx)
	}
	if r.byName() {
		return r.advance()
	}
	return r.tell(r.event(r.session.id), r.state.next(), 0)
}

// advance tells the nodes whose turn it is, by their names, in as few events as
// these take.
func (r *run) advance() error {
	e := r.event(r.session.id)
	groups := pack(r.state.next(), func(filter string) bool {
		e.NodeFilter = filter
		return eventSize(e, maxLamportSize) <= maxEventSize
	})
	for i, names := range groups {
		e.NodeFilter = only(names)
		if err := r.tell(e, names, time.Duration(i)*eventPace); err != nil {
			return err
		}
	}
	return nil
}

// tell fires the event for nodes of these names, which gossip carries after a
// delay. It is repeated only when it certainly did not go out; where that is not
// certain, the nodes will show it.
func (r *run) tell(event *api.UserEvent, names []string, delay time.Duration) error {
	op := operation{doing: "fire event " + event.Name, need: fmt.Sprintf("event:write on %q", event.Name)}
	err := r.consul.retry(r.ctx, op, didNothing, func(ctx context.Context) (err error) {
		event.ID, _, err = r.client.Event().Fire(event, r.consul.write(ctx))
		return err
	})
	if err != nil && (!canPass(err) || didNothing(err)) {
		return err
	}
	r.state.tell(names, time.Now().Add(delay), err)
	if r.ctx.Err() != nil {
		return err
	}
	if err != nil {
		r.log.Warn("the event may not have gone out", "error", err)
	} else {
		r.log.Debug("event fired", "event", event.ID, "node", event.NodeFilter)
	}
	return nil
}

// follow reports what the nodes do until the run is done. When something is due
// because nothing came, it first has the reader list once more: what counts is
// that Consul had nothing, not that nothing had got here yet.
func (r *run) follow() error {
	r.reader = newReader(r.consul, r.session.id, r.base())
	r.tasks.Go(func() { r.reader.run(r.ctx) })
	r.tasks.Go(func() { catalog{r.consul}.watchFailures(r.ctx, min(r.wait, defaultWait), r.failures) })
	timer := time.NewTimer(time.Until(r.state.deadline()))
	defer timer.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return contextError(r.ctx)
		case <-timer.C:
			r.reader.refresh()
		case names := <-r.failures:
			r.state.fail(names)
			timer.Reset(time.Until(r.state.deadline()))
		case b := <-r.reader.out:
			if b.err != nil {
				return b.err
			}
			r.apply(b.records)
			if b.listed.IsZero() {
				continue
			}
			if err := r.listed(b); err != nil {
				return err
			}
			if r.state.done(b.listed) {
				return r.verdict(b.jobGone)
			}
			timer.Reset(time.Until(r.state.deadline()))
		}
	}
}

// listed takes the end of a listing in: what was not in it is missing, and where
// nodes have ended it is the turn of others.
func (r *run) listed(b batch) error {
	if b.jobGone {
		r.session.check()
	}
	if b.outage > 0 {
		r.state.pause(b.outage, time.Now())
	}
	r.giveUp(b.listed)
	if len(r.state.waiting) == 0 {
		return nil
	}
	return r.advance()
}

// verdict is the error of a run that came to its end. Where the job is gone, it may
// be for want of the session that nothing more came; and where nobody was expected
// and nobody came, nothing was run.
func (r *run) verdict(jobGone bool) error {
	if jobGone {
		if err := r.session.renew(r.ctx, sessionLife); err != nil {
			return err
		}
	}
	switch {
	case len(r.state.nodes) > 0:
		return nil
	case r.state.doubt != nil:
		return fmt.Errorf("%w has answered%s (%s): %w", ErrNoTargets, r.consul.in(), r.selection(), r.state.doubt)
	}
	return fmt.Errorf("%w has answered%s (%s)", ErrNoTargets, r.consul.in(), r.selection())
}

// apply takes the records of a batch in, and reports them.
func (r *run) apply(records []record) {
	for _, rec := range records {
		if !r.report(rec, time.Now()) {
			r.log.Warn("came too late", "node", rec.node, "key", rec.kind)
		}
	}
}

// report takes one record in and reports it. It returns false where the node
// was given up before.
func (r *run) report(rec record, now time.Time) bool {
	switch {
	case rec.kind == keyAck:
		if !r.state.ack(rec.node, now) {
			return false
		}
		r.log.Debug("ack", "node", rec.node)
		r.callbacks.ack(rec.node)
	case rec.kind == keyExit:
		code, err := parseExit(rec.value)
		if err != nil {
			return r.lose(rec.node, err)
		}
		if !r.state.exit(rec.node, code, now) {
			return false
		}
		r.log.Debug("exit", "node", rec.node, "code", code)
		r.callbacks.exit(rec.node, code)
	case !r.state.output(rec.node, rec.value, now):
		return false
	case len(rec.value) == 0:
		r.log.Debug("heartbeat", "node", rec.node)
		r.callbacks.heartbeat(rec.node)
	default:
		r.log.Debug("output", "node", rec.node, "bytes", len(rec.value))
		r.callbacks.output(rec.node, rec.value)
	}
	return true
}

// lose gives a running node up and reports it. It returns false where the node
// is not running.
func (r *run) lose(name string, why error) bool {
	err := r.state.lose(name, why)
	if err == nil {
		return false
	}
	r.log.Debug("lost", "node", name, "error", err)
	r.callbacks.lost(name, err)
	return true
}

// giveUp reports the nodes that had been silent for too long when Consul was
// last asked.
func (r *run) giveUp(listed time.Time) {
	noResponse, silent := r.state.overdue(listed)
	for _, name := range noResponse {
		r.log.Debug("no response", "node", name)
		r.callbacks.noResponse(name)
	}
	for _, n := range silent {
		why := fmt.Errorf("silent for %v", listed.Sub(n.seen).Round(time.Millisecond))
		if n.critical {
			why = fmt.Errorf("%w, and serfHealth is critical", why)
		}
		r.lose(n.Node, why)
	}
}

// cleanUp ends the run's goroutines, its session and its keys, in the time given;
// in cleanUpTimeout where the context has ended or ends meanwhile. The session goes first: after
// that no agent can write, and the delete leaves nothing.
func (r *run) cleanUp(timeout time.Duration) {
	if r.cleaned {
		return
	}
	r.cleaned = true
	r.stop(nil)
	r.tasks.Wait()
	grace, end := withGrace(r.caller, cleanUpTimeout)
	defer end()
	ctx, cancel := context.WithTimeout(grace, timeout)
	defer cancel()
	if err := r.remove(ctx); err != nil {
		r.log.Warn("left to the session's TTL", "error", err)
	}
}

// remove destroys the session and deletes the keys.
func (r *run) remove(ctx context.Context) error {
	var errs []error
	if r.session != nil {
		errs = append(errs, r.session.destroy(ctx), r.deleteKeys(ctx))
	}
	if r.strays {
		errs = append(errs, destroyNamed(ctx, r.consul, r.sessionName()))
	}
	return errors.Join(errs...)
}

// deleteKeys deletes what does not go with the session: keys of somebody else.
func (r *run) deleteKeys(ctx context.Context) error {
	op := operation{doing: "delete " + r.base(), need: "key:write on " + r.base(), timeout: cleanUpTry}
	err := r.consul.do(ctx, op, func(ctx context.Context) error {
		_, err := r.client.KV().DeleteTree(r.base(), r.consul.write(ctx))
		return err
	})
	if err == nil {
		r.log.Debug("keys deleted", "prefix", r.base())
	}
	return err
}

// result sums the run up.
func (r *run) result(err error) *Result {
	result := &Result{Datacenter: r.consul.datacenter, Nodes: r.state.results(), DiscoveryErr: r.discoveryErr, err: err}
	if r.session != nil {
		result.Session = r.session.id
	}
	if err != nil {
		return result
	}
	var errs []error
	if skipped := r.state.skipped; skipped > 0 {
		errs = append(errs, fmt.Errorf("consulexec: %d failed, and %d not told: WithMaxFailures(%d)", r.state.enough, skipped, r.maxFailures))
	}
	if missing := r.state.missing(); missing > 0 {
		errs = append(errs, fmt.Errorf("consulexec: %d nodes exited and %d are missing: WithMinNodes(%d)", r.state.exited, missing, r.minNodes))
	}
	result.err = errors.Join(errs...)
	return result
}
