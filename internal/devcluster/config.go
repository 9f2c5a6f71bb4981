package devcluster

import (
	"encoding/json"
	"os"
	"path/filepath"
)

const (
	configFile = "agent.json"
	// extraConfigFile holds Node.Config. Consul reads JSON as HCL too.
	extraConfigFile = "extra.hcl"
)

// writeConfig writes the agent's configuration. It depends on the ports of all agents, hence the cluster.
func (a *agent) writeConfig(c *Cluster, v version) error {
	config, err := json.MarshalIndent(a.config(c, v), "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(a.dir, configFile), config, 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(a.dir, extraConfigFile), []byte(a.node.Config), 0o600)
}

func (a *agent) config(c *Cluster, v version) map[string]any {
	primary := c.nodes[0].Datacenter
	var lan, wan []string // the Serf addresses of this datacenter's servers, and of the other datacenters'
	servers := 0
	for _, s := range c.agents {
		switch {
		case !s.node.Server:
		case s.node.Datacenter == a.node.Datacenter:
			servers++
			lan = append(lan, s.ports.addr(portSerfLAN))
		default:
			wan = append(wan, s.ports.addr(portSerfWAN))
		}
	}

	ports := map[string]int{
		"http":     a.ports.port(portHTTP),
		"server":   a.ports.port(portServer),
		"serf_lan": a.ports.port(portSerfLAN),
		"serf_wan": a.ports.port(portSerfWAN),
		"https":    -1,
		"dns":      -1,
		"grpc":     -1,
	}
	if v.atLeast(1, 14) { // before, the name is an error
		ports["grpc_tls"] = -1
	}
	config := map[string]any{
		"node_name":           a.node.Name,
		"datacenter":          a.node.Datacenter,
		"primary_datacenter":  primary,
		"data_dir":            filepath.Join(a.dir, "data"),
		"bind_addr":           loopback,
		"client_addr":         loopback,
		"ports":               ports,
		"server":              a.node.Server,
		"disable_remote_exec": a.node.ExecDisabled,
		"log_level":           "INFO",

		"retry_join": lan,
		// Consul's default of 30 s is how long every start would take: the first attempt meets servers that do not listen yet.
		"retry_interval": "1s",
		// A node that has left joins again when it is restarted.
		"rejoin_after_leave": true,
		"performance": map[string]any{
			"raft_multiplier": 1, // elections as fast as in production; the default is for the smallest of machines
			// The default of 5 s is for requests under way elsewhere in a large cluster.
			"leave_drain_time": "1s",
		},
		// None of these has a part in exec, and each costs a start or the network.
		"disable_update_check": true,
		"connect":              map[string]any{"enabled": false},
	}
	if a.node.Server {
		config["bootstrap_expect"] = servers
		if len(wan) > 0 {
			config["retry_join_wan"] = wan
			config["retry_interval_wan"] = "1s"
		}
	}
	if c.management != "" {
		tokens := map[string]any{}
		if a.node.Server {
			name := "master" // what it was called before 1.11
			if v.atLeast(1, 11) {
				name = "initial_management"
			}
			tokens[name] = c.management
			tokens["replication"] = c.management
		}
		config["acl"] = map[string]any{
			"enabled":                  true,
			"default_policy":           "deny",
			"enable_token_persistence": true, // the agent's own token, set by its API, lasts over a restart
			"enable_token_replication": true, // so that a token of the primary datacenter is one in the others too
			"tokens":                   tokens,
		}
	}
	return config
}
