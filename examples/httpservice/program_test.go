package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec/exectest"
)

// build builds the program, as `go run` does, and returns its path.
func build(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "httpservice")
	if runtime.GOOS == "windows" {
		program += ".exe"
	}
	if output, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	return program
}

// A program is the service as a process.
type program struct {
	command *exec.Cmd
	url     string
	stderr  bytes.Buffer // complete after stop
}

// startProgram starts the program with CONSUL_HTTP_ADDR set to address, and
// waits until it listens.
func startProgram(t *testing.T, path, address string, args ...string) *program {
	t.Helper()
	p := &program{command: exec.CommandContext(t.Context(), path, args...)}
	p.command.Env = append(os.Environ(), api.HTTPAddrEnvName+"="+address)
	p.command.Stderr = &p.stderr
	stdout, err := p.command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.command.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		p.command.Wait()
		t.Fatalf("no address on stdout: %v; stderr %q", err, &p.stderr)
	}
	p.url = strings.TrimSuffix(line, "/\n")
	return p
}

// stop sends a signal and waits for the end.
func (p *program) stop(signal os.Signal) error {
	return errors.Join(p.command.Process.Signal(signal), p.command.Wait())
}

func skipOnWindows(t *testing.T) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("needs /bin/sh and signals")
	}
}

// TestProgram ends the program while a run with a reader is under way.
func TestProgram(t *testing.T) {
	skipOnWindows(t)
	path := build(t)
	for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP} {
		cluster := exectest.NewServer(exectest.Node("a"))
		defer cluster.Close()
		p := startProgram(t, path, cluster.URL, "-listen", "127.0.0.1:0")
		r := read(t, begin(t, p.url, order{Command: "echo $$; exec sleep 1000"}), "")
		pid, err := strconv.Atoi(strings.TrimSpace(r.until("output").Output))
		if err != nil {
			t.Fatal(err)
		}
		if err := p.command.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		r.until("end")
		if err := p.command.Wait(); err != nil || p.stderr.Len() > 0 {
			t.Errorf("%v: %v, stderr %q", signal, err, &p.stderr)
		}
		if alive(pid) {
			t.Errorf("%v: the command still runs", signal)
		}
		if keys, sessions := cluster.Keys(""), cluster.Sessions(); len(keys)+len(sessions) > 0 {
			t.Errorf("%v: left behind: %v %v", signal, keys, sessions)
		}
	}
	t.Run("elsewhere", func(t *testing.T) {
		command := exec.CommandContext(t.Context(), path, "-demo", "-listen", "0.0.0.0:0")
		if output, err := command.CombinedOutput(); err == nil || !strings.Contains(string(output), "not a loopback address") {
			t.Errorf("%v: %s", err, output)
		}
	})
}

// TestDemo runs a command on the embedded cluster, beside CONSUL_HTTP_ADDR.
func TestDemo(t *testing.T) {
	skipOnWindows(t)
	named := exectest.NewServer(exectest.Node("a"))
	defer named.Close()
	for address, want := range map[string]string{"": "demo: five embedded nodes", named.URL: "-demo ignores CONSUL_HTTP_ADDR\ndemo: five embedded nodes"} {
		p := startProgram(t, build(t), address, "-demo", "-listen", "127.0.0.1:0")
		list := read(t, begin(t, p.url, order{Command: "echo up", Node: "^web-"}), "").all()
		for _, node := range []string{"web-1", "web-2", "web-3"} {
			if !slices.Contains(list, node+" output up") || !slices.Contains(list, node+" exit 0") {
				t.Errorf("%s: %q", node, list)
			}
		}
		if err := p.stop(os.Interrupt); err != nil {
			t.Error(err)
		}
		if !strings.HasPrefix(p.stderr.String(), want) {
			t.Errorf("stderr %q, want %q", &p.stderr, want)
		}
	}
	if requests := named.Requests(); len(requests) > 0 {
		t.Errorf("requests to CONSUL_HTTP_ADDR: %v", requests)
	}
}

