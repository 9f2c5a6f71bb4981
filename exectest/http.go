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
	// maxValue is Consul's default limit for a value and for the body of a transaction.
	maxValue = 512 * 1024

	// maxTxnOps is how many operations a transaction may have. Newer servers take 128.
	maxTxnOps = 64

	// defaultWait and maxWait are Consul's limits for how long a blocking query waits.
	defaultWait = 300 * time.Second
	maxWait     = 600 * time.Second
)

// A httpError is an answer that is not a 200: a status and a text, or only a status.
type httpError struct {
	status int
	text   string
}

func (e *httpError) Error() string { return e.text }

// A call is a request to the API under way.
type call struct {
	*http.Request
	srv    *Server
	dc     *datacenter
	params url.Values
	header http.Header // of the answer
	id     string      // what the path says behind the endpoint
	body   []byte

	index   uint64 // of a blocking query; 0: it does not block
	wait    time.Duration
	missing bool // see read
}

// An endpoint answers a call with a value to send as JSON, []byte to send as it is, or an error: a *httpError, or any other
// for a 500.
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
	handle("GET", "/v1/health/state/", healthState)
	handle("GET", "/v1/health/service/", healthService)
	handle("GET", "/v1/health/node/", healthNode)
	handle("GET", "/v1/agent/self", agentSelf)
	handle("GET", "/v1/status/leader", statusLeader)
	handle("GET", "/v1/status/peers", statusPeers)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "Invalid URL path: not a recognized HTTP API endpoint", http.StatusNotFound)
	})
	return mux
}

// ServeHTTP answers a request to Consul's HTTP API.
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

// serve answers a request, with the faults that match it. It panics with errRefused or http.ErrAbortHandler where the
// client shall get no answer.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
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

// begin records a request and returns what answers it, false once the cluster is closed.
func (s *Server) begin(r *http.Request, body []byte) (http.Handler, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, false
	}
	s.wg.Add(1)
	query := r.URL.Query()
	s.requests = append(s.requests, Request{
		Time: time.Now(), Method: r.Method, Path: r.URL.Path, Query: query, Datacenter: query.Get("dc"), Body: body,
	})
	return s.withFaults(r, s.mux), true
}

// answer calls the endpoint and sends what it returns.
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
	c.body, _ = io.ReadAll(r.Body) // it is in memory
	if err := c.parseQuery(); err != nil {
		return nil, err
	}
	if c.dc = s.datacenter(c.params.Get("dc")); c.dc == nil {
		return nil, errors.New("No path to datacenter")
	}
	return serve(c)
}

// writeText sends a text, or a status alone.
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
		panic(fmt.Sprintf("exectest: %v", err)) // none of the types here can fail
	}
	return data
}

// parseQuery reads what all reading endpoints take.
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

// read runs a query under the lock, again whenever there is news, until its index passes the one that the client has seen;
// and sets the headers. The query sets c.missing when it looked for one thing and that does not exist: what did not exist
// and still does not is no news, whatever else has changed.
func (c *call) read(news *signal, query func() (index uint64)) {
	index := c.block(news, query)
	c.header.Set("X-Consul-Index", strconv.FormatUint(index, 10))
	c.header.Set("X-Consul-Query-Backend", "blocking-query")
	c.setMeta()
}

func (c *call) setMeta() {
	c.header.Set("X-Consul-Knownleader", "true")
	c.header.Set("X-Consul-Lastcontact", "0")
}

func (c *call) block(news *signal, query func() uint64) uint64 {
	if c.wait <= 0 {
		c.wait = defaultWait
	}
	wait := min(c.wait, maxWait)
	// Consul adds up to a sixteenth, so that queries that began together do not end together.
	timeout := time.NewTimer(wait + wait/16)
	defer timeout.Stop()
	for wasMissing := false; ; wasMissing = c.missing {
		c.srv.mu.Lock()
		index := query()
		changed, abandoned := *news, c.dc.abandoned
		c.srv.mu.Unlock()
		if c.index == 0 || index > c.index && !(wasMissing && c.missing) {
			return index
		}
		select {
		case <-changed:
		case <-abandoned:
			return index
		case <-timeout.C:
			return index
		case <-c.Context().Done():
			return index
		}
	}
}

// write runs an update under the lock, with the index that it shall have, and wakes the blocking queries.
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

// conflict refuses parameters of which more than one is given.
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

// number returns a parameter's value, 0 when it is not given.
func (c *call) number(param string) (uint64, error) {
	if !c.params.Has(param) {
		return 0, nil
	}
	return strconv.ParseUint(c.params.Get(param), 10, 64)
}
