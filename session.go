package consulexec

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec/internal/consul"
)

const (
	// renewInterval leaves room for two renewals that fail.
	renewInterval = consul.SessionTTL / 3

	// createGrace is how long a request that creates a session goes on after
	// the context has ended. If it is cut short, the run has to search for the
	// session that it may have left behind.
	createGrace = time.Second

	// orphanPause is the pause between such searches.
	orphanPause = 250 * time.Millisecond

	// fencesTTLs is how many times the TTL of the run's session that of its
	// fences is. A fence has to outlive the session, which a client that was cut
	// off may have renewed last.
	fencesTTLs = 4
)

// session is one of the run's sessions. Under the first, the run and the agents
// write every key of the job; under the second, the run writes its fences. The
// keys are deleted with their session.
type session struct {
	*consul.Client
	id       string
	node     string // that it is on, if it was named
	ttl      time.Duration
	requests chan chan<- error       // asks keep to renew at once
	fences   atomic.Pointer[session] // of a run's first session: the second, or nil
}

// createJobSession creates the session that holds the job. In the agent's own
// datacenter, whose name is empty, Consul binds it to the agent's node. In a
// named datacenter it has to name a node there. mayHaveOrphans reports whether
// Consul may have created further sessions with the name, whose answers were
// lost.
func createJobSession(ctx context.Context, c *consul.Client, name string) (s *session, mayHaveOrphans bool, err error) {
	node := ""
	if c.Datacenter != "" {
		if node, err = findServer(ctx, c); err != nil {
			return nil, false, err
		}
	}
	s, mayHaveOrphans, err = createSession(ctx, c, name, node, consul.SessionTTL, consul.StartPatience)
	if err == nil {
		c.Log.Debug("session created", "session", s.id, "name", name)
	}
	return s, mayHaveOrphans, err
}

// createFences creates the session for fences. It is on the same node, so that
// no change of the catalog ends it alone. From then on keep renews it too.
func (s *session) createFences(ctx context.Context, name string) (mayHaveOrphans bool, err error) {
	entry, err := s.read(ctx)
	if err != nil {
		return false, err
	}
	fences, mayHaveOrphans, err := createSession(ctx, s.Client, name, entry.Node, fencesTTLs*s.ttl, consul.SessionLife)
	if err == nil {
		s.fences.Store(fences)
		s.Log.Debug("session for fences created", "session", fences.id)
	}
	return mayHaveOrphans, err
}

// read returns what Consul knows of the session. If that is nothing, the session
// is lost.
func (s *session) read(ctx context.Context) (entry *api.SessionEntry, err error) {
	op := consul.Operation{Doing: "read session " + s.id, Need: "session:read"}
	err = s.Do(ctx, op, func(ctx context.Context) error {
		entry, err = s.lookUp(ctx)
		return err
	})
	if err == nil && entry == nil {
		err = fmt.Errorf("%s: %w", op.Doing, ErrSessionLost)
	}
	return entry, err
}

// lookUp returns the session's entry, or nil if there is none. It is certain: a
// leader that has just been elected may not know a session yet, and says so to
// all requests but consistent ones and those that write to keys.
func (s *session) lookUp(ctx context.Context) (*api.SessionEntry, error) {
	q := s.Query(ctx)
	q.RequireConsistent = true
	entry, meta, err := s.API.Session().Info(s.id, q)
	if err == nil {
		err = consul.CheckAnswer(meta, entry == nil)
	}
	return entry, err
}

// createSession creates a session without checks, so that it does not end with
// every flap of an agent's health, on a node, or on the agent's own if that is
// empty.
func createSession(ctx context.Context, c *consul.Client, name, node string, ttl, patience time.Duration) (s *session, mayHaveOrphans bool, err error) {
	s = &session{Client: c, node: node, ttl: ttl, requests: make(chan chan<- error, 1)}
	entry := &api.SessionEntry{Name: name, Node: node, Behavior: api.SessionBehaviorDelete, TTL: ttl.String()}
	need := "session:write on the agent's node"
	if node != "" {
		need = fmt.Sprintf("session:write on node %q", node)
	}
	op := consul.Operation{Doing: "create session", Need: need, Grace: createGrace, Patience: patience}
	err = c.Do(ctx, op, func(ctx context.Context) (err error) {
		s.id, _, err = c.API.Session().CreateNoChecks(entry, c.Write(ctx))
		if least := minTTL(err); least > 0 {
			s.ttl, entry.TTL = least, least.String()
			s.id, _, err = c.API.Session().CreateNoChecks(entry, c.Write(ctx))
		}
		mayHaveOrphans = mayHaveOrphans || err != nil && consul.IsTransient(err) && !consul.NotSent(err) && !consul.WasRefused(err)
		return err
	})
	if err != nil {
		return nil, mayHaveOrphans, err
	}
	return s, mayHaveOrphans, nil
}

// ttlRange finds the shortest TTL in Consul's refusal of a shorter one. Servers
// have the option session_ttl_min.
var ttlRange = regexp.MustCompile(`Invalid Session TTL '.*', must be between \[(\w+)=`)

// minTTL returns the shortest TTL that Consul takes if err says that the TTL
// was shorter, and otherwise 0.
func minTTL(err error) time.Duration {
	var status api.StatusError
	if !errors.As(err, &status) {
		return 0
	}
	match := ttlRange.FindStringSubmatch(status.Body)
	if match == nil {
		return 0
	}
	ttl, err := time.ParseDuration(match[1])
	if err != nil {
		return 0
	}
	return ttl
}

