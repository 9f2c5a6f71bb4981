package exectest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// processes returns the process table.
func processes() []process {
	var table []process
	for _, pid := range processIDs() {
		p := process{pid: pid}
		stat := readProc(pid, "stat")
		// The name, in parentheses, may itself have spaces and parentheses.
		stat = stat[bytes.LastIndexByte(stat, ')')+1:]
		var state string
		if _, err := fmt.Sscan(string(stat), &state, &p.parent, &p.group); err == nil {
			p.running = state == "R"
			table = append(table, p)
		}
	}
	return table
}

// processIDs returns the IDs of all processes.
func processIDs() []int {
	var all []int
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			all = append(all, pid)
		}
	}
	return all
}

// readProc returns what /proc says about the process, or nothing if it has
// ended or belongs to another user.
func readProc(pid int, file string) []byte {
	data, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), file))
	return data
}

// killStrays kills every process that has started with a variable that names a
// place below dir. It
// kills until two scans in a row find none: one scan may miss a process whose
// parent ends meanwhile, or that has no environment for a moment while it loads
// a new program. Both may miss a process that replaces itself all the time.
func killStrays(dir string) {
	mark := []byte("=" + dir + "/")
	clean := 0
	for range maxScans {
		clean++
		for _, pid := range processIDs() {
			if bytes.Contains(readProc(pid, "environ"), mark) {
				syscall.Kill(pid, syscall.SIGKILL)
				clean = 0
			}
		}
		if clean == 2 {
			return
		}
		// time.Sleep takes no time in a bubble, but moves its clock.
		syscall.Nanosleep(&syscall.Timespec{Nsec: 10e6}, nil)
	}
}
