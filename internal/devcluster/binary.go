package devcluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
)

// DefaultVersion is the Consul version that Binary builds if none is requested
// or installed.
const DefaultVersion = "1.22.7"

// module is the path of this package's module.
const module = "github.com/consulexec/consulexec"

// consulPackage is Consul's main package.
const consulPackage = "github.com/hashicorp/consul"

// Binary returns the absolute path of a Consul binary, from the first source
// that applies:
//
//   - $CONSUL_BINARY, a path or a name on the PATH
//   - $CONSUL_VERSION, such as "1.8.7", built from its module below tools/consul
//   - "consul" on the PATH
//   - [DefaultVersion], built
//
// A built binary is cached in os.UserCacheDir, below consulexec. A build takes
// some minutes; a line on standard error says so. Processes that need the same
// binary wait for one build. When ctx ends, Binary stops waiting or building
// and returns its cause.
func Binary(ctx context.Context) (string, error) {
	if path := os.Getenv("CONSUL_BINARY"); path != "" {
		path, err := exec.LookPath(path)
		if err != nil {
			return "", fmt.Errorf("CONSUL_BINARY: %w", err)
		}
		return filepath.Abs(path) // each agent runs in its own directory
	}
	version := strings.TrimPrefix(os.Getenv("CONSUL_VERSION"), "v")
	if version == "" {
		if path, err := exec.LookPath("consul"); err == nil {
			return filepath.Abs(path)
		}
		version = DefaultVersion
	}
	if _, err := parseVersion(version); err != nil {
		return "", fmt.Errorf("CONSUL_VERSION: %w", err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache directory for a Consul binary, set CONSUL_BINARY: %w", err)
	}
	return cachedBinary(ctx, filepath.Join(cache, "consulexec"), version, buildConsul)
}

// cachedBinary returns the path of the version's binary in the cache directory.
// It calls build if the binary is missing.
func cachedBinary(ctx context.Context, cache, version string, build func(ctx context.Context, version, output string) error) (string, error) {
	name := "consul-" + version
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	path := filepath.Join(cache, name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}

	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	l, err := lock(ctx, path+".lock", func() {
		fmt.Fprintf(os.Stderr, "devcluster: another process is building Consul %s, waiting for it\n", version)
	})
	if err != nil {
		return "", fmt.Errorf("wait for the build of Consul %s: %w", version, err)
	}
	defer l.unlock()
	if _, err := os.Stat(path); err == nil {
		return path, nil // another process built it meanwhile
	}

	// Only the lock's holder builds, so an existing build directory belongs to
	// a dead process.
	prefix := "build-" + version + "-"
	if stale, err := filepath.Glob(filepath.Join(cache, prefix+"*")); err == nil {
		for _, dir := range stale {
			os.RemoveAll(dir)
		}
	}
	dir, err := os.MkdirTemp(cache, prefix)
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	output := filepath.Join(dir, name)
	if err := build(ctx, version, output); err != nil {
		return "", fmt.Errorf("build Consul %s: %w", version, err)
	}
	return path, os.Rename(output, path)
}

func buildConsul(ctx context.Context, version, output string) error {
	source, err := toolsDir(ctx)
	if err != nil {
		return err
	}
	if version != DefaultVersion {
		source = filepath.Join(source, version)
	}
	if _, err := os.Stat(filepath.Join(source, "go.mod")); err != nil {
		return fmt.Errorf("no module builds this version: %w", err)
	}
	fmt.Fprintf(os.Stderr, "devcluster: building Consul %s once, which takes up to 4 minutes on 2 cores\n", version)

	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", output, consulPackage)
	cmd.Dir = source
	cmd.Env = append(os.Environ(), buildEnv()...)
	var log bytes.Buffer
	cmd.Stdout = &log
	cmd.Stderr = &log
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("go build in %s: %w\n%s", source, err, &log)
	}
	return nil
}

// buildEnv returns variables that keep the settings of the current build, such
// as a test's, out of Consul's.
func buildEnv() []string {
	env := []string{
		"CGO_ENABLED=0",
		"GOOS=" + runtime.GOOS,
		"GOARCH=" + runtime.GOARCH,
		"GOFLAGS=-mod=readonly",
		"GOWORK=off",
	}
	// GOTOOLCHAIN may name a Go release for this library's tests that is too
	// old for Consul.
	if strings.HasPrefix(os.Getenv("GOTOOLCHAIN"), "go") {
		env = append(env, "GOTOOLCHAIN=auto")
	}
	return env
}

// toolsDir returns the path of tools/consul. It looks beside this package's
// source and then asks the go command for the module's directory.
func toolsDir(ctx context.Context) (string, error) {
	if _, file, _, ok := runtime.Caller(0); ok { // with -trimpath, file is not a path on disk
		if dir, ok := toolsIn(filepath.Join(filepath.Dir(file), "..", "..")); ok {
			return dir, nil
		}
	}
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err == nil {
		if dir, ok := toolsIn(strings.TrimSpace(string(out))); ok {
			return dir, nil
		}
	}
	return "", errors.New("no source of " + module + " found to build Consul from: " +
		"install Consul, or set CONSUL_BINARY to one, or run from a checkout")
}

func toolsIn(root string) (dir string, ok bool) {
	dir = filepath.Join(root, "tools", "consul")
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return dir, filepath.IsAbs(root) && err == nil
}

// version is the part of a Consul version that affects the configuration.
type version struct{ major, minor int }

func (v version) atLeast(major, minor int) bool {
	return v.major > major || v.major == major && v.minor >= minor
}

var versionRegexp = regexp.MustCompile(`^v?(\d+)\.(\d+)\.\d+`)

func parseVersion(s string) (version, error) {
	m := versionRegexp.FindStringSubmatch(s)
	if m == nil || strings.ContainsAny(s, `/\`) {
		return version{}, fmt.Errorf("%q is not a version such as %s", s, DefaultVersion)
	}
	major, _ := strconv.Atoi(m[1])
	minor, _ := strconv.Atoi(m[2])
	return version{major, minor}, nil
}

// versions caches the results of binaryVersion by path.
var versions sync.Map

// binaryVersion runs the binary to get its version.
func binaryVersion(ctx context.Context, path string) (version, error) {
	if v, ok := versions.Load(path); ok {
		return v.(version), nil
	}
	out, err := exec.CommandContext(ctx, path, "version").Output()
	if err != nil {
		return version{}, fmt.Errorf("%s version: %w", path, err)
	}
	line, _, _ := strings.Cut(string(out), "\n") // "Consul v1.22.7"
	text, ok := strings.CutPrefix(line, "Consul ")
	if !ok {
		return version{}, fmt.Errorf("%s version: output %q is not Consul's", path, line)
	}
	v, err := parseVersion(strings.TrimSpace(text))
	if err != nil {
		return version{}, fmt.Errorf("%s version: %w", path, err)
	}
	versions.Store(path, v)
	return v, nil
}
