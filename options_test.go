package consulexec

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec/exectest"
	"github.com/consulexec/consulexec/internal/consul"
	"github.com/consulexec/consulexec/internal/runner"
)

// testConfig returns the config of a command with options.
func testConfig(t testing.TB, options ...Option) *config {
	t.Helper()
	c, errs := newConfig("x", options)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	return c
}

func TestNewRefuses(t *testing.T) {
	client, err := api.NewClient(&api.Config{Address: "127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		command string
		options []Option
		want    []string // in the error's text
	}{
		{"", nil, []string{"no command"}},
		{" \n", nil, []string{"command is blank", "no command"}},
		{"a\x00b", nil, []string{"command: has a NUL byte"}},
		{"echo \xff", nil, []string{"command: is not valid UTF-8", "WithScript"}},
		{strings.Repeat("x", 131072), nil, []string{"command: has 131072 bytes", "WithScript"}},
		{"", []Option{WithScript(nil)}, []string{`WithScript("")`, "empty"}},
		{"", []Option{WithArgs()}, []string{"WithArgs: has no program"}},
		{"", []Option{WithArgs("", "x")}, []string{"WithArgs: has no program"}},
		{"", []Option{WithArgs("ls", "\xff")}, []string{"WithArgs: argument 2: is not valid UTF-8", "WithScript"}},
		{"", []Option{WithArgs("ls", "", "a\x00b")}, []string{"WithArgs: argument 3: has a NUL byte"}},
		{"", []Option{WithArgs("ls", strings.Repeat("x", 131072))}, []string{"WithArgs: argument 2: has 131072 bytes", "WithScript"}},
		{"", []Option{WithScript([]byte("ls")), WithArgs("\xff")}, []string{"WithArgs: argument 1: is not valid UTF-8"}},
		{"x", []Option{WithArgs("ls")}, []string{"command and WithArgs"}},
		{"x", []Option{WithArgs()}, []string{"command and WithArgs"}},
		{"", []Option{WithScript([]byte("#!/bin/\xff\nls"))}, []string{"WithScript", "#! line is not valid UTF-8"}},
		{"", []Option{WithScript([]byte("#!/bin/sh -" + strings.Repeat("x", 131071)))}, []string{"WithScript", "131072 bytes"}},
		{"x", []Option{WithScript([]byte("ls"))}, []string{"command and WithScript"}},
		{"x", []Option{WithScript([]byte("ls")), WithArgs("a")}, []string{"command and WithScript"}},
		{"x", []Option{WithShell("")}, []string{`WithShell("")`, "empty"}},
		{"x", []Option{WithShell("/bin/\xff")}, []string{`WithShell("/bin/\xff")`, "UTF-8"}},
		{"x", []Option{WithShell("/bin/\x00")}, []string{`WithShell("/bin/\x00")`, "NUL"}},
		{"x", []Option{WithShell(strings.Repeat("x", 131072))}, []string{"WithShell: has 131072 bytes"}},
		{"", []Option{WithShell("/bin/sh"), WithArgs("ls")}, []string{`WithShell("/bin/sh") and WithArgs`, "no shell"}},
		{"x", []Option{WithEnv(map[string]string{"": "x"})}, []string{`WithEnv: variable ""`, "not a name"}},
		{"x", []Option{WithEnv(map[string]string{"1A": "x"})}, []string{`WithEnv: variable "1A"`, "not a name"}},
		{"x", []Option{WithEnv(map[string]string{"A-B": "x"})}, []string{`WithEnv: variable "A-B"`, "not a name"}},
		{"x", []Option{WithEnv(map[string]string{"Ä": "x"})}, []string{`WithEnv: variable "Ä"`, "not a name"}},
		{"x", []Option{WithEnv(map[string]string{"A\n": "x"})}, []string{`WithEnv: variable "A\n"`, "not a name"}},
		{"x", []Option{WithEnv(map[string]string{"A": "\x00"})}, []string{"WithEnv: variable A: its value has a NUL byte"}},
		{"x", []Option{WithEnv(map[string]string{"A": "\xff"})}, []string{"WithEnv: variable A: its value is not valid UTF-8"}},
		{"x", []Option{WithEnv(map[string]string{"A": strings.Repeat("x", 131070)})}, []string{"WithEnv: variable A: has 131072 bytes"}},
		{"x", []Option{WithDir("")}, []string{`WithDir("")`, "empty"}},
		{"x", []Option{WithDir("tmp")}, []string{`WithDir("tmp")`, `begin with "/"`}},
		{"x", []Option{WithDir("/\xff")}, []string{`WithDir("/\xff")`, "UTF-8"}},
		{"x", []Option{WithDir("/\x00")}, []string{`WithDir("/\x00")`, "NUL"}},
		{"x", []Option{WithDir("/" + strings.Repeat("x", 131071))}, []string{"WithDir: has 131072 bytes"}},
		{"x", []Option{WithMaxOutput(-1)}, []string{"WithMaxOutput(-1)", "negative"}},
		{"x", []Option{nil}, []string{"Option 1: is nil"}},
		{"x", []Option{WithNode("(")}, []string{`WithNode("(")`, "missing closing"}},
		{"x", []Option{WithService("[")}, []string{`WithService("[")`}},
		{"x", []Option{WithService("a"), WithTag("*")}, []string{`WithTag("*")`}},
		{"x", []Option{WithTag("v1")}, []string{`WithTag("v1")`, "WithService"}},
		{"x", []Option{WithService(""), WithTag("v1")}, []string{`WithTag("v1")`, "WithService"}},
		{"x", []Option{WithFilter("((((((( Node == 1 )))))))")}, []string{`WithFilter("(((`, "more than 6 deep"}},
		{"x", []Option{WithNodes()}, []string{"WithNodes()", "no name"}},
		{"x", []Option{WithNodes("a", "")}, []string{`WithNodes(["a" ""])`, "empty"}},
		{"x", []Option{WithNodes("a\xff")}, []string{`"a\xff"`, "UTF-8"}},
		{"x", []Option{WithNodes("a", strings.Repeat("b", 400))}, []string{"WithNodes(2 names)", "bbb", "116 bytes too long", "512"}},
		{"x", []Option{WithNode(strings.Repeat("a", 400))}, []string{"WithNode(\"aaa", "73 bytes too long", "512"}},
		{"x", []Option{WithNode(strings.Repeat("a", 200)), WithService(strings.Repeat("b", 200))}, []string{"WithNode(\"aaa", "WithService(\"bbb", "too long"}},
		{"x", []Option{WithNode("a"), WithService(strings.Repeat("b", 200)), WithTag(strings.Repeat("c", 200))}, []string{"WithTag(\"ccc", "too long"}},
		{"x", []Option{WithPrefix(strings.Repeat("p", 190)), WithNode(strings.Repeat("a", 210))}, []string{"WithPrefix(\"ppp", "WithNode(\"aaa", "too long"}},
		{"x", []Option{WithConcurrency(2), WithService(strings.Repeat("b", 400))}, []string{"WithService(\"bbb", "too long"}},
		{"x", []Option{WithConcurrency(0)}, []string{"WithConcurrency(0)"}},
		{"x", []Option{WithConcurrencyPercent(0)}, []string{"WithConcurrencyPercent(0)"}},
		{"x", []Option{WithConcurrencyPercent(101)}, []string{"WithConcurrencyPercent(101)"}},
		{"x", []Option{WithConcurrency(2), WithConcurrencyPercent(10)}, []string{"WithConcurrency(2) and WithConcurrencyPercent(10)"}},
		{"x", []Option{WithConcurrency(2), WithoutDiscovery()}, []string{"WithConcurrency(2)", "WithNodes"}},
		{"x", []Option{WithMaxFailures(2), WithoutDiscovery()}, []string{"WithMaxFailures(2)", "WithNodes"}},
		{"x", []Option{WithMaxFailures(0)}, []string{"WithMaxFailures(0)"}},
		{"x", []Option{WithTimeout(0)}, []string{"WithTimeout(0s)"}},
		{"x", []Option{WithMinNodes(-1)}, []string{"WithMinNodes(-1)"}},
		{"x", []Option{WithWait(99 * time.Millisecond)}, []string{"WithWait(99ms)", "100ms"}},
		{"x", []Option{WithWait(0)}, []string{"WithWait(0s)"}},
		{"x", []Option{WithAckTimeout(0)}, []string{"WithAckTimeout(0s)"}},
		{"x", []Option{WithLostTimeout(-time.Second)}, []string{"WithLostTimeout(-1s)"}},
		{"x", []Option{WithLostTimeout(2 * time.Second)}, []string{"WithLostTimeout(2s)", "wait of 2s"}},
		{"x", []Option{WithReplicationWait(-1)}, []string{"WithReplicationWait(-1ns)"}},
		{"x", []Option{WithPrefix("")}, []string{`WithPrefix("")`, "empty"}},
		{"x", []Option{WithLimit(0)}, []string{"WithLimit(0)", "not positive"}},
		{"x", []Option{WithLimit(2), WithMinNodes(3)}, []string{"WithMinNodes(3)", "WithLimit(2)"}},
		{"x", []Option{WithLimit(2), WithoutDiscovery()}, []string{"WithLimit(2)", "WithNodes"}},
		{"x", []Option{WithPrefix("a/../../b")}, []string{`WithPrefix("a/../../b")`}},
		{"x", []Option{WithDatacenter("")}, []string{`WithDatacenter("")`}},
		{"x", []Option{WithFilter("")}, []string{`WithFilter("")`, "empty"}},
		{"x", []Option{WithFilter(" \n")}, []string{`WithFilter(" \n")`, "empty"}},
		{"x", []Option{WithFilter(`Node == "a"`), WithoutDiscovery()}, []string{`WithFilter("Node == \"a\"")`, "WithoutDiscovery"}},
		{"x", []Option{WithFilter(`Node == "a"`), WithNodes("a"), WithoutDiscovery()}, []string{"WithFilter", "WithoutDiscovery"}},
		{"x", []Option{WithHealthyService("")}, []string{`WithHealthyService("")`, "empty"}},
		{"x", []Option{WithHealthyService("../agent/self")}, []string{`WithHealthyService("../agent/self")`, "clean path"}},
		{"x", []Option{WithHealthyService("a\u00a0b")}, []string{`WithHealthyService("a\u00a0b")`, "printed"}},
		{"x", []Option{WithHealthyService("a//b")}, []string{`WithHealthyService("a//b")`, "clean path"}},
		{"x", []Option{WithHealthyService("web"), WithoutDiscovery()}, []string{`WithHealthyService("web")`, "WithoutDiscovery"}},
		{"x", []Option{WithFilter(`Node == "a"`), WithPrefix(strings.Repeat("p", 190)), WithService(strings.Repeat("a", 210))}, []string{"WithService(\"aaa", "too long"}},
		{"x", []Option{WithToken("")}, []string{`WithToken("")`, "empty"}},
		{"x", []Option{WithToken("sesame\n")}, []string{"WithToken: has a character"}},
		{"x", []Option{WithToken("sesäme")}, []string{"WithToken: has a character"}},
		{"x", []Option{WithConfig(nil)}, []string{"WithConfig(nil)"}},
		{"x", []Option{WithConfig(&api.Config{Address: "gopher://x"})}, []string{"gopher"}},
		{"x", []Option{WithClient(nil)}, []string{"WithClient(nil)"}},
		{"x", []Option{WithClient(client), WithConfig(&api.Config{})}, []string{"WithClient and WithConfig"}},
		{"x", []Option{WithCapture(-1)}, []string{"WithCapture(-1)"}},
		{"x", []Option{WithLogger(nil)}, []string{"WithLogger(nil)"}},
		{"x", []Option{OnTargets(nil)}, []string{"OnTargets(nil)"}},
		{"x", []Option{OnSubmit(nil)}, []string{"OnSubmit(nil)"}},
		{"x", []Option{OnAck(nil)}, []string{"OnAck(nil)"}},
		{"x", []Option{OnOutput(nil)}, []string{"OnOutput(nil)"}},
		{"x", []Option{OnHeartbeat(nil)}, []string{"OnHeartbeat(nil)"}},
		{"x", []Option{OnExit(nil)}, []string{"OnExit(nil)"}},
		{"x", []Option{OnLost(nil)}, []string{"OnLost(nil)"}},
		{"x", []Option{OnNoResponse(nil)}, []string{"OnNoResponse(nil)"}},
		{"x", []Option{OnDone(nil)}, []string{"OnDone(nil)"}},
		{"x", []Option{OnError(nil)}, []string{"OnError(nil)"}},
		// All at once.
		{"", []Option{WithMinNodes(-2), WithCapture(-3), nil}, []string{"WithMinNodes(-2)", "WithCapture(-3)", "Option 3", "no command"}},
	}
	for _, test := range tests {
		e, err := New(test.command, test.options...)
		if err == nil || e != nil {
			t.Errorf("New(%q) with %v: %v, error %v", test.command, test.want, e, err)
			continue
		}
		for _, line := range strings.Split(err.Error(), "\n") {
			if !strings.HasPrefix(line, "consulexec: ") || strings.Count(line, "consulexec: ") != 1 {
				t.Errorf("error %q does not begin with the package's name, once", line)
			}
		}
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("New(%q): error %q does not have %q", test.command, err, want)
			}
		}
	}
	for _, command := range []string{"", " "} {
		if _, err := New(command); !errors.Is(err, ErrNoCommand) || errors.Is(err, ErrBadOption) {
			t.Errorf("New(%q): %v is not ErrNoCommand alone", command, err)
		}
	}
}

