package consulexec_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
)

// statusOf returns the HTTP status that tells a service's caller what became of
// a run. Many callers repeat a request after 503. So that status is only for a
// run that was not submitted, which no node ran.
func statusOf(submitted bool, err error) int {
	var node *consulexec.NodeError
	switch {
	case err == nil:
		return http.StatusOK
	case errors.Is(err, consulexec.ErrBadOption), errors.Is(err, consulexec.ErrNoCommand):
		return http.StatusBadRequest
	case errors.Is(err, consulexec.ErrNoTargets):
		return http.StatusNotFound
	case errors.Is(err, consulexec.ErrPermissionDenied):
		return http.StatusForbidden
	case errors.Is(err, consulexec.ErrUnavailable) && !submitted:
		return http.StatusServiceUnavailable
	case errors.Is(err, consulexec.ErrTimedOut), errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout
	case errors.As(err, &node):
		return http.StatusBadGateway // the command failed on a node, or the node did not answer
	}
	return http.StatusInternalServerError
}

// Result.Err has all that went wrong, and Result.Submitted says whether a node
// may have run the command. Together they decide what a service answers.
func ExampleResult_Err() {
	srv := exectest.NewServer(
		exectest.Node("web-1", exectest.Run(exectest.Answer("", 0))),
		exectest.Node("web-2", exectest.Run(exectest.Answer("", 3))),
	)
	defer srv.Close()

	answer := func(command string, options ...consulexec.Option) {
		e, err := consulexec.New(command, append(options, consulexec.WithClient(srv.Client()))...)
		submitted := false
		if err == nil {
			result, _ := e.Run(context.Background()) // the error is in result.Err, too
			submitted, err = result.Submitted, result.Err()
		}
		fmt.Println(statusOf(submitted, err), err)
	}
	answer("upgrade", consulexec.WithNode("^web-1$"))
	answer("upgrade", consulexec.WithNode("("))
	answer("upgrade", consulexec.WithNode("^db-"))
	answer("upgrade")
	srv.Fault(exectest.Fault{Match: exectest.Path("PUT", "/v1/session/create"), Do: exectest.Denied})
	answer("upgrade")
	// Output:
	// 200 <nil>
	// 400 consulexec: WithNode("("): error parsing regexp: missing closing ): `(`
	// 404 consulexec: no matching node is alive (WithNode("^db-"))
	// 502 node web-2: exit status 3
	// 403 consulexec: create session: permission denied: needs session:write on the agent's node: Unexpected response code: 403 (Permission denied)
}
