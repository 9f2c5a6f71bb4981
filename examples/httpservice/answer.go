package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// retryAfter is when a client shall try again that was refused for now.
const retryAfter = 10 * time.Second

// A refusal is an error with the status of the answer.
type refusal struct {
	status int
	err    error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// refuse returns a *refusal. The rest is as in fmt.Errorf.
func refuse(status int, format string, args ...any) error {
	return &refusal{status, fmt.Errorf(format, args...)}
}

// option matches an option of the library that has a field in an order, as in
// WithNode("^web-") and WithNodes(2 names).
var option = regexp.MustCompile(`\bWith(Nodes?)\(("(?:[^"\\]|\\.)*"|[^()"]*)\)`)

// describe returns the text of an error of the library. It names the fields of
// an order instead of options: node="^web-" for WithNode("^web-").
func describe(err error) string {
	return option.ReplaceAllStringFunc(err.Error(), func(text string) string {
		match := option.FindStringSubmatch(text)
		return fmt.Sprintf("%s=%s", strings.ToLower(match[1]), match[2])
	})
}

// writeError answers with the status of a *refusal, or else with 500, and the
// text of the error.
func writeError(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	if r := (*refusal)(nil); errors.As(err, &r) {
		status = r.status
	}
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter.Seconds())))
	}
	writeJSON(w, status, map[string]string{"error": describe(err)})
}

// writeJSON answers with a value as JSON.
func writeJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(value)
}
