package exectest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-uuid"
)

const (
	// serfHealth is the ID of the check that Consul keeps for every node with
	// an agent.
	serfHealth = "serfHealth"

	// minTTL and maxTTL are Consul's limits for a session's TTL.
	minTTL = 10 * time.Second
	maxTTL = 24 * time.Hour

	// maxLockDelay is Consul's limit for a session's lock delay.
	maxLockDelay = 60 * time.Second
)

// A session is a session in the HTTP API's JSON form.
type session struct {
	ID            string
	Name          string
	Node          string
	LockDelay     time.Duration
	Behavior      string
	TTL           string
	NodeChecks    []string
	ServiceChecks []string
	CreateIndex   uint64
	ModifyIndex   uint64

	lifetime time.Duration // without a renewal; 0 means for ever
	expires  time.Time
	timer    *time.Timer // nil without a lifetime
}

func newID() string {
	id, err := uuid.GenerateUUID()
	if err != nil {
		panic(fmt.Sprintf("exectest: %v", err)) // the system's random source failed
	}
	return id
}

// createSession validates and stores a session. Its errors have Consul's texts.
func (s *Server) createSession(dc *datacenter, sess *session) error {
	if sess.Node == "" {
		return errors.New("Must provide Node")
	}
	switch sess.Behavior {
	case "":
		sess.Behavior = "release"
	case "release", "delete":
	default:
		return fmt.Errorf("Invalid Behavior setting '%s'", sess.Behavior)
	}
	ttl, err := parseTTL(sess.TTL)
	if err != nil {
		return err
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	n := dc.node(sess.Node)
	if n == nil {
		return errors.New("apply failed: Missing node registration")
	}
	for _, check := range sess.NodeChecks {
		if check != serfHealth || n.external {
			return fmt.Errorf("apply failed: Missing check '%s' registration", check)
		}
		if !n.alive {
			return fmt.Errorf("apply failed: Check '%s' is in critical state", check)
		}
	}
	sess.ID = newID()
	dc.sessionIndex = dc.next()
	sess.CreateIndex, sess.ModifyIndex = dc.sessionIndex, dc.sessionIndex
	sess.lifetime = 2 * ttl // Consul guarantees the TTL and may take twice as long
	if sess.lifetime > 0 && !s.closed {
		sess.expires = time.Now().Add(sess.lifetime)
		sess.timer = time.AfterFunc(sess.lifetime, func() { s.expireSession(dc, sess.ID) })
	}
	dc.sessions[sess.ID] = sess
	dc.changed.notify()
	return nil
}

func parseTTL(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	ttl, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("Session TTL '%s' invalid: %v", text, err)
	}
	if ttl != 0 && (ttl < minTTL || ttl > maxTTL) {
		return 0, fmt.Errorf("Invalid Session TTL '%d', must be between [%v=%v]", ttl, minTTL, maxTTL)
	}
	return ttl, nil
}

// expireSession ends a session whose timer fired, unless a renewal came at the
// same moment.
func (s *Server) expireSession(dc *datacenter, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sess := dc.sessions[id]; sess != nil && !time.Now().Before(sess.expires) {
		dc.destroySession(id)
	}
}

// renewSession restarts the session's TTL. It returns nil if there is no such
// session.
func (dc *datacenter) renewSession(id string) *session {
	sess := dc.sessions[id]
	if sess != nil && sess.timer != nil {
		sess.expires = time.Now().Add(sess.lifetime)
		sess.timer.Reset(sess.lifetime)
	}
	return sess
}

// destroySession ends a session and deletes or releases its keys at once.
func (dc *datacenter) destroySession(id string) {
	sess := dc.sessions[id]
	if sess == nil {
		return
	}
	if sess.timer != nil {
		sess.timer.Stop()
	}
	delete(dc.sessions, id)
	index := dc.next()
	dc.sessionIndex = index
	entries, _ := dc.kv.list("")
	for _, e := range entries {
		if e.Session != id {
			continue
		}
		if sess.Behavior == "delete" {
			dc.kv.delete(e.Key, index)
		} else {
			released := *e
			released.Session = ""
			dc.kv.set(released, index)
		}
		if delay := min(sess.LockDelay, maxLockDelay); delay > 0 {
			dc.lockDelay[e.Key] = time.Now().Add(delay)
		}
	}
	dc.changed.notify()
}

