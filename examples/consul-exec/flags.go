package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
)

// A job is a command line after parsing.
type job struct {
	command string // empty if the options have a script or arguments
	options []consulexec.Option

	consul  *api.Config
	demo    bool // run on an embedded cluster
	format  string
	verbose bool
	kill    bool
}

// parse turns the command line into a job. The error is flag.ErrHelp if the
// command line asks for help.
func parse(args []string, stdin io.Reader) (*job, *flag.FlagSet, error) {
	j := &job{consul: api.DefaultConfig(), format: "text"}
	flags := flag.NewFlagSet("consul-exec", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // main prints the error and the usage

	// As in consul exec, an empty value has no effect: -node="$NODE" works if
	// NODE is empty.
	text := func(name, usage string, set func(value string) error) {
		flags.Func(name, usage, func(value string) error {
			if value == "" {
				return nil
			}
			return set(value)
		})
	}

	// The library knows which values are valid: New returns an error for a bad
	// one.
	add := func(option consulexec.Option) error {
		if _, err := consulexec.New("true", consulexec.WithClient(new(api.Client)), consulexec.WithService("."), option); err != nil {
			return err
		}
		j.options = append(j.options, option)
		return nil
	}
	filter := func(name, usage string, option func(re string) consulexec.Option) {
		text(name, usage, func(re string) error { return add(option(re)) })
	}
	duration := func(name, usage string, option func(time.Duration) consulexec.Option) {
		flags.Func(name, usage, func(value string) error {
			d, err := time.ParseDuration(value)
			if err != nil {
				return err
			}
			return add(option(d))
		})
	}

	var service, tag string
	filter("node", "run on nodes whose name matches this `regexp`", consulexec.WithNode)
	filter("service", "run on nodes with a service whose ID matches this `regexp`", func(re string) consulexec.Option {
		service = re
		return consulexec.WithService(re)
	})
	filter("tag", "of the nodes that -service selects, run on those whose service has a tag that matches this `regexp`", func(re string) consulexec.Option {
		tag = re
		return consulexec.WithTag(re)
	})
	flags.Func("prefix", "write the job into this `folder` of the KV store (default _rexec)", func(prefix string) error {
		return add(consulexec.WithPrefix(prefix))
	})
	shell := flags.Bool("shell", true, "run the command with a shell; -shell=false runs the first argument as a program")
	duration("wait", "while a command is silent, its node sends a heartbeat at this `interval` (default 2s)", consulexec.WithWait)
	duration("wait-repl", "`pause` between writing the job and firing the event; usually not needed (default 0s)", consulexec.WithReplicationWait)
	flags.BoolVar(&j.verbose, "verbose", false, "print each step, ack and heartbeat")

	var nodes []string
	addNodes := func(names []string) error {
		if len(names) == 0 {
			return errors.New("no node named")
		}
		nodes = append(nodes, names...)
		return add(consulexec.WithNodes(nodes...))
	}
	flags.Func("nodes", "run on the nodes with these `names`, separated by commas", func(list string) error {
		return addNodes(words(list, ","))
	})
	flags.Func("nodes-file", "run on the nodes whose names are in this `file`, one a line; # begins a comment", func(file string) error {
		lines, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		return addNodes(words(string(lines), "\n"))
	})
	flags.Func("concurrency", "run on at most this `number` of nodes at once, or on this percentage, such as 10%", func(value string) error {
		option := consulexec.WithConcurrency
		number, percent := strings.CutSuffix(value, "%")
		if percent {
			option = consulexec.WithConcurrencyPercent
		}
		n, err := strconv.Atoi(number)
		if err != nil {
			return errors.New("neither a number nor a percentage")
		}
		return add(option(n))
	})
	flags.Func("max-failures", "dispatch to no more nodes after this `number` of nodes have failed", func(value string) error {
		n, err := strconv.Atoi(value)
		if err != nil {
			return errors.New("not a number")
		}
		return add(consulexec.WithMaxFailures(n))
	})
	duration("timeout", "end the command on a node if it still runs there after this `time`", consulexec.WithTimeout)
	duration("recover", "wait for a node, or for Consul, that is out of reach for up to this `time` (default: give it up)", consulexec.WithRecovery)
	flags.BoolVar(&j.kill, "kill", false, "end the command on the nodes when this program is interrupted")
	text("format", "output `format`: text, json, or group, which prints identical outputs once (default text)", func(value string) error {
		if !slices.Contains([]string{"text", "json", "group"}, value) {
			return errors.New("neither text, json nor group")
		}
		j.format = value
		return nil
	})

	flags.BoolVar(&j.demo, "demo", false, "run the command on this machine, on three embedded nodes, to try this program without Consul")

	var address string
	var located []string // the flags given that say where Consul is or how to reach it
	for name, f := range map[string]struct {
		value *string
		usage string
	}{
		"http-addr":       {&address, "`address` of the Consul agent (CONSUL_HTTP_ADDR, default http://localhost:8500)"},
		"token":           {&j.consul.Token, "ACL `token` (CONSUL_HTTP_TOKEN)"},
		"token-file":      {&j.consul.TokenFile, "`file` with the ACL token; takes precedence over -token (CONSUL_HTTP_TOKEN_FILE)"},
		"ca-file":         {&j.consul.TLSConfig.CAFile, "CA `file` for TLS (CONSUL_CACERT)"},
		"ca-path":         {&j.consul.TLSConfig.CAPath, "`directory` of CA files for TLS (CONSUL_CAPATH)"},
		"client-cert":     {&j.consul.TLSConfig.CertFile, "client certificate `file` for TLS (CONSUL_CLIENT_CERT)"},
		"client-key":      {&j.consul.TLSConfig.KeyFile, "client key `file` for TLS (CONSUL_CLIENT_KEY)"},
		"tls-server-name": {&j.consul.TLSConfig.Address, "server `name` for TLS (CONSUL_TLS_SERVER_NAME)"},
	} {
		text(name, f.usage, func(value string) error {
			*f.value = value
			located = append(located, name)
			return nil
		})
	}
	filter("datacenter", "run in the datacenter with this `name` (default: that of the agent)", func(name string) consulexec.Option {
		located = append(located, "datacenter")
		return consulexec.WithDatacenter(name)
	})
	flags.Bool("stale", false, "accepted for compatibility with consul exec; has no effect")

	if err := flags.Parse(args); err != nil {
		return nil, flags, err
	}
	if tag != "" && service == "" {
		return nil, flags, fmt.Errorf("invalid value %q for flag -tag: Cannot provide tag filter without service filter", tag)
	}
	if j.demo && len(located) > 0 {
		return nil, flags, fmt.Errorf("-demo cannot be combined with -%s: the demo has a cluster of its own", located[0])
	}
	j.consul.Address = cmp.Or(address, j.consul.Address)
	if j.kill {
		j.options = append(j.options, consulexec.WithKillOnCancel())
	}
	return j, flags, j.read(flags.Args(), *shell, stdin)
}

// read sets what to run: the arguments, or the script on stdin.
func (j *job) read(args []string, shell bool, stdin io.Reader) error {
	command := strings.Join(args, " ")
	script := []byte(nil)
	switch {
	case command == "-" && !shell:
		return errors.New("invalid value false for flag -shell: Cannot configure -shell=false when reading from stdin")
	case command == "-":
		var err error
		if script, err = io.ReadAll(stdin); err != nil {
			return fmt.Errorf("read the script: %w", err)
		}
		command = string(script)
	}
	switch {
	case command == "":
		//lint:ignore ST1005 consul exec prints exactly these words
		return errors.New("Must specify a command to execute")
	case script != nil:
		j.options = append(j.options, consulexec.WithScript(script))
	case !shell:
		j.options = append(j.options, consulexec.WithArgs(args...))
	default:
		j.command = command
	}
	return nil
}

// words splits a list. It trims the parts, and drops comments and empty parts.
func words(list, separator string) []string {
	var kept []string
	for word := range strings.SplitSeq(list, separator) {
		word, _, _ = strings.Cut(word, "#")
		if word = strings.TrimSpace(word); word != "" {
			kept = append(kept, word)
		}
	}
	return kept
}
