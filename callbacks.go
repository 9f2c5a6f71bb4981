package consulexec

import (
	"errors"
	"slices"
)

// OnTargets calls fn with the names of the nodes that are expected to run the
// command, once, before OnSubmit. They are in the order in which they get the
// job: that of WithNodes, otherwise by name. With WithLimit they are all
// candidates. Names of WithNodes that can't answer are not among them: see
// OnNoResponse. nodes is nil if nobody knows which nodes will answer: see
// Result.DiscoveryErr. fn may keep nodes.
//
// fn is not called if the run ends before that is known, or if no node matches
// and is alive. It can't stop anything: the first event has mostly gone out
// already, so nodes run the command even if a loop is left here. Targets returns
// the names before a run.
//
// Given twice, both functions are called, in the order of the options.
func OnTargets(fn func(nodes []string)) Option {
	return on(EventTargets, "OnTargets", fn == nil, func(e Event) { fn(slices.Clone(e.Nodes)) })
}

// OnSubmit calls fn when the first event is on its way to the nodes, before any
// other callback but OnTargets and OnError. A run that dispatches to no node,
// as enough nodes are down for WithMaxFailures, calls it too.
//
// Given twice, both functions are called, in the order of the options.
func OnSubmit(fn func()) Option {
	return on(EventSubmit, "OnSubmit", fn == nil, func(Event) { fn() })
}

// OnAck calls fn when a node has taken the job and is about to run the command,
// once for each node.
//
// Given twice, both functions are called, in the order of the options.
func OnAck(fn func(node string)) Option {
	return on(EventAck, "OnAck", fn == nil, func(e Event) { fn(e.Node) })
}

// OnOutput calls fn with each piece of a node's output, in order: stdout and
// stderr in one stream. The agent cuts it into pieces of at most 4096 bytes,
// without regard to lines or characters, and sends a piece half a second after
// the last write at the latest. fn may keep output, and must not change it.
//
// Given twice, both functions are called, in the order of the options.
func OnOutput(fn func(node string, output []byte)) Option {
	return on(EventOutput, "OnOutput", fn == nil, func(e Event) { fn(e.Node, e.Output) })
}

// OnLine calls fn with each line of a node's output, in order, empty lines too.
// The line comes without the newline that ends it ("\n" or "\r\n"). How the
// agent cuts the output into pieces makes no difference. A line is delivered
// when its newline has come, after the call of OnOutput with that piece.
//
// What follows the last newline is a line too. It is delivered before OnExit or
// OnLost, or before OnError if the run fails while the node still runs. A line
// of more than MaxLine bytes is delivered in pieces of MaxLine bytes, the last
// one shorter; that may cut a character in two. Bytes that are not UTF-8 stay
// as they are, and so does a "\r" without a "\n" after it.
//
// Given twice, both functions are called, in the order of the options.
func OnLine(fn func(node, line string)) Option {
	return on(eventLine, "OnLine", fn == nil, func(e Event) { fn(e.Node, string(e.Output)) })
}

// OnHeartbeat calls fn when a node reports that the command still runs although
// it has printed nothing for the wait. See WithWait.
//
// Given twice, both functions are called, in the order of the options.
func OnHeartbeat(fn func(node string)) Option {
	return on(EventHeartbeat, "OnHeartbeat", fn == nil, func(e Event) { fn(e.Node) })
}

// OnExit calls fn when the command has ended on a node, after all its output,
// once for each node. See NodeResult.ExitCode for the codes.
//
// An agent reports the exit when nobody holds the command's output any more. So
// a child in the background delays it: "sleep 600 & echo hi" exits after 600 s.
// Redirect the output of such a child, as in "sleep 600 >/dev/null 2>&1 &", or
// bound the command by WithTimeout.
//
// Given twice, both functions are called, in the order of the options.
func OnExit(fn func(node string, code int)) Option {
	return on(EventExit, "OnExit", fn == nil, func(e Event) { fn(e.Node, e.ExitCode) })
}

// OnLost calls fn when a node that ran the command counts as lost. It is the
// last call for that node. err is a *NodeError, which names the node and says why.
//
// Given twice, both functions are called, in the order of the options.
func OnLost(fn func(node string, err error)) Option {
	return on(EventLost, "OnLost", fn == nil, func(e Event) { fn(e.Node, e.Err) })
}

// OnNoResponse calls fn when an expected node has not acknowledged the job
// within the ack timeout. It is the last call for that node, which did not run
// the command and will not. For a name of WithNodes that is not in the
// catalog, or not alive, it is called right after OnSubmit.
//
// Given twice, both functions are called, in the order of the options.
func OnNoResponse(fn func(node string)) Option {
	return on(EventNoResponse, "OnNoResponse", fn == nil, func(e Event) { fn(e.Node) })
}

// OnDone calls fn last, if the run went to its end, whatever the commands'
// statuses are. Session and keys are gone by then.
//
// Given twice, both functions are called, in the order of the options.
func OnDone(fn func()) Option {
	return on(eventDone, "OnDone", fn == nil, func(Event) { fn() })
}

// OnError calls fn last, in place of OnDone, if the run failed. err is the
// error that Wait returns.
//
// Given twice, both functions are called, in the order of the options.
func OnError(fn func(err error)) Option {
	return on(eventError, "OnError", fn == nil, func(e Event) { fn(e.Err) })
}

func on(event EventType, option string, isNil bool, callback listener) Option {
	return func(c *config) error {
		if isNil {
			return badValue(option, nil, errors.New("no function"))
		}
		c.handlers[event] = append(c.handlers[event], callback)
		return nil
	}
}
