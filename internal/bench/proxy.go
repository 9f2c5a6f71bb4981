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
	"time"
)

// proxy counts the traffic between a client and the server.
type proxy struct {
	addr string

	// jobs receives the job of each fired event, unless one is still unread.
	jobs chan job

	meter  meter
	server *http.Server
	done   chan struct{} // closed when the server has ended
}

// newProxy starts a proxy for the server at target.
func newProxy(target string) (*proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{addr: listener.Addr().String(), jobs: make(chan job, 1), done: make(chan struct{})}
	p.meter.reset()
	p.server = &http.Server{Handler: p.handler(target), ErrorLog: log.New(io.Discard, "", 0)}
	go func() {
		defer close(p.done)
		p.server.Serve(countingListener{listener, &p.meter})
	}()
	return p, nil
}

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
		p.meter.counts().requests[k].Add(1)
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
		traffic:    p.meter.counts(),
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
