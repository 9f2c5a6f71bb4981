// Picture makes docs/run.svg, the recording in README. It records a real run of
// examples/consul-exec in a shell in a pseudo-terminal. The run uses a real
// Consul cluster of six nodes on this machine. Make the picture again with
//
//	go -C tools/picture run .
//
// It takes some 30 seconds when Consul is built; package internal/devcluster
// builds it. It needs Unix with Go, sh and gzip. Look at the picture before you
// commit it.
//
// The nodes check their backups. The backup of db-3 is truncated, so its
// command fails. Node db-5 has remote exec disabled, as Consul agents have by
// default. Nothing else is staged: record.go records the terminal, and draw.go
// draws the recording.
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

	// program is the directory of the program in the picture, relative to the
	// repository's root.
	program = "examples/consul-exec"

	title = "consul-exec checks the backups of five nodes of a real Consul cluster"
)

// typed holds the lines typed into the shell.
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

// backups holds the uncompressed sizes of the nodes' backups in MiB. The
// command checks about 200 MiB a second.
var backups = map[string]int{"db-1": 120, "db-2": 280, "db-3": 450, "db-4": 600}

// damaged is the node with the truncated backup.
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

// picture writes the picture to output. root is the repository's directory.
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
			return fmt.Errorf("place the backup of %s: %w", node, err)
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

// place puts a node's backup into the directory in which its agent runs
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

// writeBackup writes size MiB of zeros, compressed by gzip. A damaged backup
// lacks the last 100 bytes.
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

// zeros is an endless reader of zero bytes.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// shell returns a plain shell that finds the programs in bin. Its environment
// has no settings of the user that could change the picture.
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
		"BASH_SILENCE_DEPRECATION_WARNING=1") // keeps macOS's sh from advertising zsh
	sh.Env = append(sh.Env, env...)
	return sh
}