// TestNewKeepsSecrets checks that no error has text that may be secret.
func TestNewKeepsSecrets(t *testing.T) {
	const secret = "S3cret"
	long := strings.Repeat(secret, 131072/len(secret)+1)
	for _, test := range []struct {
		name    string
		command string
		options []Option
	}{
		{"command", secret + "\x00", nil},
		{"command", secret + "\xff", nil},
		{"command", long, nil},
		{"command and WithArgs", secret, []Option{WithArgs(secret)}},
		{"command and WithScript", secret, []Option{WithScript([]byte(secret))}},
		{"WithArgs", "", []Option{WithArgs("", secret)}},
		{"WithArgs", "", []Option{WithArgs("x", secret, secret+"\x00")}},
		{"WithArgs", "", []Option{WithArgs("x", secret, "\xff"+secret)}},
		{"WithArgs", "", []Option{WithArgs("x", long)}},
		{"WithShell", "", []Option{WithShell("/bin/sh"), WithArgs("x", secret)}},
		{"WithEnv", "x", []Option{WithEnv(map[string]string{"A": secret + "\x00"})}},
		{"WithEnv", "x", []Option{WithEnv(map[string]string{"A": secret + "\xff"})}},
		{"WithEnv", "x", []Option{WithEnv(map[string]string{"A": long})}},
		{"WithEnv", "x", []Option{WithEnv(map[string]string{"A-B": secret})}},
		{"WithEnv", "x", []Option{WithEnv(map[string]string{"A=" + secret: ""})}},
		{"WithToken", "x", []Option{WithToken(secret + "\x00")}},
	} {
		_, err := New(test.command, test.options...)
		if err == nil {
			t.Errorf("New takes a bad %s", test.name)
		} else if text := err.Error(); !strings.Contains(text, test.name) || strings.Contains(text, secret) {
			t.Errorf("error %.200q repeats a secret or does not name %s", text, test.name)
		}
	}
}

