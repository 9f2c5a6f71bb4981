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

// writeConfig writes the agent's configuration files. It needs the cluster
// because agents join by the ports of all servers.
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
	var lan, wan []string // Serf addresses of servers in this datacenter, and in the others
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
	if v.atLeast(1, 14) { // older versions reject the name
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
		// With Consul's default of 30 s every start would take that long: at
		// the first attempt the servers do not listen yet.
		"retry_interval": "1s",
		// A node that has left joins again after a restart.
		"rejoin_after_leave": true,
		"performance": map[string]any{
			// Fast elections, as in production. The default suits very small
			// machines.
			"raft_multiplier": 1,
			// The default of 5 s lets requests of a large cluster finish.
			"leave_drain_time": "1s",
		},
		// Remote exec needs neither. Both slow the start or use the network.
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
			name := "master" // its name before 1.11
			if v.atLeast(1, 11) {
				name = "initial_management"
			}
			tokens[name] = c.management
			tokens["replication"] = c.management
		}
		config["acl"] = map[string]any{
			"enabled":                  true,
			"default_policy":           "deny",
			"enable_token_persistence": true, // an agent keeps its token after a restart
			"enable_token_replication": true, // tokens are valid in every datacenter
			"tokens":                   tokens,
		}
	}
	return config
}