// findServer returns the node of a healthy server in the datacenter.
func findServer(ctx context.Context, c *consul.Client) (string, error) {
	op := consul.Operation{Doing: "find a server", Need: `service:read on "consul" and node:read`, Patience: consul.StartPatience}
	var servers []*api.ServiceEntry
	var meta *api.QueryMeta
	err := c.Do(ctx, op, func(ctx context.Context) (err error) {
		servers, meta, err = c.API.Health().Service("consul", "", true, c.Query(ctx))
		return err
	})
	switch {
	case err != nil:
		return "", err
	case len(servers) > 0:
		return servers[0].Node.Node, nil
	case meta.ResultsFilteredByACLs:
		return "", fmt.Errorf("%s%s: %w: needs %s", op.Doing, c.In(), ErrPermissionDenied, op.Need)
	}
	return "", fmt.Errorf("%s%s: %w: no server is healthy", op.Doing, c.In(), consul.ErrUnavailable)
}

// destroyNamed destroys the sessions with this name. Consul may have created
// some although its answers were lost. If await is set, one may still be on its
// way: the search goes on until it is found or ctx ends.
func destroyNamed(ctx context.Context, c *consul.Client, name string, await bool) error {
	op := consul.Operation{Doing: "list sessions", Need: "session:read", Timeout: consul.CleanUpTimeout}
	for {
		var sessions []*api.SessionEntry
		err := c.Do(ctx, op, func(ctx context.Context) (err error) {
			sessions, _, err = c.API.Session().List(c.Query(ctx))
			return err
		})
		errs := []error{err}
		for _, entry := range sessions {
			if entry.Name == name {
				await = false
				errs = append(errs, (&session{Client: c, id: entry.ID}).destroy(ctx))
			}
		}
		if err != nil || !await || !consul.Sleep(ctx, orphanPause) {
			return errors.Join(errs...)
		}
	}
}

// keep renews the run's sessions every third of the first one's TTL, and
// whenever somebody asks. It returns nil when ctx ends, and an error when one of
// them is lost or could not be renewed for its lifetime. No other goroutine
// renews them.
func (s *session) keep(ctx context.Context) error {
	ticker := time.NewTicker(renewInterval)
	defer ticker.Stop()
	for renewed := time.Now(); ; renewed = time.Now() {
		var answer chan<- error
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case answer = <-s.requests:
		}
		var err error
		// Without its fences the job must not live on, so these come first.
		if fences := s.fences.Load(); fences != nil {
			err = fences.renew(ctx, consul.SessionLife-time.Since(renewed))
		}
		if err == nil {
			err = s.renew(ctx, consul.SessionLife-time.Since(renewed))
		}
		if answer != nil {
			answer <- err
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// check asks keep to renew the session now, and does not wait for the answer.
func (s *session) check() {
	select {
	case s.requests <- make(chan error, 1):
	default: // asked already
	}
}

// confirm asks keep to renew the session now. It returns nil if the session
// still exists.
func (s *session) confirm(ctx context.Context) error {
	answer := make(chan error, 1)
	select {
	case s.requests <- answer:
	case <-ctx.Done():
		return consul.ContextError(ctx)
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return consul.ContextError(ctx)
	}
}

// renew renews the session. It gives up when that has failed for patience.
func (s *session) renew(ctx context.Context, patience time.Duration) error {
	op := consul.Operation{Doing: "renew session " + s.id, Need: "session:write", Timeout: renewInterval, Patience: patience, Renews: true}
	within, cancel := consul.Within(ctx, patience) // however Consul refuses it
	defer cancel()
	err := s.Do(within, op, func(ctx context.Context) error {
		var entries []*api.SessionEntry
		_, err := s.API.Raw().Write("/v1/session/renew/"+s.id, nil, &entries, s.Write(ctx))
		if !consul.SaysNoSession(err) {
			return err
		}
		entry, err := s.lookUp(ctx)
		switch {
		case err != nil:
			return err
		case entry != nil:
			return errUnknownYet
		case s.node != "":
			return fmt.Errorf("%w: it is gone, perhaps with its node %q from the catalog", ErrSessionLost, s.node)
		}
		return ErrSessionLost
	})
	if err != nil && ctx.Err() == nil && consul.IsTransient(err) {
		return fmt.Errorf("%w: not renewed for %v: %w", ErrSessionLost, consul.SessionLife, err)
	}
	return err
}

// errUnknownYet is the error of a renewal of a session that is there all the same.
// It is repeated.
var errUnknownYet = errors.New("the leader does not know the session yet")

// destroy ends the session. After that no agent can write under it.
func (s *session) destroy(ctx context.Context) error {
	op := consul.Operation{Doing: "destroy session " + s.id, Need: "session:write", Timeout: consul.CleanUpTimeout}
	err := s.Do(ctx, op, func(ctx context.Context) error {
		_, err := s.API.Session().Destroy(s.id, s.Write(ctx))
		return err
	})
	if err == nil {
		s.Log.Debug("session destroyed", "session", s.id)
	}
	return err
}

// makeSure destroys the session again if it is still there. A leader that does not
// know it yet destroys nothing, and says that it has.
func (s *session) makeSure(ctx context.Context) error {
	op := consul.Operation{Doing: "look for session " + s.id, Need: "session:read", Timeout: consul.CleanUpTimeout}
	for {
		var entry *api.SessionEntry
		err := s.Do(ctx, op, func(ctx context.Context) (err error) {
			entry, err = s.lookUp(ctx)
			return err
		})
		if err != nil || entry == nil {
			return err
		}
		if err := s.destroy(ctx); err != nil {
			return err
		}
		if !consul.Sleep(ctx, orphanPause) {
			return consul.ContextError(ctx)
		}
	}
}
