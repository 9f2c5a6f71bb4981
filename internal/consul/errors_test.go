package consul

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"
)

// TestClassify checks which failures a retry may mend, and which requests
// certainly had no effect.
func TestClassify(t *testing.T) {
	status := func(code int, body string) error { return api.StatusError{Code: code, Body: body} }
	for _, test := range []struct {
		err                error
		transient, notSent bool
	}{
		{&net.OpError{Op: "dial", Err: errors.New("connection refused")}, true, true},
		{&net.OpError{Op: "read", Err: errors.New("connection reset")}, true, false},
		{io.ErrUnexpectedEOF, true, false},
		{status(429, "Your IP is issuing too many concurrent connections"), true, true},
		{status(500, "No cluster leader"), true, false},
		{status(429, "slow down"), true, false},
		{status(500, "rpc error making call: EOF"), true, false},
		{status(500, "rate limit exceeded, try again later or against a different server"), true, false},
		{status(503, "<html>reloading</html>"), true, false},
		{status(404, "<html>404 page not found</html>"), true, false},
		{status(403, "Permission denied"), false, false},
		{status(403, "ACL not found"), true, false},
		{status(500, "rpc error making call: ACL not found"), true, false},
		{status(400, "Bad request"), false, false},
		{status(500, "user event exceeds configured limit of 512 bytes"), false, false},
		{status(500, "Invalid node filter: missing closing )"), false, false},
		{ErrSessionLost, false, false},
	} {
		if transient, notSent := IsTransient(test.err), NotSent(test.err); transient != test.transient || notSent != test.notSent {
			t.Errorf("%v: transient %v, not sent %v; want %v, %v", test.err, transient, notSent, test.transient, test.notSent)
		}
	}
}

// TestUnknownToken has Consul not know the token. No permission would help, so
// the error asks for none.
func TestUnknownToken(t *testing.T) {
	op := Operation{Doing: "list nodes", Need: "node:read"}
	err := new(Client).Try(t.Context(), op, func(context.Context) error { return api.StatusError{Code: 403, Body: "ACL not found"} })
	if !errors.Is(err, ErrPermissionDenied) || !strings.Contains(err.Error(), "does not know the token") || strings.Contains(err.Error(), op.Need) {
		t.Errorf("error %v", err)
	}
}
