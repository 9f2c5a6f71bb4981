//go:build !linux

package devcluster

import "syscall"

// dieWithParent does nothing: only Linux can tie a process's life to another's. An agent whose program was killed runs on.
func dieWithParent(*syscall.SysProcAttr) {}

// frozen takes the signal for the deed: elsewhere than on Linux there is no simple way to see it done.
func frozen(int) bool { return true }

// findProcesses returns the processes that have been started in the cluster of the directory. Only Linux shows a process's
// environment to other programs.
func findProcesses(dir string) (processes []Process, ok bool, err error) { return nil, false, nil }

func killProcesses(dir string) error { return nil }
