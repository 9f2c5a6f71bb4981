package consul

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Sleep waits for d. It reports false if ctx ended first.
func Sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// Within returns a context that ends after d at the latest. Work that d cuts
// short has had no answer from Consul: its error is ErrUnavailable, not
// context.DeadlineExceeded, which would be the caller's.
func Within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, errNoAnswer)
}

// ContextError returns the error of work that ended with ctx: the context's
// error, with its cause if that is another.
func ContextError(ctx context.Context) error {
	cause := context.Cause(ctx)
	if cause == errNoAnswer {
		return unavailable{cause}
	}
	if errors.Is(cause, context.Canceled) || errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	return fmt.Errorf("%w: %w", ctx.Err(), cause)
}

// WithGrace returns a context that ends d after ctx has ended, or d from now if
// ctx has ended already. It is for work that has to be done even then.
func WithGrace(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
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
