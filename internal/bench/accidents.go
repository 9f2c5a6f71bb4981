package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/internal/accidents"
	"github.com/consulexec/consulexec/internal/devcluster"
)

// unluckyLimit bounds a run that has an accident. `consul exec` may wait for
// ever.
const unluckyLimit = 3 * time.Minute

// unluckyClient is a client whose runs have accidents.
type unluckyClient struct {
	name string // of the figure
	flag string // its name in -clients

	// run runs the victim's command, and returns how many nodes are reported
	// whole, and what went wrong.
	run func(ctx context.Context, a accidents.Accident, v *accidents.Victim) (whole int, err error)
}

var unluckyClients = []unluckyClient{
	{"whole without recovery", ownClient, runWithoutRecovery},
	{"with WithRecovery", ownClient, runWithRecovery},
	{"with `consul exec`", consulExec, runConsulExec},
}

func newAccidentTable() *table {
	t := &table{labels: []string{"accident"}}
	for _, c := range unluckyClients {
		t.figures = append(t.figures, c.name)
	}
	return t
}

// measureAccidents has each accident happen to runs of each client. Each group
// of accidents has a cluster, and all groups take place at once.
func measureAccidents(ctx context.Context, w work, o options) ([]row, error) {
	rows := make([][]row, len(accidents.Groups))
	errs := make([]error, len(accidents.Groups))
	var measuring sync.WaitGroup
	for i, group := range accidents.Groups {
		measuring.Go(func() { rows[i], errs[i] = measureGroup(ctx, w, group, o) })
	}
	measuring.Wait()
	return slices.Concat(rows...), errors.Join(errs...)
}

// measureGroup returns a row for each accident of a group.
func measureGroup(ctx context.Context, w work, group accidents.Group, o options) (rows []row, err error) {
	dir, err := os.MkdirTemp("", "consulexec-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	cluster, err := devcluster.New(ctx, devcluster.Config{Nodes: accidents.Nodes(dir)})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()
	for _, a := range group.Accidents {
		row := row{labels: []string{a.Name}}
		for _, client := range unluckyClients {
			if !slices.Contains(o.clientsOf(w), client.flag) {
				row.figures = append(row.figures, "")
				continue
			}
			u := unlucky{accident: a, client: client, cluster: cluster, dir: dir}
			if err := u.measure(ctx, o.runs); err != nil {
				return rows, fmt.Errorf("%s: %s: %w", a.Name, client.name, err)
			}
			row.figures = append(row.figures, fmt.Sprintf("%d of %d", u.whole, u.ran))
			row.problems = append(row.problems, u.problems...)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// unlucky is one accident that happens to runs of one client. It counts nodes.
type unlucky struct {
	accident accidents.Accident
	client   unluckyClient
	cluster  *devcluster.Cluster
	dir      string // for files

	whole, ran int
	problems   []string
}

// measure makes that many runs. In the first one the accident happens a second
// after the command has started, in the others at random while it runs.
func (u *unlucky) measure(ctx context.Context, runs int) error {
	for i := range runs {
		after := time.Second
		if i > 0 {
			after = rand.N(9 * time.Second)
		}
		if err := u.run(ctx, after); err != nil {
			return err
		}
	}
	return nil
}

// run has the accident happen to a run, some time after the command has started.
// If it does not happen as it should, the run does not count.
func (u *unlucky) run(ctx context.Context, after time.Duration) error {
	dir, err := os.MkdirTemp(u.dir, "command-")
	if err != nil {
		return err
	}
	proxy, err := accidents.NewProxy(u.cluster.Address("client-1"))
	if err != nil {
		return err
	}
	defer proxy.Close()
	v := &accidents.Victim{Cluster: u.cluster, Proxy: proxy, Command: accidents.NewCommand(dir, u.accident.Restarts)}

	running, end := context.WithTimeout(ctx, unluckyLimit)
	defer end()
	happened := make(chan error, 1)
	go func() { happened <- u.accident.Happen(running, v, after) }()
	begun := time.Now()
	whole, runErr := u.client.run(running, u.accident, v)
	took := time.Since(begun)
	end()
	accidentErr := <-happened
	started, err := v.Command.Started()
	if err := errors.Join(err, context.Cause(ctx)); err != nil {
		return err
	}
	nodes := len(u.cluster.Nodes())
	ran := min(started, nodes)
	fmt.Fprintf(os.Stderr, "%s, %v after the start, %s: %d of %d after %v%s\n",
		u.accident.Name, after.Round(100*time.Millisecond), u.client.name, whole, ran, took.Round(time.Second), inOneLine(runErr))
	if started > nodes {
		u.problem("%d nodes started the command %d times", nodes, started)
	}
	if accidentErr != nil {
		u.problem("a run does not count: %v", accidentErr)
		return nil
	}
	u.whole += whole
	u.ran += ran
	return nil
}

// inOneLine returns the text of an error for the end of a line.
func inOneLine(err error) string {
	if err == nil {
		return ""
	}
	return ": " + strings.ReplaceAll(err.Error(), "\n", "; ")
}

func (u *unlucky) problem(format string, args ...any) {
	u.problems = append(u.problems, u.client.name+": "+fmt.Sprintf(format, args...))
}

func runWithoutRecovery(ctx context.Context, _ accidents.Accident, v *accidents.Victim) (whole int, err error) {
	return runUnlucky(ctx, v)
}

func runWithRecovery(ctx context.Context, a accidents.Accident, v *accidents.Victim) (whole int, err error) {
	return runUnlucky(ctx, v, consulexec.WithRecovery(a.Patience))
}

// runUnlucky runs the victim's command with consulexec.
func runUnlucky(ctx context.Context, v *accidents.Victim, more ...consulexec.Option) (whole int, err error) {
	e, err := consulexec.New(v.Command.Text, append(more,
		consulexec.WithConfig(&api.Config{Address: v.Proxy.Address()}),
		consulexec.WithCapture(2*len(v.Command.Want)))...)
	if err != nil {
		return 0, err
	}
	result, err := e.Run(ctx)
	errs := []error{err}
	for _, n := range result.Nodes {
		if n.State == consulexec.StateExited && v.Command.Whole(string(n.Output), n.ExitCode) {
			whole++
		} else {
			errs = append(errs, n.Err)
		}
	}
	return whole, errors.Join(errs...)
}

// runConsulExec runs the victim's command with `consul exec`. A node is whole if
// all of its output was printed, in order, and its status, before or after.
func runConsulExec(ctx context.Context, _ accidents.Accident, v *accidents.Victim) (whole int, err error) {
	binary, err := devcluster.Binary(ctx)
	if err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, binary, "exec", v.Command.Text)
	cmd.Env = append(os.Environ(), api.HTTPAddrEnvName+"="+v.Proxy.Address())
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	output, status := make(map[string]string), make(map[string]string)
	scanConsulExec(stdout, func(node, line string) {
		output[node] += line + "\n"
	}, func(node, code string) {
		status[node] = code
	})
	err = cmd.Wait()
	for node, code := range status {
		if n, err := strconv.Atoi(code); err == nil && v.Command.Whole(output[node], n) {
			whole++
		}
	}
	return whole, err
}
