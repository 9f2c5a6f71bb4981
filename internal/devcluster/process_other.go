//go:build !linux

package devcluster

import "syscall"

// dieWithParent does nothing: only Linux kills a process when its parent dies.
// If this program is killed, its agents run on.
func dieWithParent(*syscall.SysProcAttr) {}

// frozen assumes that the signal has taken effect: only Linux has a simple way
// to check.
func frozen(int) bool { return true }

// findProcesses returns ok = false: only Linux shows a process's environment to
// other programs.
func findProcesses(dir string) (processes []Process, ok bool, err error) { return nil, false, nil }

func killProcesses(dir string) error { return nil }
