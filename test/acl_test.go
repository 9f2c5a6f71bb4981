package test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/internal/devcluster"
	"github.com/consulexec/consulexec/internal/runtest"
)

// policy and catalogPolicy are the rules that README asks of a token.
const policy = `
session_prefix ""        { policy = "write" }
key_prefix     "_rexec/" { policy = "write" }
event          "_rexec"  { policy = "write" }
`

const catalogPolicy = `
node_prefix    ""        { policy = "read" }
service_prefix ""        { policy = "read" }
`

// TestACL runs with tokens that have all permissions, and with tokens that lack
// one each.
func TestACL(t *testing.T) {
	needsConsul(t)
	nodes := devcluster.Nodes(1, 2)
	nodes[1].Services = []devcluster.Service{{ID: "web-1", Name: "web", Tags: []string{"v1"}}}
	nodes[2].AgentPolicy = `key_prefix "_rexec/" { policy = "deny" }` // never acks
	cluster := devcluster.Start(t, devcluster.Config{Nodes: nodes, ACL: true})
	command := func(t *testing.T, command, rules string, options ...consulexec.Option) (*consulexec.Result, error) {
		t.Helper()
		token, err := cluster.Token(rules)
		if err != nil {
			t.Fatal(err)
		}
		config := &api.Config{Address: cluster.Address("client-1"), Token: token}
		rec := runtest.NewRecorder(t, cluster.Client("server-1"))
		rec.Reach = consulexec.WithConfig(config)
		return rec.Run(t.Context(), command, options...)
	}
	run := func(t *testing.T, rules string, options ...consulexec.Option) (*consulexec.Result, error) {
		t.Helper()
		return command(t, "true", rules, options...)
	}
	const allButOne = "client-1: exit 0, client-2: no response, server-1: exit 0"

	t.Run("enough", func(t *testing.T) {
		t.Parallel()
		result, err := run(t, policy+catalogPolicy)
		if err != nil || result.DiscoveryErr != nil || runtest.States(result) != allButOne {
			t.Errorf("error %v, discovery %v, states %s", err, result.DiscoveryErr, runtest.States(result))
		}
	})
	t.Run("much output", func(t *testing.T) {
		t.Parallel()
		var log bytes.Buffer
		logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		result, err := command(t, "seq 60000; sleep 1; seq 60000", policy+catalogPolicy, consulexec.WithNode("-1$"), consulexec.WithLogger(logger))
		if err != nil || result.Err() != nil {
			t.Errorf("error %v, result %v", err, result.Err())
		}
		if !strings.Contains(log.String(), "deleted what was read") || strings.Contains(log.String(), "not deleted") {
			t.Errorf("the log lacks a deletion, or has one that failed:\n%s", &log)
		}
	})
	t.Run("one service", func(t *testing.T) {
		t.Parallel()
		result, err := run(t, policy+catalogPolicy, consulexec.WithService("web"), consulexec.WithTag("v1"))
		if err != nil || result.DiscoveryErr != nil || runtest.States(result) != "client-1: exit 0" {
			t.Errorf("error %v, discovery %v, states %s", err, result.DiscoveryErr, runtest.States(result))
		}
	})
	t.Run("nodes but no services", func(t *testing.T) {
		t.Parallel()
		result, err := run(t, policy+`node_prefix "" { policy = "read" }`)
		if err != nil || result.DiscoveryErr != nil || runtest.States(result) != allButOne {
			t.Errorf("error %v, discovery %v, states %s", err, result.DiscoveryErr, runtest.States(result))
		}
	})
	t.Run("session on one node", func(t *testing.T) {
		t.Parallel()
		result, err := run(t, strings.Replace(policy, `session_prefix ""`, `session "client-1"`, 1)+catalogPolicy)
		if err != nil || runtest.States(result) != allButOne {
			t.Errorf("error %v, states %s", err, runtest.States(result))
		}
	})
	for name, rules := range map[string]string{
		"no catalog":     policy,
		"no nodes":       policy + `service_prefix "" { policy = "read" }`,
		"some nodes":     policy + `node "client-1" { policy = "read" } service_prefix "" { policy = "read" }`,
		"their services": policy + `node "client-1" { policy = "read" } service "web" { policy = "read" }`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			options := []consulexec.Option{}
			want := "client-1: exit 0, server-1: exit 0"
			if name == "their services" {
				options = append(options, consulexec.WithService("web"))
				want = "client-1: exit 0"
			}
			result, err := run(t, rules, options...)
			if name == "some nodes" && !saysFiltered(t, cluster) {
				if err != nil || result.DiscoveryErr != nil || len(result.Nodes) == 0 {
					t.Errorf("error %v, discovery %v", err, result.DiscoveryErr)
				}
				return // the run takes the nodes that it sees for all
			}
			if err != nil || runtest.States(result) != want {
				t.Errorf("error %v, states %s", err, runtest.States(result))
			}
			if !errors.Is(result.DiscoveryErr, consulexec.ErrPermissionDenied) {
				t.Errorf("discovery: %v", result.DiscoveryErr)
			}
		})
	}
	t.Run("the catalog alone decides", func(t *testing.T) {
		t.Parallel()
		selectHidden(t, run, saysFiltered(t, cluster))
	})
	for lack, want := range map[string]string{
		"session_prefix": "session:write on the agent's node",
		"key_prefix":     "key:write on _rexec/",
		"event":          `event:write on "_rexec"`,
	} {
		t.Run("without "+lack, func(t *testing.T) {
			t.Parallel()
			var rules []string
			for rule := range strings.Lines(policy + catalogPolicy) {
				if !strings.HasPrefix(rule, lack) {
					rules = append(rules, rule)
				}
			}
			result, err := run(t, strings.Join(rules, ""))
			if !errors.Is(err, consulexec.ErrPermissionDenied) || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v", err)
			}
			for _, n := range result.Nodes {
				if n.State != consulexec.StateSkipped {
					t.Errorf("%s is %v", n.Node, n.State)
				}
			}
		})
	}
	t.Run("no such token", func(t *testing.T) {
		t.Parallel()
		config := &api.Config{Address: cluster.Address("client-1"), Token: "11111111-2222-3333-4444-555555555555"}
		e, err := consulexec.New("true", consulexec.WithConfig(config))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Run(t.Context()); !errors.Is(err, consulexec.ErrPermissionDenied) {
			t.Errorf("error %v", err)
		}
	})
}

