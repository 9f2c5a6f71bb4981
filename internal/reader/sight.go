package reader

import (
	"context"
	"time"

	"github.com/consulexec/consulexec/internal/consul"
)

// tolerance is how long the listings may be apart before the time between them
// counts as an outage.
const tolerance = time.Second

// sight measures for how long nothing could be read.
type sight struct {
	asked      time.Time // when the last request was made
	listedAt   time.Time // when the last listing came; at first, when reading began
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

// outage ends the outage before the last listing, which succeeded. It returns
// how long the outage was. It is 0 if no request has failed, or if the listings
// came at short intervals in spite of failures: so time goes on for a run whose
// requests fail again and again.
func (s *sight) outage() time.Duration {
	failed, blind, gap := s.failed, s.asked.Sub(s.blindSince), s.asked.Sub(s.listedAt)-tolerance
	s.blindSince, s.failed, s.listedAt = time.Time{}, false, time.Now()
	if !failed {
		return 0
	}
	return max(0, min(blind, gap))
}
