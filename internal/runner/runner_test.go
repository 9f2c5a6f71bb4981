package runner

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestWrapTimeout(t *testing.T) {
	for timeout, want := range map[time.Duration]string{
		0: "", 1: "1", time.Second: "1", time.Second + 1: "2", 90 * time.Minute: "5400", 1<<63 - 1: "2147483647",
	} {
		if got := Wrap(Job{Command: "x"}, "id", timeout).Args[5]; got != want {
			t.Errorf("%v: %q, want %q", timeout, got, want)
		}
	}
}

// TestWrapJob looks at what the agents see of the job.
func TestWrapJob(t *testing.T) {
	for name, job := range map[string]Job{
		"command": {Command: "uptime"},
		"args":    {Args: []string{"uptime", "-p"}},
		"script":  {Script: []byte("\x00\xff")},
	} {
		wrapped := Wrap(job, "id", 0)
		if wrapped.Command != "" || (wrapped.Script == nil) == (wrapped.Args == nil) || (wrapped.Script == nil) == (job.Script != nil) {
			t.Errorf("%s: %+v", name, wrapped)
		}
		if job.Script != nil && !strings.HasSuffix(string(wrapped.Script), "\n"+string(job.Script)) {
			t.Errorf("the script is not in %q", wrapped.Script)
		}
		if more := size(t, wrapped) - size(t, job); more > 8<<10 {
			t.Errorf("%s: %d bytes more", name, more)
		} else {
			t.Logf("%s: %d bytes more", name, more)
		}
	}
}

func size(t *testing.T, job Job) int {
	t.Helper()
	document, err := json.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	return len(document)
}

// TestWithoutComments checks that the programs lose their comments and nothing
// else.
func TestWithoutComments(t *testing.T) {
	for name, source := range map[string]string{"wrapper": wrapperSource, "watcher": watcherSource, "killer": killerSource} {
		text := withoutComments(source)
		if len(text) == len(source) {
			t.Errorf("%s lost no comment", name)
		}
		rest := strings.Split(text, "\n")
		for line := range strings.SplitSeq(source, "\n") {
			if strings.HasPrefix(strings.TrimSpace(line), "#") || line == "" {
				continue
			}
			if rest[0] != line {
				t.Fatalf("%s has the line %q instead of %q", name, rest[0], line)
			}
			rest = rest[1:]
		}
	}
}

func TestShellcheck(t *testing.T) {
	path, err := exec.LookPath("shellcheck")
	if err != nil {
		t.Skip("shellcheck is not installed")
	}
	out, err := exec.CommandContext(t.Context(), path, "--shell=sh", "wrapper.sh", "watcher.sh", "killer.sh").CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
