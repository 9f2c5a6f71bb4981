package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/consulexec/consulexec/exectest"
)

// TestCommandFlags runs real commands with what the flags give them.
func TestCommandFlags(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("exectest runs commands with /bin/sh")
	}
	dir := t.TempDir()
	env, input := filepath.Join(dir, "env"), filepath.Join(dir, "input")
	for name, text := range map[string]string{
		env:   "\ufeff# secrets\r\n\r\nA=from file\r\nB=x=#y \nC=\n",
		input: "in\nput",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	srv := newServer(t, exectest.Node("a"))
	for _, test := range []struct {
		args           []string
		stdin          string
		stdout, stderr string
	}{
		{args: []string{"-env", "A=given", "-env-file=" + env, "-env=C=c", `echo "$A|$B|$C"`}, stdout: "from file|x=#y |c\n"},
		{args: []string{"-env-file=-", "-env=A=given", `echo "$A|$B"`}, stdin: "A=a\nB=b", stdout: "given|b\n"},
		{args: []string{"-dir=" + dir, "cat input"}, stdout: "in\nput"},
		{args: []string{"-stdin-file=" + input, "cat"}, stdout: "in\nput"},
		{args: []string{"-stdin-file=-", "cat"}, stdin: "from here\n", stdout: "from here\n"},
		{args: []string{"-shell-path=/bin/sh", "-env=SHELL=/bin/false", "echo $0"}, stdout: "/bin/sh\n"},
		{args: []string{"-max-output=3", "printf abcd"}, stdout: "abc\n    ... and what -max-output cut off\n"},
		{args: []string{"-max-output=4", "printf abcd"}, stdout: "abcd"},
		{args: []string{"-max-output=3", "-format=text", "printf abcd"}, stderr: "==> a: finished with exit code 0; -max-output cut its output\n"},
	} {
		cmd := command(t, srv.URL, append([]string{"-format=group"}, test.args...)...)
		cmd.Stdin = strings.NewReader(test.stdin)
		stdout, stderr, status := finish(t, cmd)
		want := strings.ReplaceAll("==> a (1): finished with exit code 0\n"+strings.TrimSuffix(test.stdout, "\n"), "\n", "\n    ")
		want = strings.ReplaceAll(want, "        ...", "    ...") + "\n1 / 1 node(s) completed / acknowledged\n"
		if test.stderr == "" && stdout != want || status != 0 || stderr != test.stderr {
			t.Errorf("%q: status %d, stdout %q, want %q, stderr %q", test.args, status, stdout, want, stderr)
		}
	}
}
