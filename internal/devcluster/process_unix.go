//go:build unix

package devcluster

import (
	"os"
	"syscall"
)

// sysProcAttr gives the agent a process group of its own, so that an interrupt typed at the terminal reaches only the
// program, which then closes the cluster in its own order.
func sysProcAttr() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true}
	dieWithParent(attr)
	return attr
}

func signalPause(p *os.Process, pause bool) error {
	if pause {
		return p.Signal(syscall.SIGSTOP)
	}
	return p.Signal(syscall.SIGCONT)
}
