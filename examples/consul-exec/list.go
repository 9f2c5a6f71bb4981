package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/consulexec/consulexec"
)

// list prints the nodes that the job would run on, and returns the exit status
// of the program.
func list(ctx context.Context, e *consulexec.Exec, job *job, screen *screen) int {
	names, err := e.Targets(ctx)
	for _, name := range names {
		screen.out(quote(name) + "\n")
	}
	if job.limit > 0 && job.limit < len(names) {
		screen.err(fmt.Sprintf("-limit: the first %d of these nodes that take the job run the command", job.limit))
	}
	if err != nil {
		screen.err(err.Error())
	}
	var absent *consulexec.NodeError
	blind := errors.Is(err, consulexec.ErrPermissionDenied)
	switch {
	case len(names) == 0, context.Cause(ctx) != nil:
		return 1
	case errors.As(err, &absent), blind && !job.blindOK:
		return 3
	}
	return 0
}
