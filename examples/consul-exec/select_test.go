package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/consulexec/consulexec/exectest"
)

// denyCatalog has Consul refuse to say which nodes there are.
func denyCatalog(srv *exectest.Server) {
	srv.Fault(exectest.Fault{Match: exectest.Path("GET", "/v1/health/"), Do: exectest.Denied})
	srv.Fault(exectest.Fault{Match: exectest.Path("GET", "/v1/catalog/"), Do: exectest.Denied})
}

// TestList checks that -list names the nodes and runs nothing.
func TestList(t *testing.T) {
	t.Parallel()
	srv := newServer(t, answer("web-1", "", 0), answer("web-2", "", 0), answer("db,1", "", 0), exectest.Node("off", exectest.Down()))
	for _, test := range []struct {
		args           string
		stdout, stderr string // stderr is a regexp
		status         int
	}{
		{"", "\"db,1\"\nweb-1\nweb-2\n", "", 0},
		{"true", "\"db,1\"\nweb-1\nweb-2\n", "", 0},
		{"-node=web -format=group -", "web-1\nweb-2\n", "", 0},
		{"-nodes=web-[2-1]", "", "does not end", 1},
		{"-nodes=web-[1-2],z", "web-1\nweb-2\n", "^consulexec: node z: no response: .*catalog has no such agent\n$", 3},
		{"-nodes=off", "", "no matching node", 1},
		{"-node=z", "", "no matching node", 1},
		{"-limit=1 -node=web", "web-1\nweb-2\n", "^-limit: the first 1 of these", 0},
	} {
		stdout, stderr, status := consulExec(t, srv.URL, append([]string{"-list"}, strings.Fields(test.args)...)...)
		if status != test.status || stdout != test.stdout || (stderr != "") != (test.stderr != "") || !regexp.MustCompile(test.stderr).MatchString(stderr) {
			t.Errorf("%s: status %d, stdout %q, stderr %q", test.args, status, stdout, stderr)
		}
	}
	denyCatalog(srv)
	for args, want := range map[string]struct {
		stdout string
		status int
	}{
		"":                       {"", 1},
		"-blind-ok":              {"", 1},
		"-nodes=web-1":           {"web-1\n", 3},
		"-nodes=web-1 -blind-ok": {"web-1\n", 0},
	} {
		stdout, stderr, status := consulExec(t, srv.URL, append([]string{"-list"}, strings.Fields(args)...)...)
		if status != want.status || stdout != want.stdout || !strings.Contains(stderr, "permission denied") {
			t.Errorf("%s, with a token that may not see the nodes: status %d, stdout %q, stderr %q", args, status, stdout, stderr)
		}
	}
	for _, name := range []string{"web-1", "web-2", "db,1"} {
		if n := srv.Executions(name); n > 0 {
			t.Errorf("%s ran %d commands", name, n)
		}
	}
}

// TestListJSON wants one object for the nodes, whatever is known of them.
func TestListJSON(t *testing.T) {
	t.Parallel()
	srv := newServer(t, answer("web-1", "", 0), answer("db,1", "", 0))
	check := func(args string, want int, nodes, problem string) {
		t.Helper()
		stdout, stderr, status := consulExec(t, srv.URL, append([]string{"-list", "-format=json"}, strings.Fields(args)...)...)
		var object jsonTargets
		if err := json.Unmarshal([]byte(stdout), &object); err != nil || strings.Count(stdout, "\n") != 1 {
			t.Fatalf("%s: %v in %q, stderr %q", args, err, stdout, stderr)
		}
		if object.Type != "targets" || time.Since(object.Time) > time.Minute || object.Status != want || status != want || (object.Error != "") != (problem != "") || !strings.Contains(object.Error, problem) {
			t.Errorf("%s: status %d, %+v", args, status, object)
		}
		if !strings.Contains(stdout, `"nodes":`+nodes+"}") {
			t.Errorf("%s: %s, want the nodes %s", args, stdout, nodes)
		}
	}
	check("true", 0, `["db,1","web-1"]`, "")
	check("-nodes=web-1,z", 3, `["web-1"]`, "node z: no response")
	check("-node=z", 1, `[]`, `no matching node is alive (-node="z")`)
	denyCatalog(srv)
	check("", 1, `[]`, "permission denied")
	check("-nodes=web-1 -blind-ok", 0, `["web-1"]`, "permission denied")
}

