//go:build unix

package main

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// TestSignals ends a roll-out when its first batch has the command: by a signal, and by an
// output that nobody reads any more. Under nohup, SIGHUP does not end it.
func TestSignals(t *testing.T) {
	program := build(t)
	for _, test := range []struct {
		name   string
		script string // of the shell that starts the program
		signal syscall.Signal
		cause  string
	}{
		{"interrupt", `exec "$@"`, syscall.SIGINT, "interrupt"},
		{"terminate", `exec "$@"`, syscall.SIGTERM, "terminated"},
		{"hang up", `exec "$@"`, syscall.SIGHUP, "hangup"},
		{"nohup", `trap "" HUP; exec "$@"`, syscall.SIGHUP, ""},
		{"closed pipe", `exec "$@"`, 0, "broken pipe"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), "sh", "-c", test.script, "sh", program, "-demo", "-percent=50", "-settle=100ms")
			var stderr strings.Builder
			cmd.Stderr = &stderr
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(stdout)
			for lines.Scan() && !strings.HasPrefix(lines.Text(), "  web-") {
			}
			if test.signal == 0 {
				stdout.(*os.File).Close()
			} else {
				cmd.Process.Signal(test.signal)
				io.Copy(io.Discard, stdout)
			}
			err = cmd.Wait()
			const untouched = "\nnot touched: web-11 web-12 web-13 web-14 web-15 web-16 web-17 web-18 web-19 web-20\n"
			if test.cause == "" {
				if err != nil {
					t.Errorf("error %v, stderr %s", err, &stderr)
				}
				return
			}
			if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(stderr.String(), test.cause) || !strings.HasSuffix(stderr.String(), untouched) {
				t.Errorf("error %v, stderr %s", err, &stderr)
			}
		})
	}
}
