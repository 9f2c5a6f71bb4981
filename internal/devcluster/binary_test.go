package devcluster

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// setCache makes os.UserCacheDir an empty directory and returns the path of the
// binary cache below it.
func setCache(t *testing.T) string {
	t.Helper()
	home := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", home)
	t.Setenv("HOME", home)
	t.Setenv("LocalAppData", home)
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(cache, "consulexec")
}

func binaryName(name string) string {
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	return name
}

func writeExecutable(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestBinary(t *testing.T) {
	onPath := filepath.Join(t.TempDir(), binaryName("consul"))
	writeExecutable(t, onPath, "")
	cache := setCache(t)
	cached := func(version string) string { return filepath.Join(cache, binaryName("consul-"+version)) }
	writeExecutable(t, cached("1.8.7"), "")
	writeExecutable(t, cached(DefaultVersion), "")

	for _, tt := range []struct {
		name, binary, version, path string
		want                        string
		wantErr                     string
	}{
		{name: "CONSUL_BINARY", binary: onPath, version: "1.8.7", want: onPath},
		{name: "missing CONSUL_BINARY", binary: "/no/such/consul", wantErr: "/no/such/consul"},
		{name: "CONSUL_VERSION", version: "1.8.7", path: filepath.Dir(onPath), want: cached("1.8.7")},
		{name: "CONSUL_VERSION with a v", version: "v1.8.7", want: cached("1.8.7")},
		{name: "invalid CONSUL_VERSION", version: "newest", wantErr: `"newest" is not a version`},
		{name: "CONSUL_VERSION with a path", version: "1.8.7/../x", wantErr: `is not a version`},
		{name: "PATH", path: filepath.Dir(onPath), want: onPath},
		{name: "cache", path: t.TempDir(), want: cached(DefaultVersion)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("CONSUL_BINARY", tt.binary)
			t.Setenv("CONSUL_VERSION", tt.version)
			if tt.path != "" {
				t.Setenv("PATH", tt.path)
			}
			got, err := Binary(t.Context())
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Fatalf("error is %v, want one with %q", err, tt.wantErr)
				}
				return
			}
			if err != nil || got != tt.want {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

func TestBuildOfVersionWithoutModule(t *testing.T) {
	err := buildConsul(t.Context(), "1.0.0", filepath.Join(t.TempDir(), "consul"))
	if err == nil || !strings.Contains(err.Error(), filepath.Join("tools", "consul", "1.0.0", "go.mod")) {
		t.Errorf("the error is %v", err)
	}
}

func TestConcurrentCallersShareOneBuild(t *testing.T) {
	var builds atomic.Int32
	build := func(_ context.Context, version, output string) error {
		builds.Add(1)
		return os.WriteFile(output, []byte(version), 0o755)
	}
	cache := filepath.Join(t.TempDir(), "cache")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			path, err := cachedBinary(t.Context(), cache, "1.2.3", build)
			if err != nil {
				t.Error(err)
				return
			}
			if got, err := os.ReadFile(path); string(got) != "1.2.3" {
				t.Errorf("the binary holds %q, %v", got, err)
			}
		})
	}
	wg.Wait()
	if n := builds.Load(); n != 1 {
		t.Errorf("%d builds, want 1", n)
	}
}

func TestFailedBuildLeavesNothing(t *testing.T) {
	cache := t.TempDir()
	stale := filepath.Join(cache, "build-1.2.3-x")
	writeExecutable(t, filepath.Join(stale, "half"), "")
	failure := errors.New("no compiler")
	_, err := cachedBinary(t.Context(), cache, "1.2.3", func(_ context.Context, _, output string) error {
		writeExecutable(t, output, "half a binary")
		return failure
	})
	if !errors.Is(err, failure) || !strings.Contains(err.Error(), "build Consul 1.2.3") {
		t.Errorf("the error is %v", err)
	}
	entries, err := os.ReadDir(cache)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".lock") {
			t.Errorf("%s still exists", e.Name())
		}
	}
}

func TestWaitForBuildEndsWithContext(t *testing.T) {
	cache := t.TempDir()
	l, err := tryLock(filepath.Join(cache, binaryName("consul-1.2.3")+".lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.unlock()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = cachedBinary(ctx, cache, "1.2.3", func(context.Context, string, string) error {
		return errors.New("built although another process builds")
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
}

// TestToolsModules checks that each module below tools/consul builds the
// version in its name.
func TestToolsModules(t *testing.T) {
	dir, err := toolsDir(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	modules, err := filepath.Glob(filepath.Join(dir, "*", "go.mod"))
	if err != nil || len(modules) == 0 {
		t.Fatalf("modules %v, %v", modules, err)
	}
	versions := map[string]string{filepath.Join(dir, "go.mod"): DefaultVersion}
	for _, m := range modules {
		versions[m] = filepath.Base(filepath.Dir(m))
	}
	for file, version := range versions {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"tool " + consulPackage + "\n", consulPackage + " v" + version + " "} {
			if !bytes.Contains(content, []byte(want)) {
				t.Errorf("%s lacks %q", file, want)
			}
		}
	}
}

func TestParseVersion(t *testing.T) {
	for s, want := range map[string]version{
		"1.8.7": {1, 8}, "v1.22.7": {1, 22}, "1.19.2+ent": {1, 19}, "2.0.0-rc1": {2, 0},
	} {
		if got, err := parseVersion(s); err != nil || got != want {
			t.Errorf("%s is %v, %v, want %v", s, got, err, want)
		}
	}
	for _, v := range []struct {
		v    version
		want bool
	}{{version{1, 13}, false}, {version{1, 14}, true}, {version{2, 0}, true}, {version{0, 20}, false}} {
		if got := v.v.atLeast(1, 14); got != v.want {
			t.Errorf("%v at least 1.14: %t, want %t", v.v, got, v.want)
		}
	}
}