// TestBlind has a token that may not see the nodes.
func TestBlind(t *testing.T) {
	t.Parallel()
	srv := newServer(t, answer("a", "", 0))
	denyCatalog(srv)
	for args, want := range map[string]int{
		"-format=text":            3,
		"-format=json":            3,
		"-format=group":           3,
		"-nodes=a":                3,
		"-format=text -blind-ok":  0,
		"-format=json -blind-ok":  0,
		"-format=group -blind-ok": 0,
		"-node=z -blind-ok":       1, // nobody has answered
	} {
		stdout, stderr, status := consulExec(t, srv.URL, append(strings.Fields(args), "-wait=100ms", "true")...)
		if status != want || strings.Count(stderr, "nobody knows which nodes can answer: ") != 1 {
			t.Errorf("%s: status %d, want %d, stdout %q, stderr %q", args, status, want, stdout, stderr)
		}
		if strings.Contains(args, "json") {
			if _, summary := decode(t, stdout); summary.Status != want {
				t.Errorf("%s: the summary has the status %d", args, summary.Status)
			}
		}
	}
}

// TestLimit runs on too few nodes, and passes one over.
func TestLimit(t *testing.T) {
	t.Parallel()
	srv := newServer(t, exectest.Node("a", exectest.ExecDisabled()), answer("b", "", 0), answer("c", "", 0))
	if stdout, stderr, status := consulExec(t, srv.URL, "-limit=1", "true"); status != 0 || stderr != "" || !strings.Contains(stdout, "1 / 1 node(s)") {
		t.Errorf("passed over: status %d, stderr %q, stdout %q", status, stderr, stdout)
	}
	if _, stderr, status := consulExec(t, srv.URL, "-limit=3", "-node=b|c", "true"); status != 3 || stderr != "2 node(s) took the job, fewer than -limit\n" {
		t.Errorf("too few: status %d, stderr %q", status, stderr)
	}
}

// TestFailedFile checks the names that have to be done again, and that they can
// be read back.
func TestFailedFile(t *testing.T) {
	t.Parallel()
	srv := newServer(t,
		answer("bad", "", 1), answer("db,1", "", 2), answer("good", "", 0),
		exectest.Node("lost", exectest.Run(dies)), exectest.Node("off", exectest.ExecDisabled()),
	)
	dir := t.TempDir()
	file := filepath.Join(dir, "failed")
	check := func(what, want string, wantStatus int, args ...string) {
		t.Helper()
		_, stderr, status := consulExec(t, srv.URL, append(args, "-wait=1s", "-failed-file="+file, "true")...)
		got, err := os.ReadFile(file)
		if status != wantStatus || err != nil || string(got) != want {
			t.Errorf("%s: status %d, the file has %q, error %v, stderr %q", what, status, got, err, stderr)
		}
	}
	const all = "bad\n\"db,1\"\nlost\noff\n"
	check("all kinds", all, 3)
	check("read back", all, 3, "-nodes-file="+file)
	check("no node", all, 1, "-node=z")
	check("skipped", "bad\n\"db,1\"\n", 2, "-concurrency=1", "-max-failures=1", "-node=bad|db")
	check("well", "", 0, "-node=good")
	check("absent", "z\n", 3, "-nodes=good,z")
	check("left out", "bad\n", 0, "-nodes=bad,good", "-filter=Node != bad")
	check("not needed", "bad\ngood\n", 2, "-nodes=bad,good", "-limit=1", "-concurrency=1")
	denyCatalog(srv)
	check("nobody knows", "bad\ngood\n", 3, "-node=good")
	check("nobody knows, but the nodes have names", "", 3, "-nodes=good")
	check("nobody knows, and that is fine", "", 0, "-node=good", "-blind-ok")

	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("files left behind: %v, error %v", entries, err)
	}
	os.Remove(file)
	if err := os.Mkdir(file, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := writeFailedFile(file, []string{"a"}); err == nil {
		t.Error("a directory was replaced")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("files left behind after an error: %v, error %v", entries, err)
	}
}

// TestFullOutput writes to a full disk. The last write fails, and the program
// says so.
func TestFullOutput(t *testing.T) {
	t.Parallel()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("this system has no /dev/full")
	}
	defer full.Close()
	srv := newServer(t, answer("a", "up\n", 0))
	for _, format := range []string{"text", "group", "json"} {
		cmd := command(t, srv.URL, "-format="+format, "true")
		var stderr strings.Builder
		cmd.Stdout, cmd.Stderr = full, &stderr
		if err := cmd.Run(); cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 1 || !strings.Contains(stderr.String(), "no space left") {
			t.Errorf("%s: %v, stderr %q", format, err, stderr.String())
		}
	}
}
