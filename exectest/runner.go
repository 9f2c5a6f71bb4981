package exectest

import (
	"context"
	"sync"
	"time"

	"github.com/consulexec/consulexec/internal/runner"
)

const (
	// killDelay is the time from SIGTERM to SIGKILL.
	killDelay = 5 * time.Second

	// copyDelay is how long a second copy of a job waits if the command has
	// ended. If the copy was turned away, the first one waits as long at its end.
	copyDelay = time.Second

	// askDelay is how long an ask takes at least. So a copy of it that is turned
	// away mostly reports its end before.
	askDelay = 100 * time.Millisecond

	// endPatience is how long the job that ends a command waits for the runner.
	endPatience = 9 * time.Second

	// guardLife is how long a guard stays after the command's end without
	// recovery.
	guardLife = 50 * time.Second

	// deadLife is how much longer than output a guard stays if its runner was
	// killed. A real one stays until an ask has found that out, or a later run.
	deadLife = 2 * time.Minute

	// The statuses of a command that SIGTERM or SIGKILL has ended.
	terminated = 128 + 15
	killed     = 128 + 9
)

// A guard is what a scripted node knows of a run under the runner, and plays
// the runner's part. A real node has a directory for each run. Server.mu guards
// the fields from real on.
type guard struct {
	agent  *agent // that started the command
	id     string // of the run
	spec   runner.Spec
	cancel context.CancelFunc // ends the Handler's context
	over   chan struct{}      // closed when nothing more comes of the command
	write  sync.Mutex         // held while output is passed on, so that it is kept in the same order

	real    bool            // RunCommand runs it, and the node's shells do the rest
	copied  bool            // a second copy was turned away
	ending  bool            // the command was told to end
	timed   bool            // by the timeout
	note    runner.Note     // how it is over, as an ask says it; empty until then
	status  int             // the same, as an exit status
	passed  int64           // how many bytes of output were passed on
	kept    []byte          // those bytes, with recovery
	asks    map[string]bool // which asks came; true while one is under way
	expires time.Time       // when the node forgets the run, once it is over
	changed signal          // there is more output, or it is over
}

// guard returns the guard of a run, or nil. The caller holds Server.mu.
func (n *node) guard(id string) *guard {
	g := n.guards[id]
	if g == nil || g.real || g.note == "" || time.Now().Before(g.expires) {
		return g
	}
	for _, underWay := range g.asks {
		if underWay {
			return g
		}
	}
	delete(n.guards, id)
	return nil
}

// claim makes the guard of a run. The caller holds Server.mu.
func (a *agent) claim(id string, spec runner.Spec) *guard {
	g := &guard{agent: a, id: id, spec: spec, over: make(chan struct{}), asks: make(map[string]bool), changed: make(signal)}
	a.node.guards[id] = g
	return g
}

// prepare returns what the agent does with a job. It decides that at once, as a
// real node makes the guard by one system call.
func (a *agent) prepare(j *Job) (run func() int) {
	a.srv.mu.Lock()
	defer a.srv.mu.Unlock()
	n := a.node
	ctx := n.ctx
	p, ok := runner.Parse(j.raw)
	g := n.guard(p.ID)
	if p.Role != runner.RoleEnd && p.Role != runner.RoleAsk && g == nil {
		n.executions++
	}
	switch {
	case n.run == nil || g != nil && g.real:
		return func() int { return RunCommand(ctx, j) }
	case !ok:
		return func() int { return n.run(ctx, j) }
	case p.Role == runner.RoleStart && g != nil:
		return g.turnAway
	case p.Role == runner.RoleStart:
		g = a.claim(p.ID, p.Spec)
		ctx, g.cancel = context.WithCancel(ctx)
		j.describe(g)
		return func() int {
			status := g.start(ctx, j)
			if g.wasCopied() {
				sleep(a.srv.ctx, copyDelay)
			}
			return status
		}
	}
	if g == nil {
		g = a.claim(p.ID, runner.Spec{Keep: p.Keep})
		g.finish(runner.NoteNoTrace, 1, g.life())
	}
	if p.Role == runner.RoleEnd {
		return func() int { return g.endBy(ctx) }
	}
	if _, again := g.asks[p.Name]; again {
		return func() int { return runner.TurnedAway }
	}
	g.asks[p.Name] = true
	return func() int { return g.answer(ctx, j, p) }
}

// describe has the job describe the command, not the runner around it.
func (j *Job) describe(g *guard) {
	j.Command, j.Args, j.Script = g.spec.Command, g.spec.Args, g.spec.Script
	j.Env, j.Dir, j.Stdin, j.Timeout = g.spec.Env, g.spec.Dir, g.spec.Stdin, g.spec.Timeout
	j.Output, j.guard = g, g
}

// life returns how long the guard stays after the command's end.
func (g *guard) life() time.Duration {
	if g.spec.Keep > 0 {
		return g.spec.Keep
	}
	return guardLife
}

