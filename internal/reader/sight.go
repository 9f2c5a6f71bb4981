package reader

import (
	"context"
	"time"

	"github.com/consulexec/consulexec/internal/consul"
)

// sight measures for how long nothing could be read.
type sight struct {
	asked      time.Time // when the last request was made
	blindSince time.Time // since when something may have been missed, or zero
	failed     bool      // whether a request has failed since then
}

// do makes a request by client.Do and observes its tries.
func (s *sight) do(ctx context.Context, client *consul.Client, op consul.Operation, send func(ctx context.Context) error) error {
	return client.Do(ctx, op, func(try context.Context) error {
		s.asked = time.Now()
		err := send(try)
		if err != nil {
			since := time.Now()
			if try.Err() != nil {
				since = s.asked // interrupted or silent: it may have been blind since then
			}
			if s.blindSince.IsZero() {
				s.blindSince = since
			}
			s.failed = s.failed || ctx.Err() == nil
		}
		return err
	})
}

// outage ends the outage before the last request, which succeeded. It returns
// how long the outage was, or 0 if no request has failed.
func (s *sight) outage() time.Duration {
	defer func() { s.blindSince, s.failed = time.Time{}, false }()
	if !s.failed {
		return 0
	}
	return s.asked.Sub(s.blindSince)
}
