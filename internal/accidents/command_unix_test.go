//go:build unix

package accidents

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestCommand runs a command that asks for a restart, in a directory whose name
// means something to a shell. It does not pause between the lines.
func TestCommand(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a'b `(c) $d")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	c := NewCommand(dir, true)
	if n, err := c.Started(); n != 0 || err != nil {
		t.Errorf("started %d times before the start, error %v", n, err)
	}
	fast := strings.ReplaceAll(c.Text, "sleep 0.5", ":")
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", fast)
	cmd.Env = append(os.Environ(), nodeEnv+"=web-1")
	ended := make(chan string, 1)
	go func() {
		output, _ := cmd.Output()
		ended <- string(output)
	}()
	for {
		nodes, err := c.asking()
		if err != nil || len(nodes) > 1 {
			t.Fatalf("nodes %q ask, error %v", nodes, err)
		}
		if len(nodes) == 1 {
			if err := c.restarted(nodes[0]); nodes[0] != "web-1" || err != nil {
				t.Fatalf("node %s asks, error %v", nodes[0], err)
			}
			break
		}
		select {
		case output := <-ended:
			t.Fatalf("the command ended without asking, output %q", output)
		case <-time.After(10 * time.Millisecond):
		}
	}
	output := <-ended
	if n, err := c.Started(); n != 1 || err != nil {
		t.Errorf("started %d times, error %v", n, err)
	}
	if code := cmd.ProcessState.ExitCode(); !c.Whole(output, code) || c.Whole(output, 0) || c.Whole(output[1:], code) {
		t.Errorf("code %d, output %q", code, output)
	}
}
