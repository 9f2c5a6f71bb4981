package consul

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"
)

// TestPoolShared checks which connections share a pool: those to the same Consul
// with the same settings, as long as one of them is in use.
func TestPoolShared(t *testing.T) {
	ca := filepath.Join(t.TempDir(), "ca.pem")
	writeCA := func(text string) {
		if err := os.WriteFile(ca, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	connect := func(conf *api.Config) *Connection {
		c, err := Connect(conf)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	writeCA(testCA)
	transport := &http.Transport{}
	client := new(api.Client)
	for _, test := range []struct {
		name   string
		a, b   func() *Connection
		shared bool
	}{
		{"the same", func() *Connection { return connect(nil) }, func() *Connection { return connect(&api.Config{Token: "t", Datacenter: "dc2"}) }, true},
		{"another address", func() *Connection { return connect(nil) }, func() *Connection { return connect(&api.Config{Address: "consul.example:80"}) }, false},
		{"another path", func() *Connection { return connect(&api.Config{Address: "http://lb.example/a"}) }, func() *Connection { return connect(&api.Config{Address: "http://lb.example/b"}) }, false},
		{"another scheme", func() *Connection { return connect(nil) }, func() *Connection { return connect(&api.Config{Scheme: "https"}) }, false},
		{"other TLS settings", func() *Connection { return connect(&api.Config{Scheme: "https"}) },
			func() *Connection {
				return connect(&api.Config{Scheme: "https", TLSConfig: api.TLSConfig{InsecureSkipVerify: true}})
			}, false},
		{"a file", func() *Connection { return connect(&api.Config{TLSConfig: api.TLSConfig{CAFile: ca}}) },
			func() *Connection { return connect(&api.Config{TLSConfig: api.TLSConfig{CAFile: ca}}) }, true},
		{"a file that has changed", func() *Connection { return connect(&api.Config{TLSConfig: api.TLSConfig{CAFile: ca}}) },
			func() *Connection {
				writeCA(testCA + "\n")
				return connect(&api.Config{TLSConfig: api.TLSConfig{CAFile: ca}})
			}, false},
		{"the caller's transport", func() *Connection { return connect(&api.Config{Transport: transport}) }, func() *Connection { return connect(&api.Config{Transport: transport}) }, true},
		{"the caller's and our own", func() *Connection { return connect(&api.Config{Transport: transport}) }, func() *Connection { return connect(nil) }, false},
		{"the caller's HTTP client", func() *Connection { return connect(&api.Config{HttpClient: &http.Client{}}) }, func() *Connection { return connect(nil) }, false},
		{"a copy of the caller's", func() *Connection {
			return connect(&api.Config{Transport: transport, TLSConfig: api.TLSConfig{Address: "x"}})
		}, func() *Connection { return connect(&api.Config{TLSConfig: api.TLSConfig{Address: "x"}}) }, false},
		{"a transport that can't be compared", func() *Connection { return connect(&api.Config{HttpClient: &http.Client{Transport: roundTrippers{}}}) }, func() *Connection { return connect(nil) }, false},
		{"a wrapped one that can't be compared", func() *Connection {
			return connect(&api.Config{HttpClient: &http.Client{Transport: wrapped{roundTrippers{}}}})
		}, func() *Connection { return connect(nil) }, false},
		{"the caller's and a copy of it", func() *Connection {
			return connect(&api.Config{HttpClient: &http.Client{Transport: transport}, TLSConfig: api.TLSConfig{Address: "x"}})
		}, func() *Connection {
			return connect(&api.Config{Transport: transport, TLSConfig: api.TLSConfig{Address: "x"}})
		}, false},
		{"the caller's client", func() *Connection { return Given(client) }, func() *Connection { return Given(client) }, true},
		{"another client", func() *Connection { return Given(client) }, func() *Connection { return Given(new(api.Client)) }, false},
		{"a socket", func() *Connection { return connect(&api.Config{Address: "unix:///run/consul"}) }, func() *Connection { return connect(&api.Config{Address: "unix:///run/consul"}) }, true},
		{"another socket", func() *Connection { return connect(&api.Config{Address: "unix:///run/consul"}) }, func() *Connection { return connect(&api.Config{Address: "unix:///run/consul2"}) }, false},
	} {
		a := test.a().Open()
		other := test.b()
		b := other.Open()
		if shared := a == b; shared != test.shared {
			t.Errorf("%s: shared %v, want %v", test.name, shared, test.shared)
		}
		a.Leave()
		if again := other.Open(); again != b {
			t.Errorf("%s: the pool ended although it was in use", test.name)
		} else {
			again.Leave()
		}
		b.Leave()
	}
	if left := len(pools.m); left > 0 {
		t.Errorf("%d pools are left", left)
	}
}

type roundTrippers []http.RoundTripper

type wrapped struct{ http.RoundTripper }

func (roundTrippers) RoundTrip(*http.Request) (*http.Response, error) { return nil, errors.New("none") }

// TestPoolConnections makes requests of several connections and counts the TCP
// connections that they take, and those that are left.
func TestPoolConnections(t *testing.T) {
	var mu sync.Mutex
	opened, open := 0, 0
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `"1.2.3.4:8300"`) }))
	srv.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		switch state {
		case http.StateNew:
			opened++
			open++
		case http.StateClosed:
			open--
		}
	}
	srv.Start()
	defer srv.Close()
	var connections []*Connection
	for range 10 {
		c, err := Connect(&api.Config{Address: srv.URL})
		if err != nil {
			t.Fatal(err)
		}
		connections = append(connections, c)
	}
	for range 2 { // again after the pool has ended
		var used []*Pool
		for _, c := range connections {
			used = append(used, c.Open())
			if _, err := c.Status().Leader(); err != nil {
				t.Fatal(err)
			}
		}
		for _, p := range used {
			p.Leave()
		}
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		mu.Lock()
		left := open
		mu.Unlock()
		if left == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d connections are left", left)
		}
	}
	if opened != 2 {
		t.Errorf("%d connections were opened, want one for each pool", opened)
	}
}

