package consulexec

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
)

// RunDatacenters runs command in several datacenters at once, each as a run of its
// own with its own session and job, and waits for the end of all. What goes wrong in
// one leaves the others running.
//
// The options of each are those that options returns for it, and WithDatacenter;
// nil is none. options is called for all datacenters, in their order, before
// anything is started. Callbacks that it makes know their datacenter from its
// argument:
//
//	func(datacenter string) []consulexec.Option {
//		return []consulexec.Option{
//			consulexec.OnExit(func(node string, code int) { fmt.Println(datacenter, node, code) }),
//		}
//	}
//
// The callbacks of all runs are called one at a time, on the caller's goroutine, as
// by Run. One that takes its time slows the reading in all datacenters. Where one
// panics, no other is called any more: the runs are cancelled, their sessions
// and keys are removed, and then the panic goes on.
//
// The results are in the order of datacenters; Result.Datacenter names each. The
// error joins those of the runs that failed, each of which names its
// datacenter; the result of such a run says how far it came. Where an option makes
// no sense, ctx is nil, or there is no datacenter, an empty one or one twice, there is
// an error and no result, and nothing was started.
func RunDatacenters(ctx context.Context, datacenters []string, command string, options func(datacenter string) []Option) ([]*Result, error) {
	execs, err := newDatacenters(datacenters, command, options)
	if err != nil {
		return nil, err
	}
	for _, e := range execs {
		if err := e.begin(ctx); err != nil {
			return nil, err
		}
	}
	runTogether(ctx, execs)
	results := make([]*Result, len(execs))
	errs := make([]error, len(execs))
	for i, e := range execs {
		if results[i], err = e.Wait(); err != nil {
			errs[i] = fmt.Errorf("datacenter %q: %w", datacenters[i], err)
		}
	}
	return results, errors.Join(errs...)
}

// newDatacenters prepares a run in each datacenter. Its error has everything that is
// wrong.
func newDatacenters(datacenters []string, command string, options func(datacenter string) []Option) ([]*Exec, error) {
	if len(datacenters) == 0 {
		return nil, errors.New("consulexec: RunDatacenters: no datacenter")
	}
	var execs []*Exec
	var errs []error
	for i, dc := range datacenters {
		if dc == "" {
			errs = append(errs, fmt.Errorf("consulexec: RunDatacenters(%q): has an empty datacenter", datacenters))
			continue
		}
		if slices.Contains(datacenters[:i], dc) {
			errs = append(errs, fmt.Errorf("consulexec: RunDatacenters(%q): has %q twice", datacenters, dc))
			continue
		}
		var opts []Option
		if options != nil {
			opts = options(dc)
		}
		e, err := New(command, append(slices.Clone(opts), WithDatacenter(dc))...)
		if err != nil {
			err = fmt.Errorf("datacenter %q: %w", dc, err)
		}
		execs = append(execs, e)
		errs = append(errs, err)
	}
	return execs, errors.Join(errs...)
}

// runTogether runs what has begun, each on a goroutine of its own, and waits for
// all. It makes their callbacks' calls itself.
func runTogether(ctx context.Context, execs []*Exec) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		calls   = make(chan func())
		called  = make(chan struct{}) // for the run whose call was made
		aborted = make(chan struct{}) // closed where no further call is made
		ended   = make(chan struct{}) // for each run
	)
	call := func(fn func()) {
		select {
		case calls <- fn:
		case <-aborted:
			runtime.Goexit()
		}
		select {
		case <-called:
		case <-aborted:
			runtime.Goexit()
		}
	}
	for _, e := range execs {
		config := *e.config
		config.callbacks = config.callbacks.by(call)
		e.config = &config
		go func() {
			defer func() { ended <- struct{}{} }()
			e.run(ctx)
		}()
	}
	running := len(execs)
	defer func() { // a callback panicked or ended this goroutine, where any run is left
		cancel()
		close(aborted)
		for range running {
			<-ended
		}
	}()
	for running > 0 {
		select {
		case fn := <-calls:
			fn()
			called <- struct{}{}
		case <-ended:
			running--
		}
	}
}
