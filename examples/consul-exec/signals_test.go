package main

import (
	"context"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestSecondSignal ends a run by SIGHUP and then sends another signal. A second
// SIGHUP must not cut the end of the run short; the others must.
func TestSecondSignal(t *testing.T) {
	for _, second := range []os.Signal{syscall.SIGHUP, syscall.SIGTERM, os.Interrupt} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			var stderr strings.Builder
			signals, exits := make(chan os.Signal, 2), 0
			ignore := heed(signals, cancel, &screen{stderr: &stderr}, func(int) { exits++ })
			defer ignore()

			signals <- syscall.SIGHUP
			synctest.Wait()
			if cause := context.Cause(ctx); cause == nil || cause.Error() != syscall.SIGHUP.String() || !strings.HasPrefix(stderr.String(), "ending the run;") || exits != 0 {
				t.Errorf("the first signal: cause %v, %q, %d exits", cause, &stderr, exits)
			}
			want := 0
			if second != syscall.SIGHUP {
				want = 1
			}
			signals <- second
			if synctest.Wait(); exits != want {
				t.Errorf("%v after SIGHUP: %d exits, want %d", second, exits, want)
			}
		})
	}
}

// TestAbandon exits while a write is under way. The progress line is removed and
// does not come back, unless the write is stuck.
func TestAbandon(t *testing.T) {
	for _, test := range []struct {
		write time.Duration // how long it takes; 0 is forever
		want  string
	}{{redraw / 2, "\r\x1b[K"}, {0, ""}} {
		synctest.Test(t, func(t *testing.T) {
			var stderr strings.Builder
			s := &screen{stderr: &stderr, shown: "done 1"}
			s.mu.Lock()
			if test.write > 0 {
				time.AfterFunc(test.write, s.mu.Unlock)
			}
			began := time.Now()
			s.abandon()
			if took := time.Since(began); stderr.String() != test.want || took > 2*redraw || s.mu.TryLock() {
				t.Errorf("a write of %v: %q after %v, or another write can follow", test.write, &stderr, took)
			}
		})
	}
}
