package devcluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/hashicorp/consul/api"
)

// defaultAgentPolicy lets an agent take part in remote exec: it writes its ack,
// output and exit below this prefix.
const defaultAgentPolicy = `key_prefix "_rexec" { policy = "write" }`

// agentRules returns the rules of the agent's own token.
func agentRules(n Node) string {
	rules := n.AgentPolicy
	if rules == "" {
		rules = defaultAgentPolicy
	}
	// An agent registers its node and services. Anti-entropy reads other nodes
	// and services.
	return fmt.Sprintf(`
		node %q { policy = "write" }
		node_prefix "" { policy = "read" }
		service_prefix "" { policy = "write" }
		%s`, n.Name, rules)
}

// ManagementToken returns the token with all permissions, or "" without
// Config.ACL.
func (c *Cluster) ManagementToken() string { return c.management }

// Token creates an ACL token with the rules and returns its secret. It waits
// until every running server of every datacenter knows the token, for at most
// 90 seconds. Without Config.ACL it returns an error.
func (c *Cluster) Token(rules string) (secret string, err error) {
	if c.management == "" {
		return "", errors.New("devcluster: token: the cluster has no ACLs")
	}
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	secret = newUUID()
	if err := c.createToken(ctx, secret, rules); err != nil {
		return "", fmt.Errorf("devcluster: token: %w", err)
	}
	return secret, nil
}

// bootstrapACL creates the agents' own tokens and sets them.
func (c *Cluster) bootstrapACL(ctx context.Context) error {
	// Agents of some versions need a moment before they accept the management
	// token.
	err := c.eachAgent(ctx, "read the management token", func(ctx context.Context, a *agent) error {
		_, _, err := a.client.ACL().TokenReadSelf(new(api.QueryOptions).WithContext(ctx))
		return err
	})
	if err != nil {
		return err
	}
	for _, a := range c.agents {
		if err := c.createToken(ctx, a.secret, agentRules(a.node)); err != nil {
			return fmt.Errorf("token of %s: %w", a.node.Name, err)
		}
	}
	return c.eachAgent(ctx, "set the agent's token", func(ctx context.Context, a *agent) error {
		_, err := a.client.Agent().UpdateAgentACLToken(a.secret, new(api.WriteOptions).WithContext(ctx))
		return err
	})
}

// createToken creates a policy and a token, and waits until every running
// server knows both. If an agent used the token earlier, it would cache "not
// found" for acl.token_ttl, 30 seconds.
func (c *Cluster) createToken(ctx context.Context, secret, rules string) error {
	via := c.runningServer(c.nodes[0].Datacenter)
	if via == nil {
		return errors.New("the primary datacenter has no running server")
	}
	write := new(api.WriteOptions).WithContext(ctx)
	policy, _, err := via.client.ACL().PolicyCreate(&api.ACLPolicy{Name: "devcluster-" + newUUID(), Rules: rules}, write)
	if err != nil {
		return fmt.Errorf("create policy: %w", err)
	}
	token, _, err := via.client.ACL().TokenCreate(&api.ACLToken{
		SecretID: secret,
		Policies: []*api.ACLTokenPolicyLink{{ID: policy.ID}},
	}, write)
	if err != nil {
		return fmt.Errorf("create token: %w", err)
	}
	return c.eachAgent(ctx, "replicate token", func(ctx context.Context, a *agent) error {
		if !a.node.Server || !a.responsive() {
			return nil
		}
		// A server answers a stale read from its own state.
		stale := (&api.QueryOptions{AllowStale: true}).WithContext(ctx)
		if _, _, err := a.client.ACL().PolicyRead(policy.ID, stale); err != nil {
			return err
		}
		_, _, err := a.client.ACL().TokenRead(token.AccessorID, stale)
		return err
	})
}

// newUUID returns a random UUID. Consul requires tokens to have this form.
func newUUID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40 // version 4
	b[8] = b[8]&0x3f | 0x80 // variant 10
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
