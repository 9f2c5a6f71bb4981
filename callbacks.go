package consulexec

import "fmt"

// callbacks are the caller's functions, called by the goroutine that runs the
// Exec, one at a time.
type callbacks struct {
	submit     func()
	ack        func(node string)
	output     func(node string, output []byte)
	line       func(node, line string) // nil where nobody wants lines
	heartbeat  func(node string)
	exit       func(node string, code int)
	lost       func(node string, err error)
	noResponse func(node string)
	done       func()
	fail       func(err error)
}

// noCallbacks has a function that does nothing for each that the caller does
// not set.
func noCallbacks() callbacks {
	return callbacks{
		submit:     func() {},
		ack:        func(string) {},
		output:     func(string, []byte) {},
		heartbeat:  func(string) {},
		exit:       func(string, int) {},
		lost:       func(string, error) {},
		noResponse: func(string) {},
		done:       func() {},
		fail:       func(error) {},
	}
}

// by returns callbacks that have call make each call of c's, on whatever goroutine.
func (c callbacks) by(call func(func())) callbacks {
	given := c
	c.submit = func() { call(given.submit) }
	c.ack = func(node string) { call(func() { given.ack(node) }) }
	c.output = func(node string, output []byte) { call(func() { given.output(node, output) }) }
	c.heartbeat = func(node string) { call(func() { given.heartbeat(node) }) }
	c.exit = func(node string, code int) { call(func() { given.exit(node, code) }) }
	c.lost = func(node string, err error) { call(func() { given.lost(node, err) }) }
	c.noResponse = func(node string) { call(func() { given.noResponse(node) }) }
	c.done = func() { call(given.done) }
	c.fail = func(err error) { call(func() { given.fail(err) }) }
	return c
}

// OnSubmit calls fn when the event is on its way to the nodes, or the first of them
// that a rolling run tells, before any other callback but OnError. It is called as
// well where WithMaxFailures leaves nobody to tell, as enough nodes are not alive.
func OnSubmit(fn func()) Option {
	return func(c *config) error { return setCallback(&c.callbacks.submit, "OnSubmit", fn, fn == nil) }
}

// OnAck calls fn when a node has taken the job and is about to run the command,
// once for each node.
func OnAck(fn func(node string)) Option {
	return func(c *config) error { return setCallback(&c.callbacks.ack, "OnAck", fn, fn == nil) }
}

// OnOutput calls fn with each piece of a node's output, in order: stdout and
// stderr in one stream, cut by the agent into pieces of at most 4096 bytes
// without regard for lines or characters, half a second after the last write at
// the latest. fn may keep output.
func OnOutput(fn func(node string, output []byte)) Option {
	return func(c *config) error { return setCallback(&c.callbacks.output, "OnOutput", fn, fn == nil) }
}

// OnHeartbeat calls fn each time a node says that the command still runs, though
// it has printed nothing for the wait.
func OnHeartbeat(fn func(node string)) Option {
	return func(c *config) error { return setCallback(&c.callbacks.heartbeat, "OnHeartbeat", fn, fn == nil) }
}

// OnExit calls fn when the command has ended on a node, after all its output,
// once for each node that ends it. See NodeResult.ExitCode for the codes.
func OnExit(fn func(node string, code int)) Option {
	return func(c *config) error { return setCallback(&c.callbacks.exit, "OnExit", fn, fn == nil) }
}

// OnLost calls fn when a node that ran the command counts as lost; it is the
// last call for that node. err is a *NodeError that says why.
func OnLost(fn func(node string, err error)) Option {
	return func(c *config) error { return setCallback(&c.callbacks.lost, "OnLost", fn, fn == nil) }
}

// OnNoResponse calls fn when an expected node has not acknowledged the job within
// the ack timeout. OnAck may still follow, where others keep the run going. For a
// name of WithNodes that is not in the catalog, or not alive, it is called right
// after OnSubmit.
func OnNoResponse(fn func(node string)) Option {
	return func(c *config) error { return setCallback(&c.callbacks.noResponse, "OnNoResponse", fn, fn == nil) }
}

// OnDone calls fn last, when the run went to its end, whatever the commands'
// statuses. Session and keys are gone by then.
func OnDone(fn func()) Option {
	return func(c *config) error { return setCallback(&c.callbacks.done, "OnDone", fn, fn == nil) }
}

// OnError calls fn last, in place of OnDone, when the run failed. err is the
// error that Wait returns.
func OnError(fn func(err error)) Option {
	return func(c *config) error { return setCallback(&c.callbacks.fail, "OnError", fn, fn == nil) }
}

func setCallback[F any](to *F, option string, fn F, isNil bool) error {
	if isNil {
		return fmt.Errorf("%s(nil): no function", option)
	}
	*to = fn
	return nil
}
