package runner

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestTimeoutInSeconds(t *testing.T) {
	for timeout, want := range map[time.Duration]string{
		0: "", 1: "1", time.Second: "1", time.Second + 1: "2", 90 * time.Minute: "5400", 1<<63 - 1: "2147483647",
	} {
		if got := seconds(timeout); got != want {
			t.Errorf("%v: %q, want %q", timeout, got, want)
		}
	}
}

func TestPassedOn(t *testing.T) {
	for limit, want := range map[int64]string{NoLimit: "", 0: "1", 4096: "4097", maxCounted: "2147483647", maxCounted + 1: ""} {
		if got := (&Spec{MaxOutput: limit}).passed(); got != want {
			t.Errorf("%d: %q, want %q", limit, got, want)
		}
	}
}

// TestJob looks at what the agents see of the job.
func TestJob(t *testing.T) {
	for _, test := range []struct {
		name         string
		spec         Spec
		plain        []string // the arguments without the runner, if it is not needed
		data, secret string
	}{
		{"command", Spec{Command: "uptime"}, nil, "", ""},
		{"args", Spec{Args: []string{"uptime", "-p"}}, []string{"uptime", "-p"}, "", ""},
		{"shell", Spec{Command: "uptime", Shell: "/bin/bash"}, []string{"/bin/bash", "-c", "uptime"}, "", ""},
		{"timeout", Spec{Command: "uptime", Timeout: time.Second}, nil, "", ""},
		{"script", Spec{Script: []byte("\x00\xff")}, nil, "consulexec-id\n\x00\xff", "\xff"},
		{"input", Spec{Command: "cat", Stdin: []byte("secret")}, nil, "consulexec-id\nsecret", "secret"},
		{"environment", Spec{Command: "env", Env: map[string]string{"B": "it's", "A": "secret"}}, nil, "consulexec-id\nunset A\nexport A='secret'\nunset B\nexport B='it'\\''s'\n", "secret"},
	} {
		test.spec.MaxOutput = NoLimit
		job := test.spec.Job("id")
		if !test.spec.NeedsRunner() {
			if !slices.Equal(job.Args, test.plain) || job.Script != nil || (job.Command == "") == (test.plain == nil) {
				t.Errorf("%s: %+v", test.name, job)
			}
			continue
		}
		if job.Command != "" || job.Args[0] != "/bin/sh" || string(job.Script) != test.data {
			t.Errorf("%s: command %q, args %.20q, data %q", test.name, job.Command, job.Args, job.Script)
		}
		if test.secret != "" && strings.Contains(strings.Join(job.Args, "\n"), test.secret) {
			t.Errorf("%s: %q is in the arguments", test.name, test.secret)
		}
		document, err := json.Marshal(job)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d bytes", test.name, len(document))
		if len(document) > 15<<10 {
			t.Errorf("%s: %d bytes", test.name, len(document))
		}
	}
}

func TestInterpreter(t *testing.T) {
	for script, want := range map[string][2]string{
		"":                           {},
		"echo":                       {},
		" #!/bin/sh":                 {},
		"#!/bin/sh":                  {"/bin/sh"},
		"#!/bin/sh\n#!/bin/false":    {"/bin/sh"},
		"#! \t/bin/sh \t\n":          {"/bin/sh"},
		"#!/bin/sh -e -u\n":          {"/bin/sh", "-e -u"},
		"#!/usr/bin/env \t python3 ": {"/usr/bin/env", "python3"},
		"#!/bin/sh\r\n":              {"/bin/sh\r"},
		"#!/bin/sh\x00x":             {"/bin/sh"},
		"#!sh":                       {"./sh"},
		"#!\n/bin/sh":                {},
	} {
		interpreter, word, err := Interpreter([]byte(script))
		if err != nil || interpreter != want[0] || word != want[1] {
			t.Errorf("%q: %q, %q, error %v, want %q", script, interpreter, word, err, want)
		}
	}
	if _, _, err := Interpreter([]byte("#!/bin/s\xffh\n")); err == nil {
		t.Error("no error for a line that is not UTF-8")
	}
}

// TestWithoutComments checks that the programs lose their comments and nothing
// else.
func TestWithoutComments(t *testing.T) {
	for _, source := range []string{guardSource, keepSource, startSource, watchSource, leaderSource, outputSource, endSource, askSource} {
		text := withoutComments(source)
		if len(text) == len(source) {
			t.Errorf("%.40q lost no comment", source)
		}
		rest := strings.Split(text, "\n")
		for line := range strings.SplitSeq(source, "\n") {
			if strings.HasPrefix(strings.TrimSpace(line), "#") || line == "" {
				continue
			}
			if rest[0] != line {
				t.Fatalf("the line %q instead of %q", rest[0], line)
			}
			rest = rest[1:]
		}
	}
}

// TestShellcheck checks the programs as nodes run them. What it is told to leave
// out: a variable of Go's, lists of processes, "a && b || c", and variables that
// change in a subshell only.
func TestShellcheck(t *testing.T) {
	path, err := exec.LookPath("shellcheck")
	if err != nil {
		t.Skip("shellcheck is not installed")
	}
	dir := t.TempDir()
	for name, source := range map[string]string{"start": guardSource + keepSource + watchSource + startSource, "end": guardSource + endSource, "ask": guardSource + keepSource + askSource, "leader": leaderSource, "output": outputSource} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(source), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), path, "--shell=sh", "--exclude=SC2154,SC2012,SC2013,SC2015,SC2030,SC2031", file).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}