// TestOptionError checks that an error names its option and value for
// programs, too, but no value that may be secret.
func TestOptionError(t *testing.T) {
	for _, test := range []struct {
		command string
		options []Option
		want    string
		value   string
	}{
		{"a\x00b", nil, "command", ""},
		{"x", []Option{WithArgs("ls")}, "command", ""},
		{"x", []Option{WithScript([]byte("ls")), WithArgs("a")}, "command", ""},
		{"", []Option{WithScript(nil)}, "WithScript", ""},
		{"", []Option{WithScript(nil), WithArgs("")}, "WithScript", ""},
		{"", []Option{WithArgs()}, "WithArgs", ""},
		{"", []Option{WithArgs("ls", "\x00")}, "WithArgs", ""},
		{"", []Option{WithArgs("ls"), WithShell("/bin/sh")}, "WithShell", "/bin/sh"},
		{"x", []Option{WithEnv(map[string]string{"1": "x"})}, "WithEnv", ""},
		{"x", []Option{WithDir("tmp")}, "WithDir", "tmp"},
		{"x", []Option{WithMaxOutput(-1)}, "WithMaxOutput", "-1"},
		{"x", []Option{WithNode("(")}, "WithNode", "("},
		{"x", []Option{WithTag("v1")}, "WithTag", "v1"},
		{"x", []Option{WithNodes("a", strings.Repeat("b", 400))}, "WithNodes", strings.Repeat("b", 400)},
		{"x", []Option{WithService("web"), WithNode(strings.Repeat("a", 400))}, "WithNode", strings.Repeat("a", 400)},
		{"x", []Option{WithPrefix(strings.Repeat("p", 197)), WithService(strings.Repeat("b", 400))}, "WithService", strings.Repeat("b", 400)},
		{"x", []Option{WithConcurrency(2), WithConcurrencyPercent(10)}, "WithConcurrency", "2"},
		{"x", []Option{WithMaxFailures(2), WithoutDiscovery()}, "WithMaxFailures", "2"},
		{"x", []Option{WithWait(time.Hour), WithLostTimeout(time.Minute)}, "WithLostTimeout", "1m0s"},
		{"x", []Option{WithConfig(&api.Config{Address: "gopher://x"})}, "WithConfig", ""},
		{"x", []Option{WithLogger(nil)}, "WithLogger", ""},
		{"x", []Option{WithNodes("a", "b\xff")}, "WithNodes", "b\xff"},
		{"x", []Option{WithNodes("a", "")}, "WithNodes", `["a" ""]`},
		{"x", []Option{WithWait(time.Millisecond)}, "WithWait", "1ms"},
		{"x", []Option{WithLimit(2), WithMinNodes(3)}, "WithMinNodes", "3"},
		{"x", []Option{nil}, "Option", "1"},
		{"x", []Option{OnExit(nil)}, "OnExit", ""},
	} {
		_, err := New(test.command, test.options...)
		var bad *OptionError
		if !errors.Is(err, ErrBadOption) || errors.Is(err, ErrNoCommand) || !errors.As(err, &bad) || bad.Option != test.want || bad.Value != test.value || bad.Err == nil {
			t.Errorf("error %v has the option %+v, want %s and value %q", err, bad, test.want, test.value)
		}
	}
}

