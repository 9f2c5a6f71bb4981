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
		t.Fatalf("%q runs %v, %v", dir, processes, err)
	}

	// A living process's directory is left alone, however old.
	age := func() {
		old := time.Now().Add(-time.Hour)
		if err := os.Chtimes(dir, old, old); err != nil {
			t.Fatal(err)
		}
	}
	age()
	sweep(tmp)
	if _, err := os.Stat(dir); err != nil {
		t.Fatal(err)
	}

	kill()
	eventually(t, "the agents die", func() error {
		processes, _, err := findProcesses(dir)
		if err == nil && len(processes) > 0 {
			err = fmt.Errorf("still there: %v", processes)
		}
		return err
	})
	age()
	sweep(tmp)
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory is left: %v", err)
	}
}
