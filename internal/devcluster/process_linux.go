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

// dieWithParent has the process killed when this one dies, however that happens.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }

// frozen tells whether all threads of the process have stopped.
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
		// The state follows the command's name in parentheses, which may hold parentheses of its own.
		i := bytes.LastIndexByte(stat, ')')
		if i < 0 || !bytes.HasPrefix(stat[i+1:], []byte(" T ")) {
			return false
		}
	}
	return true
}

// findProcesses returns the processes that have been started in the cluster of the directory, by their environment: a
// command's parent may have died, and its process group is its own. ok tells whether this system lets them be found.
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

// nodeOf returns the node of the cluster that has started the process, if one has. A process that has ended, reaped or
// not, has no environment.
func nodeOf(pid int, dir string) (node string, ok bool) {
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return "", false // ended meanwhile, or another user's
	}
	for v := range bytes.SplitSeq(env, []byte{0}) {
		if node, ok := strings.CutPrefix(string(v), processEnv+"="+dir+"/"); ok {
			return node, true
		}
	}
	return "", false
}

// killProcesses kills what findProcesses finds until nothing is left. Killed processes vanish at once but for those that
// the kernel holds.
func killProcesses(dir string) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		processes, _, err := findProcesses(dir)
		if err != nil || len(processes) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes do not end: %v", processes)
		}
		for _, p := range processes {
			process, err := os.FindProcess(p.PID) // holds on to the process, so that its id cannot be another's
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
