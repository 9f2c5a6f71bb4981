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

// ownGroup does nothing: a process knows its parent, which is all that killGroup needs.
func ownGroup(*exec.Cmd) {}

// killGroup kills a command's process and those it started.
func killGroup(pid int) {
	exec.Command("taskkill", "/T", "/F", "/PID", strconv.Itoa(pid)).Run()
}

// groupAlive is false: what an ended process started can no longer be found.
func groupAlive(int) bool { return false }
