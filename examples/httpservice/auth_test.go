package main

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/consulexec/consulexec/exectest"
)

// byHeader is an authenticator as a proxy needs one.
type byHeader struct{}

func (byHeader) authenticate(req *http.Request) (string, error) {
	if user := req.Header.Get("X-User"); user != "" {
		return user, nil
	}
	return "", errors.New("nobody")
}

func (byHeader) challenge() string { return "Proxy" }

func TestAuthenticator(t *testing.T) {
	set := testSettings
	set.auth, set.hosts = byHeader{}, []string{"ops.example"}
	s := startWith(t, set, exectest.Node("a", exectest.Run(exectest.Answer("", 0))))
	for _, r := range []struct{ method, path string }{{"GET", "/"}, {"GET", "/page.js"}, {"GET", "/runs"}, {"POST", "/runs"}, {"POST", "/targets"}, {"GET", "/metrics"}, {"GET", "/runs/x/events"}, {"DELETE", "/runs/x"}} {
		if status, text := request(t, r.method, s.web.URL+r.path, `{"command": "x"}`, asJSON...); status != http.StatusUnauthorized || !strings.Contains(text, "nobody") {
			t.Errorf("%s %s: status %d: %s", r.method, r.path, status, text)
		}
	}
	s.checkNothingRan(t)

	as := func(user string, more ...string) []string { return append(append(more, "X-User", user), asJSON...) }
	for _, header := range [][]string{as("alice", "Host", "evil.example"), as("alice", "Origin", "http://evil.example")} {
		if status, _ := request(t, "POST", s.web.URL+"/runs", `{"command": "x"}`, header...); status != http.StatusForbidden {
			t.Errorf("%q: status %d", header, status)
		}
	}
	s.checkNothingRan(t)

	const key = "Idempotency-Key"
	ids := map[string]bool{}
	for _, user := range []string{"alice", "alice", "bob"} {
		status, text := request(t, "POST", s.web.URL+"/runs", `{"command": "x"}`, as(user, key, "k", "Host", "OPS.example:8443")...)
		if status != http.StatusCreated {
			t.Errorf("%s: status %d: %s", user, status, text)
		}
		ids[text] = true
	}
	if len(ids) != 2 {
		t.Errorf("two users with the same key: %v", ids)
	}
	_, text := request(t, "GET", s.web.URL+"/runs", "", as("bob")...)
	var answer struct{ Runs []struct{ User string } }
	if err := json.Unmarshal([]byte(text), &answer); err != nil || len(answer.Runs) != 2 || answer.Runs[0].User != "bob" || answer.Runs[1].User != "alice" {
		t.Errorf("%v: %s", err, text)
	}
}

func usersFile(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestTokens(t *testing.T) {
	list, err := readTokens(usersFile(t, fmt.Sprintf("# who may\r\n\r\nalice %x\r\nbob  %X\n", sha256.Sum256([]byte("secret")), sha256.Sum256([]byte("other")))))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		set  func(*http.Request)
		want string
	}{
		{func(r *http.Request) { r.SetBasicAuth("whoever", "secret") }, "alice"},
		{func(r *http.Request) { r.Header.Set("Authorization", "Bearer other") }, "bob"},
		{func(r *http.Request) { r.Header.Set("Authorization", "bearer other") }, "bob"},
		{func(r *http.Request) {}, ""},
		{func(r *http.Request) { r.SetBasicAuth("alice", "") }, ""},
		{func(r *http.Request) { r.SetBasicAuth("secret", "alice") }, ""},
		{func(r *http.Request) { r.Header.Set("Authorization", "Bearer ") }, ""},
		{func(r *http.Request) { r.Header.Set("Authorization", "secret") }, ""},
		{func(r *http.Request) { r.Header.Set("Authorization", "Bearer wrong") }, ""},
	} {
		req, _ := http.NewRequest("GET", "http://localhost/", nil)
		test.set(req)
		if user, err := list.authenticate(req); user != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%v: %q, %v; want %q", req.Header, user, err, test.want)
		}
	}
	hash := fmt.Sprintf("%x", sha256.Sum256([]byte("x")))
	for content, want := range map[string]string{
		"":                                      "has no user",
		"# nobody\n":                            "has no user",
		"alice\n":                               ":1: want a name and a SHA-256 hash",
		"\nalice secret\n":                      ":2: want a name and a SHA-256 hash",
		"alice " + hash[1:] + "\n":              ":1: ",
		"alice " + hash[1:] + "z\n":             ":1: ",
		"a " + hash + "\nb " + hash:             ":2: a and b have the same token",
		fmt.Sprintf("a %x", sha256.Sum256(nil)): ":1: the hash of a is that of an empty token",
	} {
		if _, err := readTokens(usersFile(t, content)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", content, err, want)
		}
	}
}

func TestOptions(t *testing.T) {
	users := usersFile(t, fmt.Sprintf("alice %x", sha256.Sum256([]byte("x"))))
	for _, test := range []struct {
		args, want string
	}{
		{"-max-runs=0", "-max-runs=0"},
		{"-users=", "-users is empty"},
		{"-tls-cert=", "-tls-cert is empty"},
		{"-tls-cert=c", "belong together"},
		{"-host=ops.example", "-host needs -users"},
		{"demo", `"demo" is no flag`},
	} {
		if _, err := parse(strings.Fields(test.args)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.args, err, test.want)
		}
	}
	for args, want := range map[string]string{
		"-users=" + users + " -host=ops.example,":      "a name is empty",
		"-users=" + filepath.Join(t.TempDir(), "none"): "read the users",
	} {
		o, err := parse(strings.Fields(args))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := o.settings(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
	for args, want := range map[string]bool{
		"-listen=127.0.0.1:0":                                                   true,
		"-listen=0.0.0.0:0":                                                     false,
		"-listen=0.0.0.0:0 -users=" + users + " -host=h":                        false,
		"-listen=0.0.0.0:0 -users=" + users + " -tls-cert=c -tls-key=k":         false,
		"-listen=127.0.0.1:0 -users=" + users + "":                              true,
		"-listen=0.0.0.0:0 -users=" + users + " -host=h -tls-cert=c -tls-key=k": true,
	} {
		o, err := parse(strings.Fields(args))
		if err != nil {
			t.Fatal(err)
		}
		set, err := o.settings()
		if err != nil {
			t.Fatal(err)
		}
		listener, err := o.listener(set)
		if err == nil {
			listener.Close()
		}
		if (err == nil) != want || err != nil && !strings.Contains(err.Error(), "not a loopback address") {
			t.Errorf("%s: %v", args, err)
		}
	}
}