// newTestClient returns a client in a pool of its own, which ends with the test.
func newTestClient(t *testing.T) *Client {
	p := join(t, nil)
	t.Cleanup(p.Leave)
	return &Client{Pool: p, Log: slog.New(slog.DiscardHandler)}
}

// A gauge counts requests that are under way.
type gauge struct {
	mu        sync.Mutex // guards the fields below
	now, most int
}

// enter counts a request. The caller calls leave when it ends.
func (g *gauge) enter() (leave func()) {
	g.add(1)
	return func() { g.add(-1) }
}

func (g *gauge) add(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.now += n
	g.most = max(g.most, g.now)
}

// TestInFlight makes more requests at once than a process may.
func TestInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestClient(t)
		var requests gauge
		send := func(ctx context.Context) error {
			defer requests.enter()()
			Sleep(ctx, time.Second)
			return nil
		}
		var calls sync.WaitGroup
		for range 10 * maxInFlight {
			calls.Go(func() {
				if err := c.Do(t.Context(), Operation{}, send); err != nil {
					t.Error(err)
				}
			})
		}
		time.Sleep(time.Millisecond)
		calls.Go(func() { _ = c.Do(t.Context(), Operation{Held: true}, send) })
		start := time.Now()
		if _ = c.Do(t.Context(), Operation{Renews: true}, func(context.Context) error { return nil }); time.Since(start) > 0 {
			t.Error("a renewal waits for other requests")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		calls.Go(func() {
			if err := c.Do(ctx, Operation{}, send); !errors.Is(err, context.DeadlineExceeded) || !NotSent(err) {
				t.Errorf("error %v of a request whose context ended before its turn", err)
			}
		})
		calls.Wait()
		if requests.most != maxInFlight+1 {
			t.Errorf("%d requests at once, want %d and one that is held", requests.most, maxInFlight)
		}
	})
}

// TestInFlightCrowded makes many requests at once when Consul has just refused
// a connection. Those that still wait when it refuses none any more go on
// together.
func TestInFlightCrowded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestClient(t)
		atOnce := func(op Operation, takes time.Duration) int {
			var requests gauge
			var calls sync.WaitGroup
			for range 100 {
				calls.Go(func() {
					if err := c.Do(t.Context(), op, func(ctx context.Context) error {
						defer requests.enter()()
						Sleep(ctx, takes)
						return nil
					}); err != nil {
						t.Error(err)
					}
				})
			}
			calls.Wait()
			return requests.most
		}
		refuse := func(context.Context) error {
			return api.StatusError{Code: 429, Body: "Your IP is issuing too many concurrent connections"}
		}
		_ = c.Try(t.Context(), Operation{}, refuse)
		for _, op := range []Operation{{}, {Renews: true}} {
			if got := atOnce(op, time.Millisecond); got != 1 {
				t.Errorf("renewals %v: %d requests at once, want 1", op.Renews, got)
			}
		}
		start := time.Now()
		if atOnce(Operation{}, time.Second); time.Since(start) > 2*crowdedTime {
			t.Errorf("requests that waited when Consul refused connections went on for %v", time.Since(start))
		}
		for op, want := range map[Operation]int{{}: maxInFlight, {Renews: true}: maxRenewals} {
			if got := atOnce(op, time.Millisecond); got != want {
				t.Errorf("renewals %v, later: %d requests at once, want %d", op.Renews, got, want)
			}
		}
	})
}

