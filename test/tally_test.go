package test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/consulexec/consulexec"
)

// A tally is a command that counts slowly, and a file with a mark for each time
// that it was started.
type tally struct {
	file    string
	command string
	want    string
}

// newTally returns a tally that counts to steps, one each 0.1 s.
func newTally(t *testing.T, steps int) *tally {
	y := &tally{file: filepath.Join(t.TempDir(), "marks")}
	var want strings.Builder
	for i := range steps {
		fmt.Fprintln(&want, i)
	}
	y.command = fmt.Sprintf("echo x >>%s; i=0; while [ $i -lt %d ]; do echo $i; i=$((i+1)); sleep 0.1; done", y.file, steps)
	y.want = want.String()
	return y
}

// check compares a result with the marks of that many nodes. A node that exited
// with 0 has printed everything in order. The others have failed in the result,
// too. No node ran the command twice.
func (y *tally) check(t *testing.T, result *consulexec.Result, nodes int) {
	t.Helper()
	marks, err := os.ReadFile(y.file)
	if err != nil && !errors.Is(err, os.ErrNotExist) { // no file: no node ran it
		t.Error(err)
	}
	ran := strings.Count(string(marks), "x")
	if ran > nodes {
		t.Errorf("%d nodes started the command %d times", nodes, ran)
	}
	exited := 0
	for _, n := range result.Nodes {
		switch {
		case n.State == consulexec.StateExited && n.ExitCode == 0:
			exited++
			if string(n.Output) != y.want {
				t.Errorf("%s exited with 0 and output %q", n.Node, n.Output)
			}
		case n.State == consulexec.StateExited && n.ExitCode != 255: // 255: its agent gave up
			t.Errorf("%s exited with %d, want 0 or 255", n.Node, n.ExitCode)
		case !strings.HasPrefix(y.want, string(n.Output)):
			t.Errorf("%s is %v with output %q", n.Node, n.State, n.Output)
		case n.State == consulexec.StateRunning && result.Err() == nil:
			t.Errorf("%s is running, but the result has no error", n.Node)
		}
	}
	if ran < exited {
		t.Errorf("%d nodes exited with 0, but only %d started the command", exited, ran)
	}
}

// busy returns a command for a run with n nodes at a time. On each node it
// records in a file when it begins and ends. It ends after n nodes have begun,
// or after 5 s. Most returns how many nodes ran it at once.
func busy(t *testing.T, n int) (command string, most func() int) {
	file := filepath.Join(t.TempDir(), "marks")
	command = fmt.Sprintf("echo begin >>%[1]s; i=0; while [ $(grep -c begin %[1]s) -lt %[2]d ] && [ $i -lt 50 ]; do i=$((i+1)); sleep 0.1; done; sleep 0.3; echo end >>%[1]s", file, n)
	return command, func() int {
		marks, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		running, most := 0, 0
		for mark := range strings.FieldsSeq(string(marks)) {
			if mark == "begin" {
				running++
			} else {
				running--
			}
			most = max(most, running)
		}
		return most
	}
}
