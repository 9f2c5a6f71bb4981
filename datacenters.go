package consulexec

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
)

// RunDatacenters runs command in several datacenters at once, each as a run of
// its own with its own session and job, and waits for the end of all. A failure
// in one datacenter leaves the others running.
//
// The options of each run are those that the function options returns for its
// datacenter, and WithDatacenter. A nil function means no options. It is called
// for all datacenters, in their order, before anything is started. Its
// callbacks know their datacenter from its argument:
//
//	func(datacenter string) []consulexec.Option {
//		return []consulexec.Option{
//			consulexec.OnExit(func(node string, code int) { fmt.Println(datacenter, node, code) }),
//		}
//	}
//
// The callbacks of all runs are called one at a time, on the caller's
// goroutine, as by Run. A slow callback slows the reading in all datacenters.
// If one panics, no other is called: the runs are cancelled, their sessions and
// keys are removed, and then the panic goes on. WithKillOnCancel ends their
// commands before that.
//
// The results are in the order of datacenters; Result.Datacenter names each.
// The error joins the errors of the runs that failed. Before each, as Wait
// returns it, stands its datacenter: `datacenter "dc2": consulexec: ...`. As
// with Run, what went wrong on nodes is not in it, but in the Result.Err of each
// datacenter, which has the run's own error, too. If an option is not usable,
// ctx is nil, or datacenters is empty or has an empty or repeated name, there
// are errors of the same form and no result, and nothing was started.
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
			errs[i] = inDatacenter(datacenters[i], err)
		}
	}
	return results, errors.Join(errs...)
}

// newDatacenters prepares a run in each datacenter. Its error has everything
// that is wrong.
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
		var given []Option
		if options != nil {
			given = options(dc)
		}
		e, bad := newExec(command, append(slices.Clone(given), WithDatacenter(dc)))
		execs = append(execs, e)
		for _, err := range bad {
			errs = append(errs, inDatacenter(dc, prefixed(err)))
		}
	}
	return execs, errors.Join(errs...)
}

// inDatacenter names the datacenter of an error.
func inDatacenter(dc string, err error) error { return fmt.Errorf("datacenter %q: %w", dc, err) }

// runTogether runs what has begun, each run on a goroutine of its own, and
// waits for all. It calls their callbacks itself.
func runTogether(ctx context.Context, execs []*Exec) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		calls   = make(chan func())
		called  = make(chan struct{}) // for the run whose call was made
		aborted = make(chan struct{}) // closed when no further call is made
		ended   = make(chan struct{}) // one for each run
	)
	// onCaller returns a listener that runs on the caller's goroutine.
	onCaller := func(listen listener) listener {
		return func(event Event) {
			select {
			case calls <- func() { listen(event) }:
			case <-aborted:
				runtime.Goexit()
			}
			select {
			case <-called:
			case <-aborted:
				runtime.Goexit()
			}
		}
	}
	for _, e := range execs {
		go func() {
			defer func() { ended <- struct{}{} }()
			e.run(ctx, onCaller(e.config.handlers.listener()))
		}()
	}
	running := len(execs)
	defer func() { // runs are left if a callback panicked or ended this goroutine
		cancel()
		close(aborted)
		for range running {
			<-ended
		}
	}()
	for running > 0 {
		select {
		case call := <-calls:
			call()
			called <- struct{}{}
		case <-ended:
			running--
		}
	}
}
