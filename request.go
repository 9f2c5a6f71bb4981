package consulexec

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

const (
	// requestTimeout bounds a request that is answered at once. During an
	// election Consul itself holds requests for up to 7 s (rpc_hold_timeout).
	requestTimeout = 10 * time.Second

	// startPatience is how long a run that has no session yet puts up with a
	// Consul that fails: enough for most elections, and short enough to tell
	// somebody who waits that there is no Consul.
	startPatience = 5 * time.Second

	// The pauses between tries grow from the first to the last of these. The
	// last is short beside an election, which takes a second or more.
	firstPause = 50 * time.Millisecond
	lastPause  = time.Second
)

// errNoAnswer is in the error of a request that took longer than its timeout.
var errNoAnswer = errors.New("no answer in time")

// consul makes the requests of a run, in its datacenter, and rides out what can
// pass. Its methods may be called by several goroutines.
type consul struct {
	client     *api.Client
	datacenter string // empty is the agent's own
	log        *slog.Logger

	mu      sync.Mutex // guards the two below
	failing int        // operations that are failing now
	since   time.Time  // when the first of them began to fail
}

// An operation is what a request does, in words.
type operation struct {
	doing    string        // what is done, and to what
	need     string        // the permission that it takes
	timeout  time.Duration // of one try, requestTimeout where 0
	grace    time.Duration // how long a try goes on when the context has ended
	patience time.Duration // how long it may go on failing, sessionLife where 0
}

func (c *consul) query(ctx context.Context) *api.QueryOptions {
	return (&api.QueryOptions{Datacenter: c.datacenter}).WithContext(ctx)
}

func (c *consul) write(ctx context.Context) *api.WriteOptions {
	return (&api.WriteOptions{Datacenter: c.datacenter}).WithContext(ctx)
}

// in names the datacenter in a text, where it is not the agent's own.
func (c *consul) in() string {
	if c.datacenter == "" {
		return ""
	}
	return fmt.Sprintf(" in datacenter %q", c.datacenter)
}

// do makes a request by send, again and again while its error can pass. It is
// for requests that may be repeated.
func (c *consul) do(ctx context.Context, op operation, send func(ctx context.Context) error) error {
	return c.retry(ctx, op, canPass, send)
}

// retry makes a request again while again says so of its error, with growing
// pauses.
func (c *consul) retry(ctx context.Context, op operation, again func(error) bool, send func(ctx context.Context) error) (err error) {
	if op.patience == 0 {
		op.patience = sessionLife
	}
	began := time.Now()
	err = c.try(ctx, op, send)
	if err == nil || ctx.Err() != nil || !again(err) {
		return err
	}
	c.fails(err)
	defer func() { c.ends(err) }()
	for pause := firstPause; time.Since(began) < op.patience; pause = min(2*pause, lastPause) {
		// At random, so that clients do not come back in step.
		if !sleep(ctx, pause/2+rand.N(pause/2)) {
			return fmt.Errorf("%w: %w", contextError(ctx), err)
		}
		if err = c.try(ctx, op, send); err == nil || ctx.Err() != nil || !again(err) {
			return err
		}
	}
	return err
}

// try makes a request once and words its error.
func (c *consul) try(ctx context.Context, op operation, send func(ctx context.Context) error) error {
	if op.timeout == 0 {
		op.timeout = requestTimeout
	}
	later, end := withGrace(ctx, op.grace)
	defer end()
	bounded, cancel := context.WithTimeoutCause(later, op.timeout, errNoAnswer)
	defer cancel()
	err := send(bounded)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		err = because(err, contextError(ctx))
	case context.Cause(bounded) == errNoAnswer:
		err = because(err, fmt.Errorf("%w (%v)", errNoAnswer, op.timeout))
	case isDenied(err):
		err = fmt.Errorf("%w: needs %s: %w", ErrPermissionDenied, op.need, err)
	case saysInvalidSession(err):
		err = fmt.Errorf("%w: %w", ErrSessionLost, err)
	}
	return fmt.Errorf("%s%s: %w", op.doing, c.in(), err)
}

// fails and ends log an outage once, and its end, however many operations meet
// it and however often each is tried.
func (c *consul) fails(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failing == 0 {
		c.since = time.Now()
		c.log.Warn("Consul fails, trying again", "error", err)
	}
	c.failing++
}

func (c *consul) ends(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failing--
	switch {
	case c.failing > 0:
	case err == nil:
		c.log.Info("Consul answers again", "after", time.Since(c.since))
	default:
		c.log.Warn("no longer trying", "after", time.Since(c.since))
	}
}

// because replaces the error of a request that was cut short by why it was. It
// keeps the address.
func because(err, why error) error {
	var at *url.Error
	if errors.As(err, &at) {
		return &url.Error{Op: at.Op, URL: at.URL, Err: why}
	}
	return why
}

// canPass tells whether a request that failed may succeed when repeated: Consul
// was not reached or did not answer, is overloaded, or has no leader.
func canPass(err error) bool {
	var status api.StatusError
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.Is(err, ErrPermissionDenied), errors.Is(err, ErrSessionLost), errors.As(err, &certificate):
		return false
	case !errors.As(err, &status):
		return true // the connection: refused, reset, cut short, silent
	case status.Code == http.StatusTooManyRequests:
		return true
	case status.Code < 500:
		return false
	}
	// What Consul words as its own failure, although it is the request's.
	for _, hopeless := range []string{
		"exceeds", // the event, the size that gossip takes
		"cross datacenter lock must be created at server agent",
		"invalid key name",
	} {
		if strings.Contains(status.Body, hopeless) {
			return false
		}
	}
	return true
}

// didNothing tells whether a request that failed certainly never was carried
// out, so that even one that must not happen twice may be repeated.
func didNothing(err error) bool {
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return true
	}
	var status api.StatusError
	if !errors.As(err, &status) || !canPass(err) {
		return false
	}
	if status.Code == http.StatusTooManyRequests {
		return true
	}
	// What an agent answers when it found no server to pass the request to.
	for _, unsent := range []string{
		"No cluster leader",
		"No known Consul servers",
		"No path to datacenter",
		"rpc error getting client",
	} {
		if strings.Contains(status.Body, unsent) {
			return true
		}
	}
	return false
}

// isDenied tells whether Consul refused a request for want of a permission.
// Errors that come by way of another server are a 500 with the text.
func isDenied(err error) bool {
	var status api.StatusError
	if !errors.As(err, &status) {
		return false
	}
	return status.Code == http.StatusForbidden ||
		status.Code == http.StatusUnauthorized ||
		strings.Contains(status.Body, "Permission denied") ||
		strings.Contains(status.Body, "ACL not found")
}

// saysInvalidSession tells whether Consul refused a write because its session
// is gone.
func saysInvalidSession(err error) bool {
	var status api.StatusError
	return errors.As(err, &status) && strings.Contains(status.Body, "invalid session")
}

// sleep waits for d, and tells whether ctx let it.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// contextError is the error of what ended with its context: the context's own,
// and its cause where that is another.
func contextError(ctx context.Context) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, context.Canceled) || errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	return fmt.Errorf("%w: %w", ctx.Err(), cause)
}

// withGrace returns a context that ends d after ctx has ended, or d from now where
// it has ended already: for what must still be done then.
func withGrace(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if d == 0 {
		return ctx, func() {}
	}
	later, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(d, cancel)
		context.AfterFunc(later, func() { timer.Stop() })
	})
	return later, func() {
		stop()
		cancel()
	}
}
