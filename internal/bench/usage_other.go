//go:build !linux

package main

import "time"

// cpuTime would return the CPU time of a running process.
func cpuTime(int) (used time.Duration, ok bool) { return 0, false }

// peakMemory would return the most memory that a running process has held.
func peakMemory(int) (peak int64, ok bool) { return 0, false }
