package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// interruptible makes the first Ctrl-C, SIGTERM or SIGHUP end the run, and the
// second one end the program, until stop is called. SIGHUP does nothing if it
// was ignored at the start, as under nohup, nor as the second signal: a
// terminal that goes may send two. If the reader of the output goes away, the
// failed write ends the run.
func interruptible(cancel context.CancelCauseFunc, screen *screen) (stop func()) {
	signals := make(chan os.Signal, 2)
	if !signal.Ignored(syscall.SIGHUP) {
		signal.Notify(signals, syscall.SIGHUP)
	}
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	// Nobody reads this channel: it is there so that a failed write does not end
	// the program. What a program ignores, the commands of -demo ignore, too.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ignore := heed(signals, cancel, screen, os.Exit)
	return func() {
		signal.Stop(signals)
		ignore()
	}
}

// heed ends the run at the first of the signals, and calls exit at the second one,
// unless it is SIGHUP, until ignore is called.
func heed(signals <-chan os.Signal, cancel context.CancelCauseFunc, screen *screen, exit func(int)) (ignore func()) {
	stopped := make(chan struct{})
	var tasks sync.WaitGroup
	tasks.Go(func() {
		select {
		case s := <-signals:
			cancel(fmt.Errorf("%v", s))
		case <-stopped:
			return
		}
		// If a write to the screen is stuck, so is this one: the second signal
		// must not wait for it.
		tasks.Go(func() { screen.err("ending the run; interrupt again to exit at once") })
		for {
			select {
			case s := <-signals:
				if s == syscall.SIGHUP {
					continue
				}
				screen.abandon()
				exit(1)
				return
			case <-stopped:
				return
			}
		}
	})
	return func() {
		close(stopped)
		tasks.Wait()
	}
}
