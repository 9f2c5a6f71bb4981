// Package runtest holds what the tests of whole runs share: a [Recorder] that
// checks the callbacks of a run, checks of what a run leaves behind, and scripted
// nodes of exectest.
package runtest

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/consulexec/consulexec/exectest"
)

// Main runs the tests of a package and returns the exit status for its TestMain.
// It fails if a goroutine of this module outlives the tests.
func Main(m *testing.M) int {
	code := m.Run()
	if left := lingering(); left != "" {
		fmt.Fprintf(os.Stderr, "goroutines outlive the tests:\n%s\n", left)
		code = 1
	}
	return code
}

// lingering returns the stacks of the goroutines that run code of this module.
// It gives them a few seconds to end.
func lingering() string {
	var left []string
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		left = nil
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		for stack := range strings.SplitSeq(string(stacks), "\n\n") {
			if strings.Contains(stack, "consulexec/consulexec") && !strings.Contains(stack, "TestMain") {
				left = append(left, stack)
			}
		}
		if left == nil {
			return ""
		}
	}
	return strings.Join(left, "\n\n")
}

// Bubble runs test in a synctest bubble, with a cluster of exectest. Hours pass
// there in no time, and a goroutine that does not end fails the test.
func Bubble(t *testing.T, nodes []exectest.Option, test func(t *testing.T, srv *exectest.Server)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		srv := exectest.NewServer(nodes...)
		defer srv.Close()
		test(t, srv)
	})
}

// Node returns a node whose command is h.
func Node(name string, h exectest.Handler, options ...exectest.NodeOption) exectest.Option {
	return exectest.Node(name, append(options, exectest.Run(h))...)
}

// Up is a command that prints "up" and exits with 0.
var Up = exectest.Answer("up\n", 0)

// Sleeps returns a command that is silent for d.
func Sleeps(d time.Duration) exectest.Handler {
	return func(ctx context.Context, j *exectest.Job) int {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
		return 0
	}
}

// Counts returns a command that prints the numbers below n, one each 0.3 s.
func Counts(n int) exectest.Handler {
	return func(ctx context.Context, j *exectest.Job) int {
		for i := range n {
			fmt.Fprintln(j.Output, i)
			Sleeps(300*time.Millisecond)(ctx, j)
		}
		return 0
	}
}

// Dies returns a command that prints "begun". Its agent dies d later.
func Dies(d time.Duration) exectest.Handler {
	return func(ctx context.Context, j *exectest.Job) int {
		fmt.Fprintln(j.Output, "begun")
		Sleeps(d)(ctx, j)
		j.Die()
		return 0
	}
}
