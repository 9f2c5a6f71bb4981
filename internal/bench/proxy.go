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

// traffic counts the requests and bytes that passed the proxy.
type traffic struct {
	requests [kinds]atomic.Int64
	wire     atomic.Int64 // bytes sent to the client, headers included
	plain    atomic.Int64 // bytes of the bodies before compression
	listed   atomic.Int64 // the part of plain in lists of keys or values
}

// proxy counts the traffic between a client and the server.
type proxy struct {
	addr string

	// jobs receives the job of each fired event, unless one is still unread.
	jobs chan job

	traffic atomic.Pointer[traffic]
	server  *http.Server
	done    chan struct{} // closed when the server has ended
}

// newProxy starts a proxy for the server at target.
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

// reset returns the counts so far and sets them to zero.
func (p *proxy) reset() *traffic { return p.traffic.Swap(new(traffic)) }

// close ends the proxy and its running requests.
func (p *proxy) close() {
	p.server.Close()
	<-p.done
}

// handler forwards requests unchanged. Responses stay compressed if the client
// asks for compression.
func (p *proxy) handler(target string) http.Handler {
	reverse := &httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: target}) },
		Transport:      &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 100, IdleConnTimeout: 10 * time.Second},
		ModifyResponse: p.inspectResponse,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			if !errors.Is(err, context.Canceled) {
				http.Error(w, err.Error(), http.StatusBadGateway)
			}
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		k := kindOf(r)
		p.traffic.Load().requests[k].Add(1)
		// If the server answered before the whole body was forwarded, net/http
		// would close the connection. So read the body first.
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

// payloadKey is the context key of an event's payload.
type payloadKey struct{}

// inspectResponse counts a response's body. If the request fired an event, it
// sends the event's job to jobs.
func (p *proxy) inspectResponse(response *http.Response) error {
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
		default: // one job is enough
		}
	}
	return nil
}

// countingBody counts the bytes of a body before compression.
type countingBody struct {
	io.ReadCloser
	traffic    *traffic
	compressed bool
	list       bool
	length     int64
	tail       [4]byte // the last bytes; in gzip, the length before compression
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

// countingListener counts the bytes that its connections send to the client.
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
