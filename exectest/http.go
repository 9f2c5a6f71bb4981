package exectest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// maxValue is Consul's default limit for a value and for a transaction's
	// body, in bytes.
	maxValue = 512 * 1024

	// maxTxnOps is the limit for a transaction's operations in Consul up to
	// 1.12. Newer servers take 128.
	maxTxnOps = 64

	// defaultWait and maxWait are Consul's default and maximum wait of a
	// blocking query.
	defaultWait = 300 * time.Second
	maxWait     = 600 * time.Second
)

// An httpError is an answer with a status other than 200. The text may be
// empty.
type httpError struct {
	status int
	text   string
}

func (e *httpError) Error() string { return e.text }

// A call is one request to the HTTP API.
type call struct {
	*http.Request
	srv    *Server
	dc     *datacenter
	params url.Values
	header http.Header // of the answer
	id     string      // the rest of the path after the endpoint
	body   []byte

	index   uint64 // of a blocking query; 0 means no blocking
	wait    time.Duration
	missing bool // see read
}

// An endpoint answers a call. It returns a value to send as JSON, a []byte to
// send unchanged, or an error: a *httpError, or any other error for a 500.
type endpoint func(*call) (any, error)

func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	handle := func(methods, pattern string, serve endpoint) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			s.answer(w, r, strings.Split(methods, ","), strings.TrimPrefix(r.URL.Path, pattern), serve)
		})
	}
	handle("PUT", "/v1/session/create", sessionCreate)
	handle("PUT", "/v1/session/destroy/", sessionDestroy)
	handle("PUT", "/v1/session/renew/", sessionRenew)
	handle("GET", "/v1/session/info/", sessionInfo)
	handle("GET", "/v1/session/list", sessionList)
	handle("GET", "/v1/session/node/", sessionList)
	handle("GET,PUT,DELETE", "/v1/kv/", kv)
	handle("PUT", "/v1/txn", txn)
	handle("PUT", "/v1/event/fire/", eventFire)
	handle("GET", "/v1/catalog/datacenters", catalogDatacenters)
	handle("GET", "/v1/catalog/nodes", catalogNodes)
	handle("GET", "/v1/catalog/services", catalogServices)
	handle("GET", "/v1/catalog/service/", catalogService)
	handle("GET", "/v1/catalog/node-services/", catalogNodeServices)
	handle("GET", "/v1/coordinate/datacenters", coordinateDatacenters)
	handle("GET", "/v1/health/state/", healthState)
	handle("GET", "/v1/health/service/", healthService)
	handle("GET", "/v1/health/node/", healthNode)
	handle("GET", "/v1/internal/ui/nodes", uiNodes)
	handle("GET", "/v1/agent/self", agentSelf)
	handle("GET", "/v1/status/leader", statusLeader)
	handle("GET", "/v1/status/peers", statusPeers)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "Invalid URL path: not a recognized HTTP API endpoint", http.StatusNotFound)
	})
	return mux
}

// ServeHTTP answers a request to Consul's HTTP API. It panics with
// http.ErrAbortHandler if the client gets no answer: a [Fault] lost it, the
// client gave up, or the cluster is closed.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer func() {
		if p := recover(); p == errRefused {
			panic(http.ErrAbortHandler)
		} else if p != nil {
			panic(p)
		}
	}()
	s.serve(w, r)
}

// serve answers a request through the matching faults. It panics with
// errRefused or http.ErrAbortHandler if the client gets no answer.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.mustBeInPlace()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	r = r.WithContext(ctx)
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))

	handler, ok := s.begin(r, body)
	if !ok {
		panic(errRefused)
	}
	defer s.wg.Done()
	handler.ServeHTTP(w, r)
}

// begin records a request and returns its handler. It returns false if the
// cluster is closed.
func (s *Server) begin(r *http.Request, body []byte) (http.Handler, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, false
	}
	s.wg.Add(1)
	query := r.URL.Query()
	s.requests = append(s.requests, Request{
		Time: time.Now(), Method: r.Method, Path: r.URL.Path, Query: query, Datacenter: query.Get("dc"), Token: r.Header.Get("X-Consul-Token"), Body: body,
	})
	return s.withFaults(r, s.mux), true
}

// answer calls the endpoint and sends its result.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, methods []string, id string, serve endpoint) {
	header := w.Header()
	header.Set("X-Consul-Default-Acl-Policy", "allow")
	value, err := s.call(header, r, methods, id, serve)
	if r.Context().Err() != nil {
		panic(http.ErrAbortHandler) // the client gave up, or the cluster is closed
	}
	if err != nil {
		status := http.StatusInternalServerError
		if e := (*httpError)(nil); errors.As(err, &e) {
			status = e.status
		}
		writeText(w, status, err.Error())
		return
	}
	data, raw := value.([]byte)
	if !raw {
		header.Set("Content-Type", "application/json")
		data = marshal(value)
	}
	header.Set("Content-Length", strconv.Itoa(len(data)))
	w.Write(data)
}

