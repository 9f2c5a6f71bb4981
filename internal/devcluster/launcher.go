package devcluster

import (
	"os/exec"
	"runtime"
)

// launcher starts processes from one OS thread that lives as long as the
// cluster. On Linux an agent gets its signal (Pdeathsig) when the thread that
// started it ends. Go may end other threads long before the program ends.
type launcher struct {
	requests chan launch
	ended    chan struct{}
}

type launch struct {
	cmd *exec.Cmd
	err chan error
}

func newLauncher() *launcher {
	l := &launcher{requests: make(chan launch), ended: make(chan struct{})}
	go l.serve()
	return l
}

// serve is the launcher's goroutine; close ends it.
func (l *launcher) serve() {
	defer close(l.ended)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for r := range l.requests {
		r.err <- r.cmd.Start()
	}
}

func (l *launcher) start(cmd *exec.Cmd) error {
	err := make(chan error, 1)
	l.requests <- launch{cmd, err}
	return <-err
}

func (l *launcher) close() {
	close(l.requests)
	<-l.ended
}
