package consulexec

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/hashicorp/consul/api"
)

const (
	// sessionTTL is how long a session outlives a client that died: Consul ends
	// it, and deletes its keys, after one to two of these. `consul exec` uses
	// 15 s too.
	sessionTTL = 15 * time.Second

	// sessionLife is how long a session may live without being renewed. What
	// fails for longer has failed.
	sessionLife = 2 * sessionTTL

	// renewInterval leaves room for two renewals that fail.
	renewInterval = sessionTTL / 3

	// createGrace is how long a request for a session that is under way is
	// awaited when the context has ended: cut short, it would leave a session
	// behind that has to be looked for.
	createGrace = time.Second
)

// session holds the job: every key is written under it, by us and by the
// agents, and is deleted with it.
type session struct {
	*consul
	id     string
	verify chan struct{} // asks keep to renew at once
}

// createSession makes a session called name. In the agent's own datacenter, which
// is the empty one, Consul binds it to the agent's node and that node's health.
// In a named one it has to name a node there, and can have no checks. It tells
// also whether Consul may have made others by that name, whose answers were lost.
func createSession(ctx context.Context, c *consul, name string) (s *session, strays bool, err error) {
	s = &session{consul: c, verify: make(chan struct{}, 1)}
	entry := &api.SessionEntry{Name: name, Behavior: api.SessionBehaviorDelete, TTL: sessionTTL.String()}
	create := c.client.Session().Create
	need := "session:write on the agent's node"
	if c.datacenter != "" {
		if entry.Node, err = findServer(ctx, c); err != nil {
			return nil, false, err
		}
		create = c.client.Session().CreateNoChecks
		need = fmt.Sprintf("session:write on node %q", entry.Node)
	}
	op := operation{doing: "create session", need: need, grace: createGrace, patience: startPatience}
	err = c.do(ctx, op, func(ctx context.Context) (err error) {
		s.id, _, err = create(entry, c.write(ctx))
		strays = strays || err != nil && canPass(err) && !didNothing(err)
		return err
	})
	if err != nil {
		return nil, strays, err
	}
	c.log.Debug("session created", "session", s.id, "name", name)
	return s, strays, nil
}

// findServer returns the node of a healthy server in the datacenter.
func findServer(ctx context.Context, c *consul) (string, error) {
	op := operation{doing: "find a server", need: `service:read on "consul" and node:read`, patience: startPatience}
	var servers []*api.ServiceEntry
	var meta *api.QueryMeta
	err := c.do(ctx, op, func(ctx context.Context) (err error) {
		servers, meta, err = c.client.Health().Service("consul", "", true, c.query(ctx))
		return err
	})
	switch {
	case err != nil:
		return "", err
	case len(servers) > 0:
		return servers[0].Node.Node, nil
	case meta.ResultsFilteredByACLs:
		return "", fmt.Errorf("%s%s: %w: needs %s", op.doing, c.in(), ErrPermissionDenied, op.need)
	}
	return "", fmt.Errorf("%s%s: no healthy one", op.doing, c.in())
}

// destroyNamed destroys the sessions called name: those that Consul has made
// although its answer never came.
func destroyNamed(ctx context.Context, c *consul, name string) error {
	var sessions []*api.SessionEntry
	op := operation{doing: "list sessions", need: "session:read", timeout: cleanUpTry}
	err := c.do(ctx, op, func(ctx context.Context) (err error) {
		sessions, _, err = c.client.Session().List(c.query(ctx))
		return err
	})
	errs := []error{err}
	for _, entry := range sessions {
		if entry.Name == name {
			errs = append(errs, (&session{consul: c, id: entry.ID}).destroy(ctx))
		}
	}
	return errors.Join(errs...)
}

// keep renews the session until ctx ends, which is no error, or until the
// session is lost or was not renewed for as long as it may live.
func (s *session) keep(ctx context.Context) error {
	ticker := time.NewTicker(renewInterval)
	defer ticker.Stop()
	for renewed := time.Now(); ; renewed = time.Now() {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case <-s.verify:
		}
		if err := s.renew(ctx, sessionLife-time.Since(renewed)); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

// renew renews the session, and gives it up when that has failed for as long as
// patience says.
func (s *session) renew(ctx context.Context, patience time.Duration) error {
	op := operation{
		doing:    "renew session " + s.id,
		need:     "session:write",
		timeout:  renewInterval,
		patience: patience,
	}
	err := s.do(ctx, op, func(ctx context.Context) error {
		var entries []*api.SessionEntry
		_, err := s.client.Raw().Write("/v1/session/renew/"+s.id, nil, &entries, s.write(ctx))
		var status api.StatusError
		if errors.As(err, &status) && status.Code == http.StatusNotFound {
			return ErrSessionLost
		}
		return err
	})
	if err != nil && ctx.Err() == nil && canPass(err) {
		return fmt.Errorf("%w: not renewed for %v: %w", ErrSessionLost, sessionLife, err)
	}
	return err
}

// check asks keep to see whether the session is still there, without waiting
// for the answer.
func (s *session) check() {
	select {
	case s.verify <- struct{}{}:
	default: // asked already
	}
}

// destroy ends the session. After that no agent can write under it any more.
func (s *session) destroy(ctx context.Context) error {
	op := operation{doing: "destroy session " + s.id, need: "session:write", timeout: cleanUpTry}
	err := s.do(ctx, op, func(ctx context.Context) error {
		_, err := s.client.Session().Destroy(s.id, s.write(ctx))
		return err
	})
	if err == nil {
		s.log.Debug("session destroyed", "session", s.id)
	}
	return err
}
