// Picture makes docs/run.svg, the recording in README: a real run of
// examples/consul-exec, in a shell in a pseudo-terminal, on a real Consul cluster
// of six nodes on this machine. Make it again with
//
//	go -C tools/picture run .
//
// which takes some 30 seconds once Consul is built (internal/devcluster builds it,
// see there), and needs Go, sh and gzip: a Unix. Look at the picture before it is
// committed.
//
// The nodes check their backups. The one of db-3 is cut short, so that its command
// fails, and db-5 does not allow remote exec, as Consul's agents don't by default.
// Nothing else is arranged: record.go keeps what the terminal showed and when, and
// svg.go draws that.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/internal/devcluster"
)

const (
	columns, rows = 80, 20

	// The program in the picture is that of this directory, seen from root.
	program = "examples/consul-exec"

	title = "consul-exec checks the backups of five nodes of a real Consul cluster"
)

// typed is what is entered into the shell, line by line.
var typed = []string{
	"consul-exec -service postgres 'gzip -t backup.sql.gz && printf intact'",
	"echo $?",
}

var nodes = []devcluster.Node{
	{Name: "web-1", Server: true},
	{Name: "db-1", Services: postgres},
	{Name: "db-2", Services: postgres},
	{Name: "db-3", Services: postgres},
	{Name: "db-4", Services: postgres},
	{Name: "db-5", Services: postgres, ExecDisabled: true},
}

var postgres = []devcluster.Service{{Name: "postgres"}}

// backups are the sizes of the nodes' backups, unpacked, in MiB: 200 or so are a
// second's work.
var backups = map[string]int{"db-1": 120, "db-2": 280, "db-3": 450, "db-4": 600}

// damaged is the node whose backup is cut short.
const damaged = "db-3"

func main() {
	output := flag.String("o", "../../docs/run.svg", "the `file` to write")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := picture(ctx, "../..", *output)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// picture writes the picture to output. Root is the directory of the repository.
func picture(ctx context.Context, root, output string) (err error) {
	work, err := os.MkdirTemp("", "consulexec-picture-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)

	cluster, err := devcluster.New(ctx, devcluster.Config{Nodes: nodes})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()
	for node, size := range backups {
		if err := place(ctx, cluster, work, node, size); err != nil {
			return fmt.Errorf("the backup of %s: %w", node, err)
		}
	}

	bin := filepath.Join(work, "bin")
	build := exec.CommandContext(ctx, "go", "build", "-o", bin+string(filepath.Separator), ".")
	build.Dir = filepath.Join(root, program)
	if log, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("go build in %s: %w\n%s", build.Dir, err, log)
	}

	frames, err := record(ctx, shell(bin, work, "CONSUL_HTTP_ADDR="+cluster.Address("web-1")), columns, rows, typed)
	if err != nil {
		return err
	}
	return os.WriteFile(output, draw(frames, title), 0o644)
}

// place gives the node its backup, in the directory in which its agent runs
// commands.
func place(ctx context.Context, cluster *devcluster.Cluster, work, node string, size int) error {
	path := filepath.Join(work, node+".sql.gz")
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	err = writeBackup(ctx, file, size, node == damaged)
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	e, err := consulexec.New("",
		consulexec.WithArgs("mv", path, "backup.sql.gz"),
		consulexec.WithClient(cluster.Client("web-1")),
		consulexec.WithNodes(node))
	if err != nil {
		return err
	}
	result, err := e.Run(ctx)
	if err != nil {
		return err
	}
	return result.Err()
}

// writeBackup writes what gzip makes of size MiB of zeros, or of a little less
// without its end.
func writeBackup(ctx context.Context, w io.Writer, size int, damaged bool) error {
	gzip := exec.CommandContext(ctx, "gzip", "-c")
	gzip.Stdin = io.LimitReader(zeros{}, int64(size)<<20)
	packed, err := gzip.Output()
	if err != nil {
		return fmt.Errorf("gzip: %w", err)
	}
	if damaged {
		packed = packed[:len(packed)-100]
	}
	_, err = w.Write(packed)
	return err
}

// zeros has no end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// shell is a plain shell that finds the programs in bin and knows nothing of who
// runs it.
func shell(bin, home string, env ...string) *exec.Cmd {
	sh := exec.Command("sh")
	sh.Dir = home
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if name != "NO_COLOR" && name != "ENV" && !strings.HasPrefix(name, "CONSUL_") {
			sh.Env = append(sh.Env, variable)
		}
	}
	sh.Env = append(sh.Env,
		"PATH="+bin+string(filepath.ListSeparator)+os.Getenv("PATH"),
		"HOME="+home, "TERM=xterm-256color", "PS1="+prompt,
		"BASH_SILENCE_DEPRECATION_WARNING=1") // macOS's sh says that zsh is better
	sh.Env = append(sh.Env, env...)
	return sh
}