// sessionList returns the node's sessions sorted by ID. An empty name means all
// nodes.
func (dc *datacenter) sessionList(node string) []*session {
	list := []*session{}
	for _, sess := range dc.sessions {
		if node == "" || sess.Node == node {
			list = append(list, sess)
		}
	}
	slices.SortFunc(list, func(a, b *session) int { return strings.Compare(a.ID, b.ID) })
	return list
}

func (dc *datacenter) stopTimers() {
	for _, sess := range dc.sessions {
		if sess.timer != nil {
			sess.timer.Stop()
		}
	}
}

func sessionCreate(c *call) (any, error) {
	// By default a session binds to the agent's own node and its serfHealth
	// check.
	body := struct {
		Name, Node, Behavior, TTL string
		LockDelay                 any
		Checks, NodeChecks        []string
	}{Node: c.srv.self.name, Checks: []string{serfHealth}, NodeChecks: []string{serfHealth}}
	if len(c.body) > 0 {
		if err := json.Unmarshal(c.body, &body); err != nil {
			return nil, &httpError{http.StatusBadRequest, fmt.Sprintf("Request decode failed: %v", err)}
		}
	}
	delay, err := parseLockDelay(body.LockDelay)
	if err != nil {
		return nil, &httpError{http.StatusBadRequest, fmt.Sprintf("Request decode failed: %v", err)}
	}
	sess := &session{
		Name: body.Name, Node: body.Node, Behavior: body.Behavior, TTL: body.TTL,
		LockDelay: delay, NodeChecks: sessionChecks(body.Checks, body.NodeChecks),
	}
	if err := c.srv.createSession(c.dc, sess); err != nil {
		return nil, err
	}
	return map[string]string{"ID": sess.ID}, nil
}

// sessionChecks merges the two request fields for a session's checks, Checks
// and the newer NodeChecks. If either is empty, the session has no checks.
// Checks counts only if it differs from the default.
func sessionChecks(checks, nodeChecks []string) []string {
	switch {
	case len(checks) == 0 || len(nodeChecks) == 0:
		return []string{}
	case slices.Equal(checks, []string{serfHealth}):
		return nodeChecks
	default:
		return append(checks, nodeChecks...)
	}
}

// parseLockDelay parses a duration: a string, or a number of nanoseconds. A
// number below 1000 means seconds. The default is 15 s.
func parseLockDelay(value any) (time.Duration, error) {
	var delay time.Duration
	switch v := value.(type) {
	case nil:
		return 15 * time.Second, nil
	case string:
		var err error
		if delay, err = time.ParseDuration(v); err != nil {
			return 0, err
		}
	case float64:
		delay = time.Duration(v)
	}
	if delay < 1000 {
		delay *= time.Second
	}
	return delay, nil
}

func sessionDestroy(c *call) (any, error) {
	if err := c.needID("session"); err != nil {
		return nil, err
	}
	c.srv.mu.Lock()
	defer c.srv.mu.Unlock()
	c.dc.destroySession(c.id)
	return true, nil
}

func sessionRenew(c *call) (any, error) {
	if err := c.needID("session"); err != nil {
		return nil, err
	}
	c.srv.mu.Lock()
	defer c.srv.mu.Unlock()
	sess := c.dc.renewSession(c.id)
	if sess == nil {
		return nil, &httpError{http.StatusNotFound, fmt.Sprintf("Session id '%s' not found", c.id)}
	}
	return []*session{sess}, nil
}

func sessionInfo(c *call) (any, error) {
	if err := c.needID("session"); err != nil {
		return nil, err
	}
	list := []*session{}
	c.read(&c.dc.changed, func() uint64 {
		list = list[:0]
		sess := c.dc.sessions[c.id]
		if c.missing = sess == nil; !c.missing {
			list = append(list, sess)
		}
		return max(c.dc.sessionIndex, 1)
	})
	return list, nil
}

func sessionList(c *call) (any, error) {
	node := ""
	if c.URL.Path != "/v1/session/list" {
		if err := c.needID("node name"); err != nil {
			return nil, err
		}
		node = c.id
	}
	var list []*session
	c.read(&c.dc.changed, func() uint64 {
		list = c.dc.sessionList(node)
		return max(c.dc.sessionIndex, 1)
	})
	return list, nil
}
