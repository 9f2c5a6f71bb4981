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

// A job is what the command line asks for.
type job struct {
	command string // empty where the options have a script or arguments
	options []consulexec.Option

	consul  *api.Config
	demo    bool // run on an embedded cluster
	format  string
	verbose bool
	kill    bool
}

// parse makes a job of the command line. Its error is flag.ErrHelp where that asks
// for help.
func parse(args []string, stdin io.Reader) (*job, *flag.FlagSet, error) {
	j := &job{consul: api.DefaultConfig(), format: "text"}
	flags := flag.NewFlagSet("consul-exec", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // run prints the error and the usage

	// An empty value is none, as with consul exec: -node="$NODE" works without one.
	text := func(name, usage string, set func(value string) error) {
		flags.Func(name, usage, func(value string) error {
			if value == "" {
				return nil
			}
			return set(value)
		})
	}

	// What a value may be is the library's business: New says what is wrong with it.
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
	filter("tag", "run on nodes where a tag of such a service matches this `regexp`; needs -service", func(re string) consulexec.Option {
		tag = re
		return consulexec.WithTag(re)
	})
	flags.Func("prefix", "`folder` of the KV store for the job (default _rexec)", func(prefix string) error {
		return add(consulexec.WithPrefix(prefix))
	})
	shell := flags.Bool("shell", true, "use a shell to run the command")
	duration("wait", "`interval` of the heartbeats of a silent command (default 2s)", consulexec.WithWait)
	duration("wait-repl", "`pause` between writing the job and telling the nodes; not needed (default 0s)", consulexec.WithReplicationWait)
	flags.BoolVar(&j.verbose, "verbose", false, "tell of each step, ack and heartbeat")

	var nodes []string
	addNodes := func(names []string) error {
		if len(names) == 0 {
			return errors.New("no node named")
		}
		nodes = append(nodes, names...)
		return add(consulexec.WithNodes(nodes...))
	}
	flags.Func("nodes", "run on the nodes of these `names`, separated by commas", func(list string) error {
		return addNodes(words(list, ","))
	})
	flags.Func("nodes-file", "run on the nodes that this `file` names, one a line; # begins a comment", func(file string) error {
		lines, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		return addNodes(words(string(lines), "\n"))
	})
	flags.Func("concurrency", "run on at most this `number` of nodes at once, or percentage, such as 10%", func(value string) error {
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
	flags.Func("max-failures", "tell no further node once this `number` of nodes have failed", func(value string) error {
		n, err := strconv.Atoi(value)
		if err != nil {
			return errors.New("not a number")
		}
		return add(consulexec.WithMaxFailures(n))
	})
	duration("timeout", "end the command on a node where it still runs after this `time`", consulexec.WithTimeout)
	flags.BoolVar(&j.kill, "kill", false, "end the command on the nodes when this program is interrupted")
	text("format", "`text`, json or group (default text)", func(value string) error {
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
		"http-addr":       {&address, "`address` and port of the Consul agent (CONSUL_HTTP_ADDR, default http://localhost:8500)"},
		"token":           {&j.consul.Token, "ACL `token` (CONSUL_HTTP_TOKEN)"},
		"token-file":      {&j.consul.TokenFile, "`file` with the ACL token, which goes before -token (CONSUL_HTTP_TOKEN_FILE)"},
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
	filter("datacenter", "run in the datacenter of this `name` (default the agent's)", func(name string) consulexec.Option {
		located = append(located, "datacenter")
		return consulexec.WithDatacenter(name)
	})
	flags.Bool("stale", false, "accepted for consul exec's sake: nothing that this program reads is stale")

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

// read says what is to run: the arguments, or what stdin has.
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
		//lint:ignore ST1005 the words of consul exec
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

// words returns the parts of a list without the space around them, empty ones and
// comments.
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
