package devcluster

import (
	"fmt"
	"os"
	"syscall"
)

// sysProcAttr gives the agent its own process group. Ctrl-C at the console then
// reaches only this program, which closes the cluster in order.
func sysProcAttr() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
	dieWithParent(attr)
	return attr
}

func signalPause(*os.Process, bool) error {
	return fmt.Errorf("windows cannot pause a process: %w", syscall.EWINDOWS)
}
