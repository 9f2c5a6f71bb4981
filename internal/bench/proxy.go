package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
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

// kindNames are the table's words for the kinds.
var kindNames = [kinds]string{"list keys", "list values", "read values", "session", "event", "catalog", "other"}

// kindOf classifies a request. A transaction counts as a read: clients make no
// others.
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

// traffic is what has passed the proxy.
type traffic struct {
	requests [kinds]atomic.Int64
	wire     atomic.Int64 // bytes to the client, with the headers
	plain    atomic.Int64 // bytes of the bodies among them, before compression
	listed   atomic.Int64 // bytes of plain that are lists of keys or of values
}

// proxy stands between a client and the server and counts.
type proxy struct {
	addr string

	// jobs has the job of each event that went out.
	jobs chan job

	traffic atomic.Pointer[traffic]
	server  *http.Server
	done    chan struct{} // closed when the server has ended
}

// newProxy starts a proxy in front of the server at target.
func newProxy(target string) (*proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{addr: listener.Addr().String(), jobs: make(chan job, 1), done: make(chan struct{})}
	p.reset()
	p.server = &http.Server{Handler: p.handler(target), ErrorLog: log.New(io.Discard, "", 0)}
	go func() {
		defer close(p.done)
		p.server.Serve(countingListener{listener, p})
	}()
	return p, nil
}

// reset starts to count from zero, and returns the counts so far.
func (p *proxy) reset() *traffic { return p.traffic.Swap(new(traffic)) }

// close ends the proxy and what passes through it.
func (p *proxy) close() {
	p.server.Close()
	<-p.done
}

// handler passes requests on as they are, compressed where the client asks for
// that.
func (p *proxy) handler(target string) http.Handler {
	reverse := &httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: target}) },
		Transport:      &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 100, IdleConnTimeout: 10 * time.Second},
		ModifyResponse: p.answered,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			if !errors.Is(err, context.Canceled) {
				http.Error(w, err.Error(), http.StatusBadGateway)
			}
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		k := kindOf(r)
		p.traffic.Load().requests[k].Add(1)
		// Passed on while it comes, a body could still be read when the server
		// has answered: then net/http cuts the connection.
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		if k == events {
			r = r.WithContext(context.WithValue(r.Context(), payloadKey{}, body))
		}
		reverse.ServeHTTP(w, r)
	})
}

// payloadKey is where a request's context has the payload of an event.
type payloadKey struct{}

// answered counts a response's body, and tells of the job when its event went
// out.
func (p *proxy) answered(response *http.Response) error {
	k := kindOf(response.Request)
	response.Body = &countingBody{
		ReadCloser: response.Body,
		traffic:    p.traffic.Load(),
		compressed: response.Header.Get("Content-Encoding") == "gzip",
		list:       k == listKeys || k == listValues,
	}
	payload, isEvent := response.Request.Context().Value(payloadKey{}).([]byte)
	if !isEvent || response.StatusCode != http.StatusOK {
		return nil
	}
	var j job
	if json.Unmarshal(payload, &j) == nil {
		select {
		case p.jobs <- j:
		default: // nobody waits for a second one
		}
	}
	return nil
}

// countingBody counts a body as it was before compression.
type countingBody struct {
	io.ReadCloser
	traffic    *traffic
	compressed bool
	list       bool
	length     int64
	tail       [4]byte // the last bytes: where compressed, the length before
}

func (b *countingBody) Read(to []byte) (int, error) {
	n, err := b.ReadCloser.Read(to)
	b.length += int64(n)
	kept := append(b.tail[:], to[max(0, n-4):n]...)
	copy(b.tail[:], kept[len(kept)-4:])
	if err == io.EOF {
		if b.compressed && b.length >= 4 {
			b.length = int64(binary.LittleEndian.Uint32(b.tail[:]))
		}
		b.traffic.plain.Add(b.length)
		if b.list {
			b.traffic.listed.Add(b.length)
		}
	}
	return n, err
}

// countingListener counts what its connections send to the client.
type countingListener struct {
	net.Listener
	proxy *proxy
}

func (l countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return countingConn{conn, l.proxy}, err
}

type countingConn struct {
	net.Conn
	proxy *proxy
}

func (c countingConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.proxy.traffic.Load().wire.Add(int64(n))
	return n, err
}
