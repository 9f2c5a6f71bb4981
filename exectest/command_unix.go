//go:build unix

package exectest

import (
	"os"
	"os/exec"
	"syscall"
)

func shell(script string) *exec.Cmd {
	sh := os.Getenv("SHELL")
	if sh == "" {
		sh = "/bin/sh"
	}
	return exec.Command(sh, "-c", script)
}

// ownGroup makes the command the leader of a process group of its own.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// killGroup kills all processes in the command's group.
func killGroup(pid int) { syscall.Kill(-pid, syscall.SIGKILL) }

// groupAlive reports whether the group has any process.
func groupAlive(pid int) bool { return syscall.Kill(-pid, 0) == nil }