// TestOptionErrorText checks the text of an error that a program has made.
func TestOptionErrorText(t *testing.T) {
	err := &OptionError{Option: "WithWait", Value: "1ms", Err: errors.New("is short")}
	if got, want := err.Error(), "WithWait(1ms): is short"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestJob checks what the options make of the job.
func TestJob(t *testing.T) {
	script := []byte("ls")
	plain := runner.Spec{MaxOutput: runner.NoLimit}
	for _, test := range []struct {
		name    string
		command string
		options []Option
		want    func(s *runner.Spec) // sets what differs from plain
	}{
		{"command", "x", nil, func(s *runner.Spec) { s.Command = "x" }},
		{"long command", strings.Repeat("x", 131071), nil, func(s *runner.Spec) { s.Command = strings.Repeat("x", 131071) }},
		{"arguments", "", []Option{WithArgs("ls", "", "ü", strings.Repeat("x", 131071))}, func(s *runner.Spec) {
			s.Args = []string{"ls", "", "ü", strings.Repeat("x", 131071)}
		}},
		{"script", "", []Option{WithScript([]byte("\x00\xff"))}, func(s *runner.Spec) { s.Script = []byte("\x00\xff") }},
		{"script and arguments", "", []Option{WithScript(script), WithArgs("", "a")}, func(s *runner.Spec) {
			s.Script, s.Args = script, []string{"", "a"}
		}},
		{"arguments and script", "", []Option{WithArgs("", "a"), WithScript(script)}, func(s *runner.Spec) {
			s.Script, s.Args = script, []string{"", "a"}
		}},
		{"script and no arguments", "", []Option{WithScript(script), WithArgs()}, func(s *runner.Spec) {
			s.Script, s.Args = script, []string{}
		}},
		{"shell", "x", []Option{WithShell("powershell")}, func(s *runner.Spec) { s.Command, s.Shell = "x", "powershell" }},
		{"shell of a script", "", []Option{WithArgs("a"), WithShell("/bin/bash"), WithScript(script)}, func(s *runner.Spec) {
			s.Script, s.Args, s.Shell = script, []string{"a"}, "/bin/bash"
		}},
		{"environment", "x", []Option{WithEnv(map[string]string{"_a1": "", "B": "ü\n=", "C": strings.Repeat("x", 131069)})}, func(s *runner.Spec) {
			s.Command, s.Env = "x", map[string]string{"_a1": "", "B": "ü\n=", "C": strings.Repeat("x", 131069)}
		}},
		{"the later environment", "x", []Option{WithEnv(map[string]string{"A": "1"}), WithEnv(map[string]string{"B": "2"})}, func(s *runner.Spec) {
			s.Command, s.Env = "x", map[string]string{"B": "2"}
		}},
		{"no environment", "x", []Option{WithEnv(map[string]string{"A": "1"}), WithEnv(nil)}, func(s *runner.Spec) { s.Command = "x" }},
		{"directory", "x", []Option{WithDir("/a b")}, func(s *runner.Spec) { s.Command, s.Dir = "x", "/a b" }},
		{"input", "x", []Option{WithStdin([]byte("\x00\xff"))}, func(s *runner.Spec) { s.Command, s.Stdin = "x", []byte("\x00\xff") }},
		{"empty input", "x", []Option{WithStdin([]byte("y")), WithStdin([]byte{})}, func(s *runner.Spec) { s.Command = "x" }},
		{"nil input", "x", []Option{WithStdin(nil)}, func(s *runner.Spec) { s.Command = "x" }},
		{"no output", "x", []Option{WithMaxOutput(0)}, func(s *runner.Spec) { s.Command, s.MaxOutput = "x", 0 }},
		{"all", "x", []Option{WithShell("bash"), WithEnv(map[string]string{"A": "1"}), WithDir("/"), WithStdin([]byte("y")), WithMaxOutput(1 << 40)}, func(s *runner.Spec) {
			s.Command, s.Shell, s.Env, s.Dir, s.Stdin, s.MaxOutput = "x", "bash", map[string]string{"A": "1"}, "/", []byte("y"), 1<<40
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := plain
			test.want(&want)
			c, errs := newConfig(test.command, test.options)
			if len(errs) > 0 || !reflect.DeepEqual(c.job, want) {
				t.Errorf("errors %v, job %.300q, want %.300q", errs, fmt.Sprintf("%+v", c.job), fmt.Sprintf("%+v", want))
			}
		})
	}
}

// TestOptionsClone checks that the caller may change what it gave to options.
func TestOptionsClone(t *testing.T) {
	text, args, env := []byte("abc"), []string{"abc"}, map[string]string{"A": "1"}
	c, errs := newConfig("", []Option{WithScript(text), WithArgs(args...), WithStdin(text), WithEnv(env)})
	text[0], args[0], env["A"] = 'X', "X", "2"
	if len(errs) > 0 || string(c.job.Script) != "abc" || c.job.Args[0] != "abc" || string(c.job.Stdin) != "abc" || c.job.Env["A"] != "1" {
		t.Errorf("errors %v; the job has changed: %+v", errs, c.job)
	}
}

// TestEmptyOptionsNeedNoRunner checks that options that ask for nothing work on
// every agent.
func TestEmptyOptionsNeedNoRunner(t *testing.T) {
	c := testConfig(t, WithShell("powershell"), WithEnv(map[string]string{}), WithStdin([]byte{}))
	if c.job.NeedsRunner() {
		t.Errorf("the job needs the runner: %+v", c.job)
	}
}

func TestNewTakes(t *testing.T) {
	for _, options := range [][]Option{
		{WithNode(""), WithService(""), WithMinNodes(0), WithCapture(0), WithReplicationWait(0)},
		{WithNode("^web-"), WithService("web"), WithTag("v[0-9]"), WithMinNodes(3)},
		{WithWait(minWait), WithLostTimeout(minWait + 1), WithAckTimeout(1)},
		{WithWait(time.Hour)},
		{WithNode(strings.Repeat("a", 400)), WithConcurrency(1)}, // the event has names
		{WithNodes("a"), WithoutDiscovery(), WithConcurrencyPercent(100), WithMaxFailures(1)},
		{WithPrefix("ops/exec"), WithDatacenter("dc2"), WithConfig(&api.Config{Address: "127.0.0.1:1"})},
		{WithLogger(slog.Default()), OnSubmit(func() {}), OnSubmit(func() {})},
	} {
		if _, err := New("uptime", options...); err != nil {
			t.Error(err)
		}
	}
}

// TestDefaults holds what the documentation says of the defaults.
func TestDefaults(t *testing.T) {
	for _, test := range []struct {
		options []Option
		lost    time.Duration
	}{
		{nil, 15 * time.Second},
		{[]Option{WithWait(time.Minute)}, 5 * time.Minute},
		{[]Option{WithWait(time.Second), WithLostTimeout(3 * time.Second)}, 3 * time.Second},
	} {
		c := testConfig(t, test.options...)
		if c.lostTimeout != test.lost {
			t.Errorf("lost timeout %v, want %v", c.lostTimeout, test.lost)
		}
	}
	c := testConfig(t)
	if c.wait != 2*time.Second || c.ackTimeout != 5*time.Second || c.replicationWait != 0 || c.prefix != "_rexec" || c.capture != 0 || c.minNodes != 0 {
		t.Errorf("defaults: %+v", c)
	}
}

func TestClient(t *testing.T) {
	t.Setenv(api.HTTPAddrEnvName, "127.0.0.9:99")
	t.Run("default", func(t *testing.T) {
		c := testConfig(t)
		if _, err := c.client.Status().Leader(); err == nil || !strings.Contains(err.Error(), "127.0.0.9:99") {
			t.Errorf("the client does not follow the environment: %v", err)
		}
		if c.connection == nil {
			t.Error("nobody will close the client's connections")
		}
	})
	t.Run("config", func(t *testing.T) {
		given := api.Config{Datacenter: "dc7"}
		before := given
		c := testConfig(t, WithConfig(&given))
		if given.Address != before.Address || given.HttpClient != before.HttpClient || given.Transport != before.Transport {
			t.Error("New changed the caller's config")
		}
		if c.datacenter != "dc7" {
			t.Errorf("datacenter %q, want the config's", c.datacenter)
		}
	})
	t.Run("answers", func(t *testing.T) {
		srv := exectest.NewServer(exectest.Node("a"))
		defer srv.Close()
		srv.Put("key", []byte("value"))
		c := testConfig(t, WithConfig(srv.Config()))
		var body bytes.Buffer
		q := (&api.QueryOptions{}).WithContext(consul.WithBody(t.Context(), &body))
		if pairs, _, err := c.client.KV().List("", q); err != nil || len(pairs) > 0 || body.Len() == 0 {
			t.Errorf("error %v; consul/api decoded %d pairs, and %d bytes were taken before", err, len(pairs), body.Len())
		}
	})
	t.Run("http client", func(t *testing.T) {
		given := &http.Client{Transport: new(http.Transport)}
		before := *given
		testConfig(t, WithConfig(&api.Config{HttpClient: given}))
		if given.Transport != before.Transport {
			t.Error("New changed the caller's HTTP client")
		}
	})
}

// TestNesting counts parentheses that Consul's parser sees.
func TestNesting(t *testing.T) {
	for expression, want := range map[string]int{
		"":                       0,
		"(a) and (b)":            1,
		"((a) or b) and not (c)": 2,
		`Node == "((" and (a)`:   1,
		"Node == `((\\` and (a)": 1,
		`Node == "\"((" and (a)`: 1,
		`((((((a))))))`:          6,
		")))(((a":                0,
		`Node == "(" and ((a))`:  2,
	} {
		if got := nesting(expression); got != want {
			t.Errorf("%s: %d deep, want %d", expression, got, want)
		}
	}
}
