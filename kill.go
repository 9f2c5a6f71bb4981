package consulexec

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/consulexec/consulexec/internal/runner"
)

// killTimeout bounds the run that ends commands, from its first event on and from
// its last: gossip takes 0.2 s, a command has 5 s to end by itself, and the killer
// gives up 9 s after its start.
const killTimeout = 15 * time.Second

// kill ends the run's commands and returns err. If some may still run, the error
// says so; if err is nil, as after a panic, only the log does.
func (r *run) kill(err error) error {
	running := r.endCommands()
	if running == nil {
		return err
	}
	r.stillRunning = fmt.Errorf("commands may still run: %w", running)
	if err == nil {
		r.log.Warn("commands may still run", "error", running)
		return nil
	}
	return fmt.Errorf("%w; %w", err, r.stillRunning)
}

// endCommands ends the run's commands on the nodes on which they may still run,
// and waits for that. The session has to be gone before, so that no agent can
// begin the job any more. The error names each node that acknowledged the job
// and has not confirmed that its command has ended. It is also not nil if no
// node could be reached.
func (r *run) endCommands() error {
	acked, unacked := r.state.mayRun()
	names := slices.Concat(acked, unacked)
	if !r.state.sent() || r.state.known && len(names) == 0 {
		return nil // the job was dispatched to nobody
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.caller))
	defer cancel()
	result, err := r.runKiller(ctx, cancel, names)
	var errs []error
	switch {
	case ctx.Err() != nil:
		errs = append(errs, errors.New("the time to end them was too short"))
	case err != nil && !errors.Is(err, ErrNoTargets): // which names each node
		// Not wrapped, as it is not the run's own error, and without its prefix.
		errs = append(errs, fmt.Errorf("end them: %s", strings.TrimPrefix(err.Error(), "consulexec: ")))
	}
	for _, name := range acked {
		n := r.state.nodes[name]
		if reason := notEnded(result, name); reason != nil {
			n.reason = also(n.reason, reason)
			n.Err = r.state.failure(name)
			errs = append(errs, n.Err)
		} else if n.State == StateRunning {
			killed, _ := result.Node(name)
			n.State, n.Exited = StateKilled, killed.Exited
		}
	}
	return errors.Join(errs...)
}

// runKiller runs the killer on the nodes with these names. If the expected nodes
// are not known, it addresses the nodes by the run's own filter. It calls tooLate
// when the time is over.
func (r *run) runKiller(ctx context.Context, tooLate func(), names []string) (*Result, error) {
	options := []Option{WithArgs(runner.End(r.id).Args...), withConnection(r.connection), WithPrefix(r.prefix), WithLogger(r.logger)}
	if r.datacenter != "" {
		options = append(options, WithDatacenter(r.datacenter))
	}
	if r.token != "" {
		options = append(options, WithToken(r.token))
	}
	// It says of the others that they do not confirm the end.
	names = slices.DeleteFunc(names, func(name string) bool { return !r.dispatcher.fits(longestDispatch, nameFilter([]string{name})) })
	if r.state.known && len(names) == 0 {
		return nil, nil
	}
	if r.state.known {
		options = append(options, WithNodes(names...))
	} else {
		options = append(options, WithoutDiscovery(), WithMinNodes(len(r.state.nodes)), func(c *config) error {
			c.filter = r.filter
			return nil
		})
	}
	// No time passes while events wait for their turn, however many runs have
	// commands to end.
	timer := time.AfterFunc(killTimeout, tooLate)
	defer timer.Stop()
	options = append(options, func(c *config) error {
		c.kills = true
		c.onTurn = func(waits bool) {
			if timer.Stop(); !waits {
				timer.Reset(killTimeout)
			}
		}
		return nil
	})
	e, err := New("", options...)
	if err != nil {
		return nil, err
	}
	r.log.Debug("ending commands", "nodes", len(names), "by", e.id)
	return e.Run(ctx)
}

// notEnded returns why a node's command may still run, or nil if it has ended.
func notEnded(killed *Result, name string) error {
	if killed == nil {
		return errors.New("the killer was not dispatched to it")
	}
	n, _ := killed.Node(name)
	switch {
	case n.State != StateExited:
		return errors.New("does not confirm that the command has ended")
	case n.ExitCode == runner.Survives:
		return errors.New("processes of the command go on")
	case n.ExitCode == runner.Unseen:
		return errors.New("a process that can't be found holds the command's output")
	case n.ExitCode == runner.NoAnswer:
		return errors.New("the shell program that runs the command does not answer")
	case n.ExitCode != runner.Ended:
		return fmt.Errorf("does not confirm that the command has ended: the killer exited with status %d", n.ExitCode)
	}
	return nil
}
