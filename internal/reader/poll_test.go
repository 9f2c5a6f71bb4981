package reader

import (
	"errors"
	"io"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
)

// TestPoll checks which failures count as cuts, and how the wait gets shorter.
func TestPoll(t *testing.T) {
	var p poll
	for _, step := range []struct {
		err    error
		waited time.Duration
		cut    bool
		wait   time.Duration // after it
	}{
		{io.ErrUnexpectedEOF, 20 * time.Millisecond, false, pollWait},
		{api.StatusError{Code: 403, Body: "Permission denied"}, 6 * time.Second, false, pollWait},
		{errors.New("no answer in time"), pollTimeout, false, pollWait},
		{io.ErrUnexpectedEOF, 6 * time.Second, true, pollWait},
		{api.StatusError{Code: 504, Body: "<html>"}, 6 * time.Second, true, 3 * time.Second},
		{io.EOF, 3 * time.Second, true, 1500 * time.Millisecond},
		{io.EOF, 1400 * time.Millisecond, true, time.Second},
		{io.EOF, time.Second, true, time.Second},
	} {
		if cut := p.cut(step.err, step.waited); cut != step.cut || p.wait() != step.wait {
			t.Errorf("%v after %v: cut %v, then a wait of %v; want %v and %v", step.err, step.waited, cut, p.wait(), step.cut, step.wait)
		}
	}
}