// selectHidden selects by the catalog with tokens that see it whole, or a part.
func selectHidden(t *testing.T, run func(t *testing.T, rules string, options ...consulexec.Option) (*consulexec.Result, error), saysFiltered bool) {
	nodes := policy + `node_prefix "" { policy = "read" }`
	filter, healthy := consulexec.WithFilter(`Node == "client-1" or Node == "server-1"`), consulexec.WithHealthyService("web")
	for _, test := range []struct {
		rules   string
		options []consulexec.Option
		want    string // states; empty for ErrPermissionDenied
	}{
		{nodes, []consulexec.Option{filter}, "client-1: exit 0, server-1: exit 0"},
		{policy + catalogPolicy, []consulexec.Option{healthy}, "client-1: exit 0"},
		{nodes + ` service "web" { policy = "read" }`, []consulexec.Option{healthy, filter}, "client-1: exit 0"},
		{policy, []consulexec.Option{filter}, ""},
		{policy, []consulexec.Option{filter, consulexec.WithNodes("client-1")}, ""},
		{policy + ` node "client-1" { policy = "read" }`, []consulexec.Option{filter}, ""},
		{policy + ` node "client-1" { policy = "read" } service_prefix "" { policy = "read" }`, []consulexec.Option{healthy}, ""},
		{nodes, []consulexec.Option{healthy}, ""},
		{nodes + ` service "api" { policy = "read" }`, []consulexec.Option{healthy, consulexec.WithNodes("client-1")}, ""},
	} {
		result, err := run(t, test.rules, test.options...)
		if test.want == "" {
			if !errors.Is(err, consulexec.ErrPermissionDenied) || len(result.Nodes) > 0 {
				t.Errorf("rules %s: error %v, states %s", test.rules, err, runtest.States(result))
			}
		} else if err != nil || runtest.States(result) != test.want {
			t.Errorf("rules %s: error %v, states %s", test.rules, err, runtest.States(result))
		}
	}
	if result, err := run(t, policy+catalogPolicy, consulexec.WithHealthyService("nope")); !errors.Is(err, consulexec.ErrNoTargets) {
		t.Errorf("no such service: error %v, states %s", err, runtest.States(result))
	}
	// This token sees the server, so only a Consul that says so shows that it
	// does not see all. No node runs the command that it does not see.
	part := policy + ` node "client-1" { policy = "read" } node "server-1" { policy = "read" }`
	result, err := run(t, part, consulexec.WithFilter(`Node != "server-1"`))
	if saysFiltered && !errors.Is(err, consulexec.ErrPermissionDenied) || !saysFiltered && runtest.States(result) != "client-1: exit 0" {
		t.Errorf("a part with the server: error %v, states %s", err, runtest.States(result))
	}
}

// saysFiltered reports whether answers of this Consul say that they were
// filtered by ACLs. They do from 1.11 on.
func saysFiltered(t *testing.T, cluster *devcluster.Cluster) bool {
	self, err := cluster.Client("server-1").Agent().Self()
	if err != nil {
		t.Fatal(err)
	}
	version := self["Config"]["Version"].(string)
	return !strings.HasPrefix(version, "1.8.") && !strings.HasPrefix(version, "1.9.") && !strings.HasPrefix(version, "1.10.")
}
