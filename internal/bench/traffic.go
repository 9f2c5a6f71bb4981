package main

import (
	"net"
	"net/http"
	"strings"
	"sync/atomic"
)

// A kind is a class of requests.
type kind int

const (
	listKeys kind = iota
	listValues
	readValues
	sessions
	events
	catalogs
	others
	kinds
)

// kindNames are the column names of the kinds.
var kindNames = [kinds]string{"list keys", "list values", "read values", "session", "event", "catalog", "other"}

// kindOf classifies a request. Every transaction counts as a read, whatever its
// verbs.
func kindOf(r *http.Request) kind {
	query := r.URL.Query()
	path, _ := strings.CutPrefix(r.URL.Path, "/v1/")
	service, _, _ := strings.Cut(path, "/")
	switch {
	case service == "kv" && r.Method == http.MethodGet && query.Has("keys"):
		return listKeys
	case service == "kv" && r.Method == http.MethodGet && query.Has("recurse"):
		return listValues
	case service == "kv" && r.Method == http.MethodGet, service == "txn":
		return readValues
	case service == "session":
		return sessions
	case service == "event":
		return events
	case service == "catalog", service == "health", service == "agent":
		return catalogs
	}
	return others
}

// traffic counts the requests and bytes that passed a proxy or relay.
type traffic struct {
	requests [kinds]atomic.Int64
	wire     atomic.Int64 // bytes sent to the client, headers included
	plain    atomic.Int64 // bytes of the bodies before compression
	listed   atomic.Int64 // the part of plain in lists of keys or values
}

// A meter counts traffic. It counts once reset was called.
type meter struct{ current atomic.Pointer[traffic] }

// counts returns the counts since the last reset, which go on.
func (m *meter) counts() *traffic { return m.current.Load() }

// reset returns the counts so far and sets them to zero.
func (m *meter) reset() *traffic { return m.current.Swap(new(traffic)) }

// countingListener counts the bytes that its connections send to the client.
type countingListener struct {
	net.Listener
	meter *meter
}

func (l countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return countingConn{conn, l.meter}, err
}

type countingConn struct {
	net.Conn
	meter *meter
}

func (c countingConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.meter.counts().wire.Add(int64(n))
	return n, err
}
