package exectest

import (
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

func shell(script string) *exec.Cmd {
	sh := os.Getenv("SHELL")
	if sh == "" {
		sh = "cmd"
	}
	cmd := exec.Command(sh)
	cmd.SysProcAttr = &syscall.SysProcAttr{CmdLine: sh + ` /C "` + script + `"`}
	return cmd
}

// ownGroup does nothing: taskkill finds a process by its parent.
func ownGroup(*exec.Cmd) {}

// killGroup kills the command and its descendants.
func killGroup(pid int) {
	exec.Command("taskkill", "/T", "/F", "/PID", strconv.Itoa(pid)).Run()
}

// groupAlive returns false: the children of an ended process cannot be found.
func groupAlive(int) bool { return false }
