package main

import (
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/consulexec/consulexec/exectest"
)

// A trace is a file that a command creates if it runs on this machine.
type trace string

func newTrace(t *testing.T) trace {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("exectest runs commands with /bin/sh")
	}
	return trace(filepath.Join(t.TempDir(), "ran"))
}

func (f trace) command() string { return "echo here; echo x >>'" + string(f) + "'" }

// runs returns how often the command ran.
func (f trace) runs(t *testing.T) int {
	t.Helper()
	data, err := os.ReadFile(string(f))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return strings.Count(string(data), "x")
}

// TestNoConsul starts the program without a usable agent. The command must not
// run anywhere, least of all on this machine.
func TestNoConsul(t *testing.T) {
	t.Parallel()
	faulty := func(do exectest.Action) func(*testing.T) string {
		return func(t *testing.T) string {
			srv := newServer(t, exectest.Node("a"))
			srv.Fault(exectest.Fault{Match: exectest.Path("GET", "/v1/status/leader"), Do: do})
			return srv.URL
		}
	}
	for _, test := range []struct {
		name    string
		address func(*testing.T) string
		want    string
	}{
		{"default address", func(t *testing.T) string {
			if conn, err := net.Dial("tcp", "localhost:8500"); err == nil {
				conn.Close()
				t.Skip("something listens at Consul's default address, perhaps a real agent")
			}
			return ""
		}, ":8500"},
		{"no agent", func(*testing.T) string {
			gone := httptest.NewServer(http.NotFoundHandler())
			gone.Close()
			return gone.URL
		}, "refused"},
		{"no leader", faulty(exectest.Respond(http.StatusOK, `""`)), "the agent knows no leader"},
		{"no servers", faulty(exectest.Respond(http.StatusInternalServerError, "No known Consul servers")), "No known Consul servers"},
		{"no answer", faulty(exectest.Hang), "deadline exceeded"},
		{"connection dropped", faulty(exectest.Drop), "EOF"},
		{"unknown CA", func(t *testing.T) string {
			srv := httptest.NewUnstartedServer(newServer(t, exectest.Node("a")))
			srv.Config.ErrorLog = log.New(io.Discard, "", 0)
			srv.TLS = &tls.Config{}
			srv.StartTLS()
			t.Cleanup(srv.Close)
			return srv.URL
		}, "certificate"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ran := newTrace(t)
			address := test.address(t)
			began := time.Now()
			stdout, stderr, status := consulExec(t, address, ran.command())
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("reported after %v", took)
			}
			if status != 1 || stdout != "" {
				t.Errorf("status %d, stdout %q", status, stdout)
			}
			for _, want := range []string{test.want, "CONSUL_HTTP_ADDR", "-http-addr", "-demo"} {
				if !strings.Contains(stderr, want) {
					t.Errorf("stderr lacks %q: %s", want, stderr)
				}
			}
			if n := ran.runs(t); n > 0 {
				t.Errorf("the command ran %d times on this machine", n)
			}
		})
	}
}

// TestElection has an agent that learns of a leader while the program waits. It
// says once what it waits for.
func TestElection(t *testing.T) {
	t.Parallel()
	srv := newServer(t, answer("a", "", 0))
	srv.Fault(exectest.Fault{Match: exectest.Path("GET", "/v1/status/leader"), Times: 5, Do: exectest.Respond(http.StatusOK, `""`)})
	want := "waiting up to 8s for the Consul agent at " + strings.TrimPrefix(srv.URL, "http://") + " to answer and to know a leader\n"
	if stdout, stderr, status := consulExec(t, srv.URL, "true"); status != 0 || stderr != want {
		t.Errorf("status %d, stderr %q, want %q, stdout %q", status, stderr, want, stdout)
	}
}

// TestDemo runs the command on the embedded cluster. The agent that
// CONSUL_HTTP_ADDR names gets no request.
func TestDemo(t *testing.T) {
	t.Parallel()
	const demo = "demo: three embedded nodes; the command runs on this machine, once for each of them\n"
	srv := newServer(t, exectest.Node("a"))
	for address, wantStderr := range map[string]string{
		"":      demo,
		srv.URL: "-demo ignores CONSUL_HTTP_ADDR\n" + demo,
	} {
		ran := newTrace(t)
		stdout, stderr, status := consulExec(t, address, "-demo", ran.command())
		if status != 0 || stderr != wantStderr || !strings.Contains(stdout, "    web-3: here\n") {
			t.Errorf("address %q: status %d, stderr %q, stdout\n%s", address, status, stderr, stdout)
		}
		if n := ran.runs(t); n != 3 {
			t.Errorf("address %q: the command ran %d times, want 3", address, n)
		}
	}
	if requests := srv.Requests(); len(requests) > 0 {
		t.Errorf("requests to CONSUL_HTTP_ADDR: %v", requests)
	}
}

// TestDemoAndAddress combines -demo with a flag that says where Consul is.
// Nothing may run. An empty value counts as no flag.
func TestDemoAndAddress(t *testing.T) {
	t.Parallel()
	srv := newServer(t, exectest.Node("a"))
	ran := newTrace(t)
	if _, stderr, status := consulExec(t, "", "-demo", "-http-addr="+srv.URL, ran.command()); status != 1 || ran.runs(t) > 0 || len(srv.Requests()) > 0 {
		t.Errorf("status %d, the command ran %d times, requests %v, stderr %q", status, ran.runs(t), srv.Requests(), stderr)
	}
	if _, stderr, status := consulExec(t, "", "-demo", "-http-addr=", ran.command()); status != 0 || ran.runs(t) != 3 {
		t.Errorf("empty -http-addr: status %d, the command ran %d times, stderr %q", status, ran.runs(t), stderr)
	}
}