// TestNoConsul starts the program without a usable agent: it must end without
// serving anything.
func TestNoConsul(t *testing.T) {
	program := build(t)
	faulty := func(do exectest.Action) func(*testing.T) string {
		return func(t *testing.T) string {
			srv := exectest.NewServer(exectest.Node("a"))
			t.Cleanup(srv.Close)
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
			srv := httptest.NewServer(http.NotFoundHandler())
			srv.Close()
			return srv.URL
		}, "/v1/status/leader"},
		{"no leader", faulty(exectest.Respond(http.StatusOK, `""`)), "the agent knows no leader"},
		{"no servers", faulty(exectest.Respond(http.StatusInternalServerError, "No known Consul servers")), "No known Consul servers"},
		{"no answer", faulty(exectest.Hang), "deadline exceeded"},
		{"unknown CA", func(t *testing.T) string {
			srv := httptest.NewUnstartedServer(http.NotFoundHandler())
			srv.Config.ErrorLog = log.New(io.Discard, "", 0)
			srv.StartTLS()
			t.Cleanup(srv.Close)
			return srv.URL
		}, "certificate"},
		{"TLS without https", func(t *testing.T) string {
			srv := httptest.NewUnstartedServer(http.NotFoundHandler())
			srv.Config.ErrorLog = log.New(io.Discard, "", 0)
			srv.StartTLS()
			t.Cleanup(srv.Close)
			return strings.Replace(srv.URL, "https", "http", 1)
		}, "HTTP request to an HTTPS server"},
		{"https without TLS", func(t *testing.T) string {
			srv := httptest.NewServer(http.NotFoundHandler())
			t.Cleanup(srv.Close)
			return strings.Replace(srv.URL, "http", "https", 1)
		}, "HTTP response to HTTPS client"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // kills a program that serves
			defer cancel()
			address := test.address(t)
			command := exec.CommandContext(ctx, program, "-listen", "127.0.0.1:0")
			command.Env = append(os.Environ(), api.HTTPAddrEnvName+"="+address)
			var stdout, stderr bytes.Buffer
			command.Stdout, command.Stderr = &stdout, &stderr
			began := time.Now()
			err := command.Run()
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("reported after %v", took)
			}
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 || stdout.Len() > 0 {
				t.Errorf("error %v, stdout %q; want exit status 1 and no output", err, &stdout)
			}
			for _, want := range []string{"no usable Consul agent", test.want, "CONSUL_HTTP_ADDR", "CONSUL_CACERT", "-demo"} {
				if !strings.Contains(stderr.String(), want) {
					t.Errorf("stderr lacks %q: %s", want, &stderr)
				}
			}
		})
	}
}

// TestElsewhere lets the program listen on all addresses, with a certificate and
// one user.
func TestElsewhere(t *testing.T) {
	skipOnWindows(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"ops.example"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	p := startProgram(t, build(t), "", "-demo", "-listen", "0.0.0.0:0", "-host", "ops.example",
		"-users", write("users", fmt.Appendf(nil, "alice %x\n", sha256.Sum256([]byte("token")))),
		"-tls-cert", write("cert", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		"-tls-key", write("key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})))
	trusted := x509.NewCertPool()
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	trusted.AddCert(certificate)
	_, port, _ := strings.Cut(strings.TrimPrefix(p.url, "https://[::]"), ":")
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: trusted},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", "127.0.0.1:"+port)
		},
	}}
	defer client.CloseIdleConnections()
	for _, test := range []struct {
		token, host string
		want        int
	}{{"", "", 401}, {"wrong", "", 401}, {"token", "", 201}, {"token", "evil.example", 403}} {
		req, err := http.NewRequestWithContext(t.Context(), "POST", "https://ops.example/runs", strings.NewReader(`{"command": "true", "node": "^web-1$"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Host = test.host
		req.Header.Set("Content-Type", "application/json")
		if test.token != "" {
			req.Header.Set("Authorization", "Bearer "+test.token)
		}
		response, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != test.want {
			t.Errorf("token %q, host %q: status %d, want %d", test.token, test.host, response.StatusCode, test.want)
		}
	}
	if err := p.stop(os.Interrupt); err != nil {
		t.Error(err)
	}
	if log := p.stderr.String(); !strings.Contains(log, "user=alice") || !strings.Contains(log, "command=true") || strings.Contains(log, "token") {
		t.Errorf("stderr: %s", log)
	}
}
