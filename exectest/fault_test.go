package exectest

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"
)

func TestFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, test := range []struct {
			name    string
			fault   Fault
			wantErr func(error) bool
			stored  bool
			elapsed time.Duration
		}{
			{"none", Fault{Match: Path("GET", "/v1/")}, func(err error) bool { return err == nil }, true, 0},
			{"status", Fault{Do: Respond(503, "busy")}, func(err error) bool { return isStatus(err, 503, "busy") }, false, 0},
			{"denied", Fault{Do: Denied}, func(err error) bool { return isStatus(err, 403, "Permission denied") }, false, 0},
			{"delay", Fault{Delay: 3 * time.Second}, func(err error) bool { return err == nil }, true, 3 * time.Second},
			{"refused", Fault{Do: Refuse}, isRefused, false, 0},
			{"dropped", Fault{Do: Drop}, func(err error) bool { return errors.Is(err, io.EOF) }, true, 0},
			{"late and dropped", Fault{Delay: time.Second, Do: Drop}, func(err error) bool { return errors.Is(err, io.EOF) }, true, time.Second},
			{"hanging", Fault{Do: Hang}, func(err error) bool { return errors.Is(err, context.DeadlineExceeded) }, false, 10 * time.Second},
			{"too late", Fault{Delay: time.Hour}, func(err error) bool { return errors.Is(err, context.DeadlineExceeded) }, false, 10 * time.Second},
		} {
			srv := NewServer()
			srv.Fault(test.fault)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			start := time.Now()
			_, err := srv.Client().KV().Put(&api.KVPair{Key: "a"}, (&api.WriteOptions{}).WithContext(ctx))
			if elapsed := time.Since(start); !test.wantErr(err) || elapsed != test.elapsed {
				t.Errorf("%s: %v after %v, want %v", test.name, err, elapsed, test.elapsed)
			}
			if stored := len(srv.Keys("a")) == 1; stored != test.stored {
				t.Errorf("%s: stored is %v, want %v", test.name, stored, test.stored)
			}
			cancel()
			srv.Close()
		}
	})
}

// isRefused reports whether the connection was refused, so that the request was
// not sent.
func isRefused(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial" && errors.Is(err, syscall.ECONNREFUSED)
}

func TestFaultsOverHTTP(t *testing.T) {
	srv := NewServer()
	defer srv.Close()
	client, err := api.NewClient(&api.Config{Address: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	for name, do := range map[string]Action{"refused": Refuse, "dropped": Drop} {
		srv.Fault(Fault{Times: 1, Do: do})
		if _, err := client.KV().Put(&api.KVPair{Key: name}, nil); !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if keys := srv.Keys(""); len(keys) != 1 || keys[0] != "dropped" {
		t.Errorf("stored keys are %q, want only \"dropped\"", keys)
	}
}

func TestFaultTimes(t *testing.T) {
	srv := NewServer()
	defer srv.Close()
	put := func() error {
		_, err := srv.Client().KV().Put(&api.KVPair{Key: "a"}, nil)
		return err
	}
	srv.Fault(Fault{Match: Path("PUT", "/v1/kv/"), Times: 2, Do: Respond(500, "busy")})
	if _, _, err := srv.Client().KV().Get("a", nil); err != nil {
		t.Errorf("get: %v", err)
	}
	for i, want := range []bool{false, false, true, true} {
		if err := put(); (err == nil) != want {
			t.Errorf("put %d: %v, want success: %v", i, err, want)
		}
	}
	remove := srv.Fault(Fault{Do: Refuse})
	for range 2 {
		if put() == nil {
			t.Error("a put succeeded before the fault was removed")
		}
	}
	remove()
	remove()
	if err := put(); err != nil {
		t.Errorf("after the fault: %v", err)
	}
}

func TestFaultsNest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := NewServer()
		defer srv.Close()
		srv.Fault(Fault{Delay: time.Second})
		srv.Fault(Fault{Delay: time.Second, Do: Respond(500, "inner")})
		start := time.Now()
		_, err := srv.Client().KV().Put(&api.KVPair{Key: "a"}, nil)
		if !isStatus(err, 500, "inner") || time.Since(start) != 2*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

func TestFilteredByACLs(t *testing.T) {
	srv := NewServer()
	defer srv.Close()
	defer srv.Fault(Fault{Match: Path("GET", "/v1/health/"), Do: FilteredByACLs})()
	checks, meta, err := srv.Client().Health().State(api.HealthAny, nil)
	if err != nil || len(checks) > 0 || !meta.ResultsFilteredByACLs || meta.LastIndex == 0 {
		t.Errorf("%v, %+v, %v", checks, meta, err)
	}
}
