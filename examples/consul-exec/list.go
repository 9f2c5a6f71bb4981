package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/consulexec/consulexec"
)

// list prints the nodes that the job would run on, and returns the exit status
// of the program.
func list(ctx context.Context, e *consulexec.Exec, job *job, screen *screen) int {
	names, err := e.Targets(ctx)
	err = inFlags(err)
	if job.format == "json" {
		jsonFormat{screen: screen}.print(jsonTargets{
			Type: "targets", Time: time.Now().UTC(), Status: job.listStatus(ctx, names, err), Error: text(err), Nodes: append([]string{}, names...),
		})
	} else {
		for _, name := range names {
			screen.out(quote(name) + "\n")
		}
	}
	if job.limit > 0 && job.limit < len(names) {
		screen.err(fmt.Sprintf("-limit: the first %d of these nodes that take the job run the command", job.limit))
	}
	if err != nil {
		screen.err(err.Error())
	}
	return job.listStatus(ctx, names, err)
}

// listStatus returns the exit status for the names that can answer, and for the
// error about others. It is 1 if ctx has ended, as when a write failed.
func (j *job) listStatus(ctx context.Context, names []string, err error) int {
	var absent *consulexec.NodeError
	blind := errors.Is(err, consulexec.ErrPermissionDenied)
	switch {
	case len(names) == 0, context.Cause(ctx) != nil:
		return 1
	case errors.As(err, &absent), blind && !j.blindOK:
		return 3
	}
	return 0
}
