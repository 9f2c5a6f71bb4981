package runtest

import (
	"errors"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
)

// Recorders has a recorder for each datacenter of RunDatacenters.
type Recorders struct {
	// Reach says how the runs reach Consul. Nil means WithClient, with the
	// recorders' client.
	Reach consulexec.Option

	// Hook, if not nil, runs in each callback, after the callback was recorded.
	Hook func(dc, call string)

	tb     testing.TB
	client *api.Client
	in     map[string]*Recorder
}

// NewRecorders returns recorders for one call of RunDatacenters. The checks ask
// client what the runs left behind.
func NewRecorders(tb testing.TB, client *api.Client) *Recorders {
	return &Recorders{tb: tb, client: client, in: make(map[string]*Recorder)}
}

// Options returns the function that RunDatacenters takes. The options of each
// datacenter end with more.
func (r *Recorders) Options(more ...consulexec.Option) func(dc string) []consulexec.Option {
	return func(dc string) []consulexec.Option {
		if r.in[dc] != nil {
			r.tb.Errorf("RunDatacenters asks twice for the options of %s", dc)
		}
		rec := NewRecorder(r.tb, r.client)
		rec.Reach = r.Reach
		if r.Hook != nil {
			rec.Hook = func(call string) { r.Hook(dc, call) }
		}
		r.in[dc] = rec
		return rec.Options(more...)
	}
}

// In returns the recorder of a datacenter.
func (r *Recorders) In(dc string) *Recorder { return r.in[dc] }

// Check makes all checks of the run in one datacenter. The error that
// RunDatacenters returned may hold that of the run. RunDatacenters must have been
// called on the goroutine that calls Check.
func (r *Recorders) Check(dc string, result *consulexec.Result, err error) {
	r.tb.Helper()
	if result.Datacenter != dc {
		r.tb.Errorf("the result for %s is for %s", dc, result.Datacenter)
	}
	rec := r.in[dc]
	if (rec.Err == nil) != (err == nil) || rec.Err != nil && !errors.Is(err, rec.Err) {
		r.tb.Errorf("%s: OnError got %v, the caller got %v", dc, rec.Err, err)
	}
	rec.CheckCalls(rec.Err)
	rec.checkResult(result)
	if on := goroutine(); on != rec.goroutine {
		r.tb.Errorf("%s: callbacks are on %s, the test is on %s", dc, rec.goroutine, on)
	}
	checkNothingLeft(r.tb, r.client, "", result)
}
