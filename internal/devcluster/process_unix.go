//go:build unix

package devcluster

import (
	"os"
	"syscall"
)

// sysProcAttr gives the agent its own process group. Ctrl-C at the terminal
// then reaches only this program, which closes the cluster in order.
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
