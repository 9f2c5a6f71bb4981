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

	// ErrUnavailable is in the error of a request that Consul did not serve,
	// for a reason that a retry may mend.
	ErrUnavailable = errors.New("unavailable")
)

// unavailable marks an error as ErrUnavailable. The text of the error says it
// already.
type unavailable struct{ error }

func (e unavailable) Unwrap() error        { return e.error }
func (e unavailable) Is(target error) bool { return target == ErrUnavailable }

// HasStatus reports whether Consul answered a request with this HTTP status.
func HasStatus(err error, code int) bool {
	var status api.StatusError
	return errors.As(err, &status) && status.Code == code
}

// IsTransient reports whether a request that failed may succeed when it is
// repeated: Consul was not reached, did not answer, is overloaded, has no
// leader, or does not know a fresh token yet.
func IsTransient(err error) bool {
	var status api.StatusError
	switch {
	case saysUnknownToken(err):
		return true
	case errors.Is(err, ErrPermissionDenied), errors.Is(err, ErrSessionLost), isUntrusted(err):
		return false
	case !errors.As(err, &status):
		return true // the connection: refused, reset, cut short, silent
	case status.Code == http.StatusTooManyRequests:
		return true
	case status.Code == http.StatusNotFound:
		return true // a gateway's, while it reloads: these endpoints exist in Consul
	case status.Code < 500:
		return false
	}
	// Consul answers 500 to these too, although the request is at fault.
	return !containsAny(status.Body,
		"exceeds", // the event is too large for gossip
		"Invalid node filter",
		"Invalid service filter",
		"Invalid tag filter",
		filterRefused,
		"cross datacenter lock must be created at server agent",
		"invalid key name",
	)
}

// isUntrusted reports whether Consul was not reached as its certificate is not
// trusted.
func isUntrusted(err error) bool {
	var certificate *tls.CertificateVerificationError
	return errors.As(err, &certificate)
}

// saysTooMuch reports whether Consul refused a request for now: as it grants the
// client no further connection, or as a rate limit is reached.
func saysTooMuch(err error) bool { return saysFull(err) || saysRateLimited(err) }

// saysFull reports whether Consul grants the client no further connection.
func saysFull(err error) bool {
	var status api.StatusError
	return errors.As(err, &status) && strings.Contains(status.Body, "too many concurrent connections") // of http_max_conns_per_client
}

// saysRateLimited reports whether Consul's rate limit is reached.
func saysRateLimited(err error) bool {
	var status api.StatusError
	return errors.As(err, &status) && strings.Contains(status.Body, "rate limit exceeded")
}

// isReset reports whether an established connection broke. Of one on which an
// answer came before the request had been made, net/http says so by a text only.
func isReset(err error) bool {
	var broken *net.OpError
	if errors.As(err, &broken) {
		return (broken.Op == "read" || broken.Op == "write") && !broken.Timeout()
	}
	var request *url.Error
	return errors.As(err, &request) && containsAny(request.Err.Error(), "readLoopPeekFailLocked", "server closed idle connection")
}

// notSent marks the error of a request that was not made.
type notSent struct{ error }

func (e notSent) Unwrap() error { return e.error }

// NotSent reports whether a request that failed certainly had no effect, so
// that even a request that must not happen twice may be repeated.
func NotSent(err error) bool {
	if errors.As(err, new(notSent)) {
		return true
	}
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return true
	}
	// No other text is proof. An agent that loses its server tries again, and
	// "No cluster leader" or a 429 may be the answer to the second try, after the
	// first had its effect.
	return saysFull(err) && IsTransient(err)
}

// WasRefused reports whether Consul answered that it did nothing. That is true
// of an agent's only try, as each write is. An event is tried again by an agent
// that loses its server, and then it is the answer to the second try.
func WasRefused(err error) bool {
	return saysRateLimited(err) || saysUnknownToken(err)
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

// saysUnknownToken reports whether Consul refused a request because it does not
// know the token. A server that follows may not know a fresh token for some
// seconds.
func saysUnknownToken(err error) bool {
	var status api.StatusError
	return errors.As(err, &status) && strings.Contains(status.Body, "ACL not found")
}

// SaysNoSession reports whether Consul refused a renewal because there is no
// such session. A 404 without these words is a gateway's.
func SaysNoSession(err error) bool {
	return HasStatus(err, http.StatusNotFound) && strings.Contains(err.Error(), "Session id")
}

// saysInvalidSession reports whether Consul refused a write because its session
// is gone.
func saysInvalidSession(err error) bool {
	var status api.StatusError
	return errors.As(err, &status) && strings.Contains(status.Body, "invalid session")
}

// filterRefused is how Consul begins to say that a filter expression is none.
const filterRefused = "Failed to create boolean expression evaluator: "

// RefusedFilter reports whether Consul refused a list because of its filter
// expression, and why.
func RefusedFilter(err error) (reason string, refused bool) {
	var status api.StatusError
	if !errors.As(err, &status) {
		return "", false
	}
	_, reason, refused = strings.Cut(status.Body, filterRefused)
	return strings.TrimSpace(reason), refused
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

// CheckAnswer returns an error if the answer to a query means nothing: it is
// not Consul's, or it is empty because the servers have no leader.
func CheckAnswer(meta *api.QueryMeta, empty bool) error {
	switch {
	case meta.LastIndex == 0:
		return errors.New("the answer has no index, so it is not Consul's")
	case empty && !meta.KnownLeader:
		return errors.New("the answer is empty, and the servers have no leader")
	}
	return nil
}