// start runs the command and returns the status that the runner reports.
func (g *guard) start(ctx context.Context, j *Job) int {
	defer g.cancel()
	if g.spec.Timeout > 0 {
		timer := time.AfterFunc(g.spec.Timeout, func() { g.end(true) })
		defer timer.Stop()
	}
	g.agent.srv.start(func() {
		status := 1
		defer func() { g.exited(status) }()
		status = g.agent.node.run(ctx, j)
	})
	select {
	case <-g.over:
	case <-g.agent.srv.ctx.Done():
	}
	g.write.Lock() // a Write that has begun comes before the note
	defer g.write.Unlock()
	note, status := g.outcome()
	if note == runner.NoteTimedOut || note == runner.NoteEnded && g.spec.Keep > 0 {
		g.agent.Write(note.Text(g.id))
	}
	return status
}

// wasCopied reports whether a second copy of the job was turned away.
func (g *guard) wasCopied() bool {
	g.agent.srv.mu.Lock()
	defer g.agent.srv.mu.Unlock()
	return g.copied
}

// outcome returns how the command is over.
func (g *guard) outcome() (note runner.Note, status int) {
	g.agent.srv.mu.Lock()
	defer g.agent.srv.mu.Unlock()
	return g.note, g.status
}

// exited records what the Handler returned.
func (g *guard) exited(status int) {
	g.agent.srv.mu.Lock()
	defer g.agent.srv.mu.Unlock()
	switch {
	case g.real:
		g.finish("real", status, 0) // with the note of the node's shells
	case g.timed:
		g.finish(runner.NoteTimedOut, runner.TimedOut, g.life())
	case g.ending && status != killed:
		g.finish(runner.NoteEnded, terminated, g.life())
	default:
		g.finish(runner.NoteEnded, status&0xff, g.life())
	}
}

// finish records how the command is over, unless it is already. The caller holds
// Server.mu.
func (g *guard) finish(note runner.Note, status int, life time.Duration) {
	if g.note == "" {
		g.note, g.status, g.expires = note, status, time.Now().Add(life)
		close(g.over)
		g.changed.notify()
	}
}

// end tells the command to end, and cuts it off if it goes on.
func (g *guard) end(timed bool) {
	g.agent.srv.mu.Lock()
	defer g.agent.srv.mu.Unlock()
	if !g.ending && g.note == "" && !g.real {
		g.ending, g.timed = true, timed
		g.cancel()
		time.AfterFunc(killDelay, func() { g.exited(killed) })
	}
}

// die records that the runner was killed. The caller holds Server.mu.
func (g *guard) die() {
	if !g.real {
		g.finish(runner.NoteKilled, 1, g.life()+deadLife)
	}
}

// stepOut leaves the run to the node's shells.
func (g *guard) stepOut() {
	g.agent.srv.mu.Lock()
	defer g.agent.srv.mu.Unlock()
	if !g.ending && g.note == "" {
		g.real = true
		g.changed.notify()
	}
}

// Write takes output of the command.
func (g *guard) Write(p []byte) (int, error) {
	g.write.Lock()
	defer g.write.Unlock()
	g.agent.Write(g.pass(p))
	return len(p), nil
}

// pass returns the part of output that the runner passes on: up to one byte more
// than the limit, to tell.
func (g *guard) pass(output []byte) []byte {
	g.agent.srv.mu.Lock()
	defer g.agent.srv.mu.Unlock()
	switch limit := g.spec.MaxOutput; {
	case g.real:
		return output
	case g.note != "":
		return nil
	case limit != runner.NoLimit:
		output = output[:min(int64(len(output)), limit+1-g.passed)]
	}
	g.passed += int64(len(output))
	if g.spec.Keep > 0 {
		g.kept = append(g.kept, output...)
		g.changed.notify()
	}
	return output
}

// turnAway is what a second copy of the job does.
func (g *guard) turnAway() int {
	g.agent.srv.mu.Lock()
	note, status := g.note, g.status
	g.copied = g.copied || note == ""
	g.agent.srv.mu.Unlock()
	if note != runner.NoteEnded && note != runner.NoteTimedOut {
		return runner.TurnedAway
	}
	if g.spec.Keep == 0 {
		sleep(g.agent.srv.ctx, copyDelay)
	}
	return status
}

// endBy is what the job does that ends the command.
func (g *guard) endBy(ctx context.Context) int {
	g.end(false)
	select {
	case <-g.over:
	case <-ctx.Done():
	}
	if note, _ := g.outcome(); note == runner.NoteKilled {
		sleep(ctx, endPatience)
		return runner.NoAnswer
	}
	return runner.Ended
}

// answer is what a job does that asks.
func (g *guard) answer(ctx context.Context, j *Job, p runner.Parsed) int {
	mu := &g.agent.srv.mu
	defer func() {
		mu.Lock()
		defer mu.Unlock()
		g.asks[p.Name] = false
	}()
	sleep(ctx, askDelay)
	for from := p.From; ; {
		mu.Lock()
		part := g.kept[min(from, int64(len(g.kept))):]
		note, status, real, changed := g.note, g.status, g.real, g.changed
		mu.Unlock()
		if real {
			return RunCommand(ctx, j)
		}
		j.agent.Write(part)
		from += int64(len(part))
		if note != "" {
			j.agent.Write(note.Text(g.id))
			return status
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 1
		}
	}
}
