// Package consul makes the requests of a run. It knows which failures are
// transient, how long each request may go on failing, and how to word what went
// wrong. It knows nothing of runs and nodes.
package consul

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

const (
	// RequestTimeout bounds a request that Consul answers at once. During an
	// election Consul itself holds requests for up to 7 s (rpc_hold_timeout).
	RequestTimeout = 10 * time.Second

	// StartPatience is how long requests may go on failing before a run has a
	// session. That covers most elections, and a caller whose Consul is down
	// learns of it soon.
	StartPatience = 5 * time.Second

	// SessionTTL is how long a session outlives a client that died: Consul ends
	// the session and deletes its keys after one to two TTLs. `consul exec`
	// uses 15 s too.
	SessionTTL = 15 * time.Second

	// SessionLife is the longest that a session lives without a renewal. A
	// request that fails for longer has failed for good.
	SessionLife = 2 * SessionTTL

	// CleanUpTimeout bounds each clean-up request. It is short, so that there is
	// time for a second try.
	CleanUpTimeout = 1500 * time.Millisecond

	// The pauses between tries grow from firstPause to lastPause. lastPause is
	// short beside an election, which takes a second or more.
	firstPause = 50 * time.Millisecond
	lastPause  = time.Second
)

// errNoAnswer is in the error of a request that took longer than its timeout.
var errNoAnswer = errors.New("no answer in time")

// Client makes requests in one datacenter and rides out transient failures.
// Several goroutines may call its methods.
type Client struct {
	API        *api.Client
	Datacenter string // the agent's own if empty
	Token      string // API's own if empty
	Pool       *Pool  // no limits if nil
	Log        *slog.Logger

	outage outage
}

// An Operation describes a request.
type Operation struct {
	Doing    string        // what the request does, to what; for its error
	Need     string        // the permission that it takes; for its error
	Timeout  time.Duration // bounds one try; RequestTimeout if 0
	Grace    time.Duration // how long a try goes on after the context has ended
	Patience time.Duration // how long tries may go on failing; SessionLife if 0
	Held     bool          // it may hold a connection for long
	Renews   bool          // it keeps a session alive
}

// Query returns the options of a request that reads.
func (c *Client) Query(ctx context.Context) *api.QueryOptions {
	return (&api.QueryOptions{Datacenter: c.Datacenter, Token: c.Token}).WithContext(ctx)
}

// Write returns the options of a request that writes.
func (c *Client) Write(ctx context.Context) *api.WriteOptions {
	return (&api.WriteOptions{Datacenter: c.Datacenter, Token: c.Token}).WithContext(ctx)
}

// In names the datacenter for a text, such as ` in datacenter "dc2"`. It is
// empty for the agent's own.
func (c *Client) In() string {
	if c.Datacenter == "" {
		return ""
	}
	return fmt.Sprintf(" in datacenter %q", c.Datacenter)
}

// Do makes a request by send and retries it while its error is transient. It is
// for requests that may be repeated.
func (c *Client) Do(ctx context.Context, op Operation, send func(ctx context.Context) error) error {
	return c.Retry(ctx, op, IsTransient, send)
}

// Retry makes a request by send and retries it while its error is retryable,
// with growing pauses, until the operation's patience or ctx ends. A refusal
// for want of connections or by a rate limit (429) takes no patience: Consul
// will serve the request later. A refusal may be lost, as Consul closes the
// connection at once: then a broken connection is all that shows.
func (c *Client) Retry(ctx context.Context, op Operation, retryable func(error) bool, send func(ctx context.Context) error) (err error) {
	if op.Patience == 0 {
		op.Patience = SessionLife
	}
	began := time.Now()
	err = c.Try(ctx, op, send)
	if err == nil || ctx.Err() != nil || !retryable(err) {
		return err
	}
	c.outage.begin(c.Log, err)
	defer func() { c.outage.end(c.Log, err) }()
	waitsOut := func() {
		switch {
		case c.Pool.wasCrowded(err):
			began = time.Now()
		case isReset(err):
			op.Patience = max(op.Patience, SessionLife)
		}
	}
	waitsOut()
	for pause := firstPause; time.Since(began) < op.Patience; pause = min(2*pause, lastPause) {
		// At random, so that clients do not come back in step.
		if !Sleep(ctx, pause/2+rand.N(pause/2)) {
			return fmt.Errorf("%w: %w", ContextError(ctx), err)
		}
		if err = c.Try(ctx, op, send); err == nil || ctx.Err() != nil || !retryable(err) {
			return err
		}
		waitsOut()
	}
	return err
}

// Try makes a request by send once. Its error says what the request was doing.
func (c *Client) Try(ctx context.Context, op Operation, send func(ctx context.Context) error) error {
	if op.Timeout == 0 {
		op.Timeout = RequestTimeout
	}
	later, end := WithGrace(ctx, op.Grace)
	defer end()
	leave, err := c.Pool.enter(later, c.Datacenter, op)
	if err != nil {
		return fmt.Errorf("%s%s: %w", op.Doing, c.In(), notSent{err})
	}
	defer leave()
	bounded, cancel := context.WithTimeoutCause(later, op.Timeout, errNoAnswer)
	defer cancel()
	err = send(bounded)
	if saysFull(err) {
		c.Pool.refused()
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		err = withReason(err, ContextError(ctx))
	case context.Cause(bounded) == errNoAnswer:
		err = unavailable{withReason(err, fmt.Errorf("%w (%v)", errNoAnswer, op.Timeout))}
	case saysUnknownToken(err):
		err = fmt.Errorf("%w: Consul does not know the token: %w", ErrPermissionDenied, err)
	case isDenied(err):
		err = fmt.Errorf("%w: needs %s: %w", ErrPermissionDenied, op.Need, err)
	case saysInvalidSession(err):
		err = fmt.Errorf("%w: %w", ErrSessionLost, err)
	case IsTransient(err), isUntrusted(err):
		err = unavailable{err}
	}
	return fmt.Errorf("%s%s: %w", op.Doing, c.In(), err)
}

// outage logs the begin and the end of a time in which operations fail: once,
// however many operations fail and however often each is tried.
type outage struct {
	mu      sync.Mutex // guards the fields below
	failing int        // how many operations fail now
	since   time.Time  // when the first of them began to fail
}

func (o *outage) begin(log *slog.Logger, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.failing == 0 {
		o.since = time.Now()
		log.Warn("Consul fails, trying again", "error", err)
	}
	o.failing++
}

func (o *outage) end(log *slog.Logger, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.failing--
	switch {
	case o.failing > 0:
	case err == nil:
		log.Info("Consul answers again", "after", time.Since(o.since))
	default:
		log.Warn("no longer trying", "after", time.Since(o.since))
	}
}
