package main

import (
	"errors"
	"net/http"

	"github.com/consulexec/consulexec"
)

// start starts a run.
func (s *server) start(w http.ResponseWriter, req *http.Request) {
	id, err := s.begin(w, req)
	if err != nil {
		writeError(w, err)
		return
	}
	w.Header().Set("Location", "/runs/"+id)
	writeJSON(w, http.StatusCreated, map[string]string{"id": id, "events": "/runs/" + id + "/events"})
}

// begin starts the run of a request, unless its Idempotency-Key has started one.
// It returns the ID.
func (s *server) begin(w http.ResponseWriter, req *http.Request) (string, error) {
	o, err := readOrder(w, req)
	if err != nil {
		return "", err
	}
	e, err := o.exec(s.client)
	if err != nil {
		return "", err
	}
	key, err := readKey(req)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	id, err := s.startedLocked(key, o)
	s.mu.Unlock()
	if id != "" || err != nil {
		return id, err
	}
	if err := checkConsul(req.Context(), s.client); err != nil {
		return "", refuse(http.StatusServiceUnavailable, "no usable Consul agent: %w", err)
	}
	return s.add(newRun(e, o, userOf(req)), key)
}

// find returns the run that the path names. If there is none, it answers the
// request and returns nil.
func (s *server) find(w http.ResponseWriter, req *http.Request) *run {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.runs[req.PathValue("id")]
	if r == nil {
		writeError(w, refuse(http.StatusNotFound, "there is no such run, or it ended too long ago"))
	}
	return r
}

// stop ends a run. It answers when the session, keys and commands are gone.
func (s *server) stop(w http.ResponseWriter, req *http.Request) {
	r := s.find(w, req)
	if r == nil {
		return
	}
	r.cancel()
	select {
	case <-r.done:
	case <-req.Context().Done():
		return
	}
	if left := (*consulexec.NodeError)(nil); errors.As(r.err, &left) {
		writeError(w, r.err) // the command may still run on that node
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// targets says on which nodes an order would run now, and runs nothing.
func (s *server) targets(w http.ResponseWriter, req *http.Request) {
	o, err := readOrder(w, req)
	if err != nil {
		writeError(w, err)
		return
	}
	e, err := o.exec(s.client)
	if err != nil {
		writeError(w, err)
		return
	}
	answer := struct {
		Nodes []string `json:"nodes"`           // those that can answer
		Error string   `json:"error,omitempty"` // why others can't, or why nobody knows
	}{Nodes: []string{}}
	names, err := e.Targets(req.Context())
	if names == nil && errors.Is(err, consulexec.ErrUnavailable) {
		writeError(w, refuse(http.StatusServiceUnavailable, "no usable Consul agent: %w", err))
		return
	}
	answer.Nodes = append(answer.Nodes, names...)
	if err != nil {
		answer.Error = describe(err)
	}
	writeJSON(w, http.StatusOK, answer)
}
