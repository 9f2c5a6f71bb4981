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

// killTrees kills the commands and their descendants.
func killTrees(pids []int) {
	for _, pid := range pids {
		exec.Command("taskkill", "/T", "/F", "/PID", strconv.Itoa(pid)).Run()
	}
}

// killStrays does nothing: nobody may read the environment of a process.
func killStrays(string) {}

// groupAlive returns false: the children of an ended process cannot be found.
func groupAlive(int) bool { return false }
