package devcluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// helperEnv turns the test binary into a helper process. The helper starts a
// cluster or takes a lock, prints a line and waits until a test kills it.
const helperEnv = "DEVCLUSTER_TEST_HELPER"

func TestMain(m *testing.M) {
	switch os.Getenv(helperEnv) {
	case "cluster":
		c, err := New(context.Background(), Config{Nodes: Nodes(1, 1)})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(c.dir)
		time.Sleep(time.Hour)
		c.Close()
	case "lock":
		l, err := tryLock(os.Getenv("DEVCLUSTER_TEST_LOCK"))
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("locked")
		time.Sleep(time.Hour)
		l.unlock()
	}
	os.Exit(m.Run())
}

// startHelper starts a helper and returns its first line of output. kill kills
// the helper, which cannot clean up.
func startHelper(t *testing.T, env ...string) (line string, kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	t.Cleanup(kill)
	lines := bufio.NewScanner(stdout)
	if !lines.Scan() {
		t.Fatalf("the helper printed nothing: %v", lines.Err())
	}
	return lines.Text(), kill
}

func TestLockEndsWithItsProcess(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.lock")
	line, kill := startHelper(t, helperEnv+"=lock", "DEVCLUSTER_TEST_LOCK="+file)
	if line != "locked" {
		t.Fatal(line)
	}
	if _, err := tryLock(file); !errors.Is(err, errLocked) {
		t.Errorf("the helper holds the lock: error %v, want errLocked", err)
	}
	kill()
	l, err := lock(t.Context(), file, nil)
	if err != nil {
		t.Fatal(err)
	}
	l.unlock()
}