func (s *Server) call(header http.Header, r *http.Request, methods []string, id string, serve endpoint) (any, error) {
	if !slices.Contains(methods, r.Method) {
		header.Set("Allow", "OPTIONS,"+strings.Join(methods, ","))
		return nil, &httpError{http.StatusMethodNotAllowed, "method " + r.Method + " not allowed"}
	}
	c := &call{Request: r, srv: s, params: r.URL.Query(), header: header, id: id}
	c.body, _ = io.ReadAll(r.Body) // cannot fail: serve holds the body in memory
	if err := c.parseQuery(); err != nil {
		return nil, err
	}
	if c.dc = s.datacenter(c.params.Get("dc")); c.dc == nil {
		return nil, errors.New("No path to datacenter")
	}
	return serve(c)
}

// writeText sends a status and a text, which may be empty.
func writeText(w http.ResponseWriter, status int, text string) {
	if text != "" && w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	io.WriteString(w, text)
}

func marshal(value any) []byte {
	data, err := json.Marshal(value)
	if err != nil {
		panic(fmt.Sprintf("exectest: %v", err)) // every type in this package can be marshaled
	}
	return data
}

// parseQuery reads the parameters of every reading endpoint.
func (c *call) parseQuery() error {
	bad := func(text string) error { return &httpError{http.StatusBadRequest, text} }
	var err error
	if text := c.params.Get("index"); text != "" {
		if c.index, err = strconv.ParseUint(text, 10, 64); err != nil {
			return bad("Invalid index")
		}
	}
	if text := c.params.Get("wait"); text != "" {
		if c.wait, err = time.ParseDuration(text); err != nil {
			return bad("Invalid wait time")
		}
	}
	if c.params.Has("stale") && c.params.Has("consistent") {
		return bad("Cannot specify ?stale with ?consistent, conflicting semantics.")
	}
	return nil
}

// read runs a query under the lock and sets the headers. A blocking query runs
// again after each signal until its index passes the client's. The query sets
// c.missing if its one item does not exist. An item that is still missing does
// not end the wait, whatever else changed.
func (c *call) read(changed *signal, query func() (index uint64)) {
	index := c.block(changed, query)
	c.header.Set("X-Consul-Index", strconv.FormatUint(index, 10))
	c.header.Set("X-Consul-Query-Backend", "blocking-query")
	c.setMeta()
}

func (c *call) setMeta() {
	c.header.Set("X-Consul-Knownleader", "true")
	c.header.Set("X-Consul-Lastcontact", "0")
}

func (c *call) block(changed *signal, query func() uint64) uint64 {
	if c.wait <= 0 {
		c.wait = defaultWait
	}
	wait := min(c.wait, maxWait)
	// Consul adds a random part of up to a sixteenth, to spread queries that
	// began together.
	timeout := time.NewTimer(wait + wait/16)
	defer timeout.Stop()
	for wasMissing := false; ; wasMissing = c.missing {
		c.srv.mu.Lock()
		index := query()
		wake, abandoned := *changed, c.dc.abandoned
		c.srv.mu.Unlock()
		if c.index == 0 || index > c.index && !(wasMissing && c.missing) {
			return index
		}
		select {
		case <-wake:
		case <-abandoned:
			return index
		case <-timeout.C:
			return index
		case <-c.Context().Done():
			return index
		}
	}
}

// write runs an update with the next index under the lock and wakes the
// blocking queries.
func (c *call) write(update func(index uint64)) {
	c.srv.mu.Lock()
	defer c.srv.mu.Unlock()
	update(c.dc.next())
	c.dc.changed.notify()
}

func (c *call) needID(what string) error {
	if c.id == "" {
		return &httpError{http.StatusBadRequest, "Missing " + what}
	}
	return nil
}

// conflict returns an error if the call has more than one of the parameters.
func (c *call) conflict(params ...string) error {
	given := 0
	for _, param := range params {
		if c.params.Has(param) {
			given++
		}
	}
	if given > 1 {
		return &httpError{http.StatusBadRequest, fmt.Sprintf("Conflicting flags: %s\n", c.params.Encode())}
	}
	return nil
}

// number returns a parameter's value, or 0 without the parameter.
func (c *call) number(param string) (uint64, error) {
	if !c.params.Has(param) {
		return 0, nil
	}
	return strconv.ParseUint(c.params.Get(param), 10, 64)
}
