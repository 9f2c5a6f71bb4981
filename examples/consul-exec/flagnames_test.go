package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/consulexec/consulexec"
)

func TestFlagNames(t *testing.T) {
	for text, want := range map[string]string{
		`WithLimit(3): the nodes are not known`:                      `-limit=3: the nodes are not known`,
		`WithNode("(") and WithNodes(2 names)`:                       `-node="(" and -nodes (2 names)`,
		`(WithFilter("Node == \"WithTag(x)\" or WithNode"), x)`:      `(-filter="Node == \"WithTag(x)\" or WithNode", x)`,
		`WithConcurrency(3) and WithConcurrencyPercent(10)`:          `-concurrency=3 and -concurrency=10%`,
		`may be nologin; see WithShell`:                              `may be nologin; see -shell-path`,
		`has a NUL byte; WithScript and WithStdin take any bytes`:    `has a NUL byte; a script on standard input and -stdin-file take any bytes`,
		`WithNothing(1), WithoutDiscovery and NotWithNode("a") stay`: `WithNothing(1), WithoutDiscovery and NotWithNode("a") stay`,
	} {
		if got := flagNames(text); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
	err := error(&consulexec.OptionError{Option: "WithTimeout", Value: "-1s", Err: errors.New("is not positive")})
	if got := inFlags(err); got.Error() != "-timeout=-1s: is not positive" || !errors.Is(got, consulexec.ErrBadOption) {
		t.Error(got)
	}
	if inFlags(nil) != nil {
		t.Error("no error has become one")
	}
}

// TestErrorsInFlags has runs whose errors come from the library.
func TestErrorsInFlags(t *testing.T) {
	t.Parallel()
	srv := newServer(t, answer("a", "", 1))
	for _, test := range []struct{ args, want string }{
		{"-concurrency=3 -concurrency=10% x", "-concurrency=3 and -concurrency=10%: want one of them"},
		{"-service=z x", `(-service="z"); -service matches IDs, not names: see -healthy-service`},
		{"-filter=( x", `-filter="(": is refused by Consul`},
		{"-list -node=z", `(-node="z")`},
		{"-node=a -format=text x", "nologin or false; see -shell-path"},
		{"-node=a -format=group x", "nologin or false; see -shell-path"},
	} {
		stdout, stderr, _ := consulExec(t, srv.URL, strings.Fields(test.args)...)
		checkFlagsOnly(t, test.args, stdout+stderr, test.want)
	}
	stdout, _, _ := consulExec(t, srv.URL, "-format=json", "x")
	events, summary := decode(t, stdout)
	checkFlagsOnly(t, "the last event", events[len(events)-1].Error, "see -shell-path")
	checkFlagsOnly(t, "the summary", summary.Nodes[0].Error, "see -shell-path")
	stdout, _, _ = consulExec(t, srv.URL, "-format=json", "-node=z", "x")
	_, summary = decode(t, stdout)
	checkFlagsOnly(t, "a summary without nodes", summary.Error, `(-node="z")`)
}

func checkFlagsOnly(t *testing.T, what, text, want string) {
	t.Helper()
	if !strings.Contains(text, want) || strings.Contains(text, "With") {
		t.Errorf("%s: %s, want %s and no option", what, text, want)
	}
}
