package consul

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/hashicorp/consul/api"
)

var (
	// ErrPermissionDenied is in the error of a request that Consul refused
	// because the token lacks a permission.
	ErrPermissionDenied = errors.New("permission denied")

	// ErrSessionLost is in the error of a request whose session is gone.
	ErrSessionLost = errors.New("session lost")
)

// HasStatus reports whether Consul answered a request with this HTTP status.
func HasStatus(err error, code int) bool {
	var status api.StatusError
	return errors.As(err, &status) && status.Code == code
}

// IsTransient reports whether a request that failed may succeed when it is
// repeated: Consul was not reached, did not answer, is overloaded, or has no
// leader.
func IsTransient(err error) bool {
	var status api.StatusError
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.Is(err, ErrPermissionDenied), errors.Is(err, ErrSessionLost), errors.As(err, &certificate):
		return false
	case !errors.As(err, &status):
		return true // the connection: refused, reset, cut short, silent
	case status.Code == http.StatusTooManyRequests:
		return true
	case status.Code < 500:
		return false
	}
	// Consul answers 500 to these too, although the request is at fault.
	return !containsAny(status.Body,
		"exceeds", // the event is too large for gossip
		"cross datacenter lock must be created at server agent",
		"invalid key name",
	)
}

// NotSent reports whether a request that failed certainly had no effect, so
// that even a request that must not happen twice may be repeated.
func NotSent(err error) bool {
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return true
	}
	var status api.StatusError
	if !errors.As(err, &status) || !IsTransient(err) {
		return false
	}
	if status.Code == http.StatusTooManyRequests {
		return true
	}
	// An agent answers these if it found no server for the request.
	return containsAny(status.Body,
		"No cluster leader",
		"No known Consul servers",
		"No path to datacenter",
		"rpc error getting client",
	)
}

// isDenied reports whether Consul refused a request for want of a permission. A
// refusal that comes by way of another server is a 500 with the text.
func isDenied(err error) bool {
	var status api.StatusError
	if !errors.As(err, &status) {
		return false
	}
	return status.Code == http.StatusForbidden ||
		status.Code == http.StatusUnauthorized ||
		containsAny(status.Body, "Permission denied", "ACL not found")
}

// saysInvalidSession reports whether Consul refused a write because its session
// is gone.
func saysInvalidSession(err error) bool {
	var status api.StatusError
	return errors.As(err, &status) && strings.Contains(status.Body, "invalid session")
}

func containsAny(text string, parts ...string) bool {
	for _, part := range parts {
		if strings.Contains(text, part) {
			return true
		}
	}
	return false
}

// withReason replaces the error of a request that was cut short by the reason.
// It keeps the request's address.
func withReason(err, reason error) error {
	var at *url.Error
	if errors.As(err, &at) {
		return &url.Error{Op: at.Op, URL: at.URL, Err: reason}
	}
	return reason
}
