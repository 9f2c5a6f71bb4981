//go:build unix

package exectest

import (
	"os"
	"os/exec"
	"slices"
	"syscall"
)

// maxScans bounds how often the process table is read to find all processes
// that have to end, even if some of them start others all the time.
const maxScans = 500

func shell(script string) *exec.Cmd {
	sh := os.Getenv("SHELL")
	if sh == "" {
		sh = "/bin/sh"
	}
	return exec.Command(sh, "-c", script)
}

// ownGroup makes the command the leader of a process group of its own.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// killTrees kills the process groups and all descendants of their members. It
// stops them first: one that runs could start another process unnoticed, and
// its children would lose their parent when it ends. A process that was just
// starting another one finishes that before it stops. Children are killed
// before their parents. Otherwise their group might become an orphan, and the
// kernel resumes such a group.
func killTrees(groups []int) {
	if len(groups) == 0 {
		return
	}
	var pids []int
	for range maxScans {
		signalGroups(groups, syscall.SIGSTOP)
		known := len(pids)
		var running bool
		pids, running = addDescendants(pids, groups, processes())
		if len(pids) == known && !running {
			break
		}
		for _, pid := range pids[known:] {
			syscall.Kill(pid, syscall.SIGSTOP)
		}
	}
	for _, pid := range slices.Backward(pids) {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	signalGroups(groups, syscall.SIGKILL)
}

func signalGroups(groups []int, signal syscall.Signal) {
	for _, pid := range groups {
		syscall.Kill(-pid, signal)
	}
}

// A process is an entry of the process table.
type process struct {
	pid, parent, group int
	running            bool // not stopped, and not waiting either
}

// addDescendants appends to pids the descendants of pids and of the groups'
// members, parents first. It leaves the groups' members out. It also reports
// whether any of these or of the members is running.
func addDescendants(pids, groups []int, table []process) (all []int, running bool) {
	found := map[int]bool{}
	for _, pid := range pids {
		found[pid] = true
	}
	for known := -1; known < len(found); {
		known = len(found)
		for _, p := range table {
			member := slices.Contains(groups, p.group)
			if found[p.pid] || !member && !found[p.parent] {
				continue
			}
			found[p.pid] = true
			if !member {
				pids = append(pids, p.pid)
			}
		}
	}
	running = slices.ContainsFunc(table, func(p process) bool { return p.running && found[p.pid] })
	return pids, running
}

// groupAlive reports whether the group has any process.
func groupAlive(pid int) bool { return syscall.Kill(-pid, 0) == nil }
