package accidents

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const (
	// nodeEnv is the agents' environment variable with their node's name.
	nodeEnv = "NODE"

	// exitCode is the status of a Command.
	exitCode = 7

	// lines is how many lines a Command prints.
	lines = 20
)

// A Command prints a line twice a second for ten seconds, and exits with 7. It
// leaves a mark each time that it is started.
type Command struct {
	Text string // for the shell
	Want string // what it prints

	dir string
}

// NewCommand returns a Command that keeps files in an empty directory. If it
// restarts its agent, it asks for that by a file, as by systemctl, and waits.
func NewCommand(dir string, restarts bool) *Command {
	c := &Command{dir: dir}
	for i := range lines {
		c.Want += fmt.Sprintf("line %d\n", i)
	}
	restart := ":"
	if restarts {
		restart = `[ $i != 5 ] || { r="$d/restart-$` + nodeEnv + `"; : >"$r"; while [ -e "$r" ]; do sleep 0.2; done; }`
	}
	quoted := "'" + strings.ReplaceAll(dir, "'", `'\''`) + "'"
	c.Text = fmt.Sprintf(`d=%s; echo x >>"$d/marks"; i=0; while [ $i -lt %d ]; do echo line $i; i=$((i+1)); %s; sleep 0.5; done; exit %d`,
		quoted, lines, restart, exitCode)
	return c
}

// request returns the file by which a node's command asks for a restart.
func (c *Command) request(node string) string { return filepath.Join(c.dir, "restart-"+node) }

// Whole reports whether this is all that the command prints, and its status.
func (c *Command) Whole(output string, code int) bool {
	return output == c.Want && code == exitCode
}

// Started returns how often the command was started.
func (c *Command) Started() (int, error) {
	marks, err := os.ReadFile(filepath.Join(c.dir, "marks"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	return strings.Count(string(marks), "x"), err
}

// asking returns the nodes whose commands ask for a restart of their agents.
func (c *Command) asking() ([]string, error) {
	files, err := filepath.Glob(c.request("*"))
	var nodes []string
	for _, file := range files {
		nodes = append(nodes, strings.TrimPrefix(filepath.Base(file), "restart-"))
	}
	return nodes, err
}

// restarted tells a node's command that its agent was restarted.
func (c *Command) restarted(node string) error { return os.Remove(c.request(node)) }