// TestMayHold has few runs that list, then many, and then Consul refuses one.
func TestMayHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestClient(t)
		mayHold := func() bool {
			hold, err := c.Pool.MayHold(t.Context())
			if err != nil {
				t.Error(err)
			}
			return hold
		}
		var remove []func()
		for range maxHeld {
			remove = append(remove, c.Pool.AddReader())
		}
		if !mayHold() {
			t.Error("a run may not hold a connection beside few others")
		}
		remove = append(remove, c.Pool.AddReader())
		start, listings := time.Now(), 0
		for time.Since(start) < time.Minute {
			if mayHold() {
				t.Fatal("a run may hold a connection beside many others")
			}
			listings++
		}
		if listings < 14_000 || listings > 15_100 {
			t.Errorf("%d listings in a minute, want at most 250 a second", listings)
		}
		for _, remove := range remove {
			remove()
		}
		if !mayHold() {
			t.Error("a run may not hold a connection after the others have ended")
		}
		refuse := func(reason string) {
			_ = c.Try(t.Context(), Operation{}, func(context.Context) error { return api.StatusError{Code: 429, Body: reason} })
		}
		if refuse("rate limit exceeded"); !mayHold() {
			t.Error("a run lists more often because of a rate limit")
		}
		refuse("Your IP is issuing too many concurrent connections")
		if mayHold() {
			t.Error("a run may hold a connection although Consul refuses some")
		}
		if time.Sleep(crowdedTime); !mayHold() {
			t.Error("a run may hold no connection any more")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		c.Pool.AddReader()
		for range maxHeld {
			c.Pool.AddReader()
		}
		if _, err := c.Pool.MayHold(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v after the context has ended", err)
		}
	})
}

// TestPatience has requests fail for some time, and checks for how long that is
// borne.
func TestPatience(t *testing.T) {
	full := api.StatusError{Code: 429, Body: "Your IP is issuing too many concurrent connections"}
	limited := api.StatusError{Code: 429, Body: "rate limit exceeded, try again later or against a different server"}
	reset := &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	for _, test := range []struct {
		name   string
		fails  []error       // in turn, the last one again and again
		after  time.Duration // when it no longer does
		gaveUp time.Duration // about when that is too late, or 0
	}{
		{"refused", []error{refused}, time.Hour, StartPatience},
		{"full", []error{full}, time.Hour, 0},
		{"rate limit", []error{limited}, time.Hour, 0},
		{"another 429", []error{api.StatusError{Code: 429, Body: "slow down"}}, time.Hour, StartPatience},
		{"reset", []error{reset}, 25 * time.Second, 0},
		{"reset for ever", []error{reset}, time.Hour, SessionLife},
		{"full, then gone", []error{full, full, full, refused}, time.Hour, StartPatience},
		{"reset between refusals", []error{full, reset, reset, reset, full, reset, reset, reset, reset, full}, time.Hour, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, start, tries := newTestClient(t), time.Now(), 0
				err := c.Do(t.Context(), Operation{Patience: StartPatience}, func(context.Context) error {
					if time.Since(start) >= test.after {
						return nil
					}
					tries++
					return fmt.Errorf("wrapped: %w", test.fails[min(tries, len(test.fails))-1])
				})
				took := time.Since(start)
				switch {
				case test.gaveUp == 0 && err != nil:
					t.Errorf("error %v after %v", err, took)
				case test.gaveUp > 0 && (err == nil || took < test.gaveUp || took > test.gaveUp+5*time.Second):
					t.Errorf("error %v after %v, want to give up after about %v", err, took, test.gaveUp)
				}
			})
		})
	}
}

// testCA is a certificate of a CA, for no use but to be read.
const testCA = `-----BEGIN CERTIFICATE-----
MIIBQTCB56ADAgECAgEBMAoGCCqGSM49BAMCMA8xDTALBgNVBAMTBHRlc3QwIBcN
NzAwMTAxMDAwMDAwWhgPMjEwMDAxMDEwMDAwMDBaMA8xDTALBgNVBAMTBHRlc3Qw
WTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAATWGAEPYjHOeIANf8mux1bsIVyttM0t
kedfNAzNDZjPW+unAJezDAzUW5TKtj1NvFj7glW3yL/vmAD1w08/aMNcozIwMDAP
BgNVHRMBAf8EBTADAQH/MB0GA1UdDgQWBBRCnEn+K7JzUO9hqtK573TvghBjwzAK
BggqhkjOPQQDAgNJADBGAiEAh/BYVV6Lc4djOVaC32wBLVdDZ6XANZuVdWqXUg6x
M3ECIQCp2qo7y91a3VYbcqUyr9lDzXr7lTfVUONtX5onnZCv0Q==
-----END CERTIFICATE-----
`
