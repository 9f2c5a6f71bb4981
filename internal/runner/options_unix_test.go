//go:build unix

package runner

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestWrapShell checks which shell runs the command.
func TestWrapShell(t *testing.T) {
	mine := filepath.Join(t.TempDir(), "mine")
	if err := os.WriteFile(mine, []byte("#!/bin/sh\necho \"my shell: $*\"\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	eachShell(t, func(t *testing.T, sh nodeShell) {
		t.Parallel()
		for _, test := range []struct {
			name string
			env  []string
			want string
		}{
			{"not set", nil, "it 0"},
			{"empty", []string{"SHELL="}, "it 0"},
			{"false", []string{"SHELL=/bin/false"}, " 1"},
			{"its own", []string{"SHELL=" + mine}, "my shell: -c echo it 3"},
			{"in another's text", []string{"A=a\nSHELL=/bin/false\nB=b"}, "it 0"},
		} {
			job := Spec{Command: "echo it"}
			output, code := newAgent(t, test.env...).run(sh.job(killable(job), runID()))
			if got := fmt.Sprint(strings.TrimSpace(output), " ", code); got != test.want {
				t.Errorf("%s: %q, want %q", test.name, got, test.want)
			}
		}
		// The agent runs a script by its shell, too.
		job := Spec{Script: []byte("echo it")}
		a := newAgent(t, "SHELL="+look("bash"))
		if output, code := a.run(sh.job(killable(job), runID())); look("bash") != "/no/such/bash" && (output != "it\n" || code != 0) {
			t.Errorf("script: %q, %d", output, code)
		}
	})
}
