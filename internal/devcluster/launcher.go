package devcluster

import (
	"os/exec"
	"runtime"
)

// launcher starts processes from one thread that lives as long as the cluster: on Linux the agents get a signal when the
// thread that has started them ends (Pdeathsig), which for any other thread may be long before the process does.
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
