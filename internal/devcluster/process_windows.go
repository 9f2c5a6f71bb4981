package devcluster

import (
	"fmt"
	"os"
	"syscall"
)

// sysProcAttr gives the agent a process group of its own, so that an interrupt typed at the console reaches only the
// program, which then closes the cluster in its own order.
func sysProcAttr() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
	dieWithParent(attr)
	return attr
}

func signalPause(*os.Process, bool) error {
	return fmt.Errorf("windows cannot pause a process: %w", syscall.EWINDOWS)
}
