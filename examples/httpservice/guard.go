package main

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// policy lets the page load its own scripts and style sheet and talk to this
// server, and nothing else. It keeps scripts from turning text into HTML.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"

// guard refuses requests that a foreign web page makes a browser send: a POST
// or DELETE from another origin, and any request for a host that is neither
// loopback nor one of hosts. With DNS rebinding, a foreign page reaches this
// service under its own host name, so that its requests count as same-origin.
func guard(hosts []string, next http.Handler) http.Handler {
	sameOrigin := http.NewCrossOriginProtection()
	sameOrigin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		writeError(w, refuse(http.StatusForbidden, "cross-site requests are refused"))
	}))
	next = sameOrigin.Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", policy)
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Cross-Origin-Resource-Policy", "same-origin")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cache-Control", "no-store")
		if name := hostName(r.Host); !loopback(name) && !slices.Contains(hosts, name) {
			writeError(w, refuse(http.StatusForbidden, "host %q is not this service", r.Host))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// hostName returns the host of a request without its port, in lower case.
func hostName(host string) string {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = strings.Trim(host, "[]") // without a port
	}
	return strings.ToLower(name)
}

// loopback reports whether a host is a loopback address or localhost.
func loopback(name string) bool {
	address, err := netip.ParseAddr(name)
	return name == "localhost" || err == nil && address.IsLoopback()
}
