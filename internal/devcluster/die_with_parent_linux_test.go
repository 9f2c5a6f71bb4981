package devcluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"testing"
	"time"
)

func TestAgentsDieWithTheirProcess(t *testing.T) {
	needsConsul(t)
	tmp := t.TempDir()
	dir, kill := startHelper(t, helperEnv+"=cluster", "TMPDIR="+tmp)
	processes, _, err := findProcesses(dir)
	if err != nil || len(processes) != 2 {
		t.Fatalf("processes of %q are %v, %v; want 2", dir, processes, err)
	}

	// sweep spares the directory of a live process, whatever its age.
	makeOld := func() {
		old := time.Now().Add(-time.Hour)
		if err := os.Chtimes(dir, old, old); err != nil {
			t.Fatal(err)
		}
	}
	makeOld()
	sweep(tmp)
	if _, err := os.Stat(dir); err != nil {
		t.Fatal(err)
	}

	kill()
	eventually(t, "wait for the agents to end", func() error {
		processes, _, err := findProcesses(dir)
		if err == nil && len(processes) > 0 {
			err = fmt.Errorf("still running: %v", processes)
		}
		return err
	})
	makeOld()
	sweep(tmp)
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory still exists: %v", err)
	}
}
