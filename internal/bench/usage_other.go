//go:build !linux

package main

import "time"

// cpuTime returns ok = false: only Linux reports the CPU time of a running
// process.
func cpuTime(int) (used time.Duration, ok bool) { return 0, false }

// peakMemory returns ok = false: only Linux reports the peak memory of a
// running process.
func peakMemory(int) (peak int64, ok bool) { return 0, false }
