package main

import (
	"context"
	"net/http"
)

// An authenticator says who sends a request. It is where you add mutual TLS,
// OpenID Connect or the header of a proxy; tokens is an example. Until a service
// has one, it listens on loopback only and answers to names of loopback only.
//
// To let some users do less than others, look at userOf in the handlers, or
// return an error here.
type authenticator interface {
	// authenticate returns the name of the user who sends the request, or an
	// error if this is nobody who may. Requests call it at the same time.
	authenticate(*http.Request) (user string, err error)

	// challenge is the WWW-Authenticate header of a refusal.
	challenge() string
}

type userKey struct{}

// userOf returns the name of the user who sends a request, or "" if the service
// has no authentication.
func userOf(req *http.Request) string {
	user, _ := req.Context().Value(userKey{}).(string)
	return user
}

// authenticated lets only users through. With nil for auth it lets everybody
// through.
func authenticated(auth authenticator, next http.Handler) http.Handler {
	if auth == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		user, err := auth.authenticate(req)
		if err != nil {
			w.Header().Set("WWW-Authenticate", auth.challenge())
			writeError(w, refuse(http.StatusUnauthorized, "%w", err))
			return
		}
		next.ServeHTTP(w, req.WithContext(context.WithValue(req.Context(), userKey{}, user)))
	})
}
