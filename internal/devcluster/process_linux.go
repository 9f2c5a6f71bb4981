package devcluster

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// dieWithParent makes the kernel kill the process when this program dies in any
// way.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }

// frozen reports whether all threads of the process have stopped.
func frozen(pid int) bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(threads) == 0 {
		return false
	}
	for _, file := range threads {
		stat, err := os.ReadFile(file)
		if err != nil {
			return false
		}
		// The state follows the command name in parentheses. The name may
		// contain parentheses.
		i := bytes.LastIndexByte(stat, ')')
		if i < 0 || !bytes.HasPrefix(stat[i+1:], []byte(" T ")) {
			return false
		}
	}
	return true
}

// findProcesses returns the processes of the cluster in dir. It finds them by
// their environment, since a command's parent may be dead and its process group
// is its own. ok reports whether this system supports the search.
func findProcesses(dir string) (processes []Process, ok bool, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, true, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		node, ok := nodeOf(pid, dir)
		if !ok {
			continue
		}
		args, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		processes = append(processes, Process{
			PID:  pid,
			Node: node,
			Args: strings.Split(strings.TrimSuffix(string(args), "\x00"), "\x00"),
		})
	}
	return processes, true, nil
}

// nodeOf returns the node of the process if it belongs to the cluster in dir.
// An ended process, even a zombie, has no environment.
func nodeOf(pid int, dir string) (node string, ok bool) {
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return "", false // the process ended, or belongs to another user
	}
	for v := range bytes.SplitSeq(env, []byte{0}) {
		if node, ok := strings.CutPrefix(string(v), processEnv+"="+dir+"/"); ok {
			return node, true
		}
	}
	return "", false
}

// killProcesses kills the cluster's processes until findProcesses finds none.
// It gives up after 10 seconds, since the kernel may delay the end of a
// process.
func killProcesses(dir string) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		processes, _, err := findProcesses(dir)
		if err != nil || len(processes) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes still run after they were killed: %v", processes)
		}
		for _, p := range processes {
			process, err := os.FindProcess(p.PID) // pins the process, so its ID cannot be reused
			if err != nil {
				return err
			}
			if _, ok := nodeOf(p.PID, dir); ok {
				err = process.Kill()
			}
			process.Release()
			if err != nil && !errors.Is(err, os.ErrProcessDone) {
				return err
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
}
