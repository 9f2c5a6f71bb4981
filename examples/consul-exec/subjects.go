package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/consulexec/consulexec"
)

const usage = "Usage: consul-exec [options] [-|command...]"

const examples = `
Examples:
  consul-exec -healthy-service=web -concurrency=10% -max-failures=1 'systemctl restart web'
  consul-exec -format=group -nodes='web-[01-20],db-1' -timeout=1m - <check.sh
  consul-exec -nodes-file=todo -failed-file=todo -env-file=secrets ./upgrade
`

// A subject is what some flags are about.
type subject struct {
	title  string
	define func(*parser)
}

var subjects = []subject{
	{"Which nodes; if nothing selects any, all", (*parser).nodeFlags},
	{"What they run, and with what", (*parser).commandFlags},
	{"How the run goes", (*parser).runFlags},
	{"What it prints", (*parser).outputFlags},
	{"Where Consul is", (*parser).consulFlags},
}

// help prints the usage, with the flags by subject.
func help(out io.Writer) {
	fmt.Fprintln(out, usage)
	for _, s := range subjects {
		fmt.Fprintf(out, "\n%s:\n", s.title)
		p := newParser(nil)
		s.define(p)
		p.SetOutput(out)
		p.PrintDefaults()
	}
	fmt.Fprint(out, examples)
}

func (p *parser) nodeFlags() {
	filter := func(name, usage string, option func(string) consulexec.Option) {
		p.single(name, usage, func(value string) error {
			p.job.selects = true
			return p.add(option(value))
		})
	}
	filter("node", "nodes whose name matches this `regexp`", consulexec.WithNode)
	filter("service", "nodes with a service whose ID matches this `regexp`", func(re string) consulexec.Option {
		p.service = re
		return consulexec.WithService(re)
	})
	filter("tag", "of the nodes that -service selects, those whose service has a tag that matches this `regexp`", func(re string) consulexec.Option {
		p.tag = re
		return consulexec.WithTag(re)
	})
	filter("healthy-service", "nodes with a healthy instance of the service of exactly this `name`", consulexec.WithHealthyService)
	filter("filter", "nodes whose catalog entry satisfies this `expression`, such as 'Meta.rack == \"b\"'", consulexec.WithFilter)
	p.text("nodes", "the nodes with these `names`, separated by commas; web-[01-20] is twenty; can be repeated", func(list string) error {
		names, err := parseNames(list)
		return cmp.Or(err, p.addNodes(names))
	})
	p.text("nodes-file", "the nodes whose names are in this `file`, or in standard input if it is -; # begins a comment", func(name string) error {
		file, err := p.readFile(name)
		if err != nil {
			return err
		}
		names, err := readNames(file)
		return cmp.Or(err, p.addNodes(names))
	})
	p.single("limit", "only this `number` of the nodes that match: the first that take the job", func(value string) error {
		return p.addNumber(value, func(n int) consulexec.Option {
			p.job.selects, p.job.limit = true, n
			return consulexec.WithLimit(n)
		})
	})
}

// addNodes adds names to those of all flags before.
func (p *parser) addNodes(names []string) error {
	if len(names) == 0 {
		return errors.New("no node named")
	}
	p.job.selects = true
	p.job.names = append(p.job.names, names...)
	return p.add(consulexec.WithNodes(p.job.names...))
}

func (p *parser) commandFlags() {
	p.BoolVar(&p.shell, "shell", true, "run the command with a shell; -shell=false runs the first argument as a program")
	p.single("shell-path", "the `path` of the shell that runs the command or script (default: $SHELL of the agent)", func(path string) error {
		p.shellPath = path
		return p.add(consulexec.WithShell(path))
	})
	p.text("env", "set a variable of the command's environment to a value: `name=value`; can be repeated", func(variable string) error {
		p.variables = append(p.variables, variable)
		return nil
	})
	p.text("env-file", "set variables from a `file` with a line name=value for each, or from standard input if it is -", func(name string) error {
		file, err := p.readFile(name)
		if err != nil {
			return err
		}
		return p.addVariables(file)
	})
	p.text("dir", "run the command in this `directory` of the node", func(path string) error { return p.add(consulexec.WithDir(path)) })
	p.text("stdin-file", "give the command this `file` as its input, or standard input if it is -; Consul takes some 380 KiB, with script and variables", func(name string) error {
		input, err := p.readFile(name)
		if err != nil {
			return err
		}
		return p.add(consulexec.WithStdin(input))
	})
}

// addVariables adds the variables of -env-file. Its errors have no text of the
// file but the names of variables: the rest may be secret, also what is no name.
func (p *parser) addVariables(file []byte) error {
	number := 0
	for line := range strings.SplitSeq(strings.TrimPrefix(string(file), "\ufeff"), "\n") {
		number++
		line = strings.TrimSuffix(line, "\r")
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok || check(consulexec.WithEnv(map[string]string{name: ""})) != nil {
			return fmt.Errorf("line %d: want name=value, with a name of letters, digits and _, and no digit first", number)
		}
		if err := check(consulexec.WithEnv(map[string]string{name: value})); err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
		p.variables = append(p.variables, line)
	}
	return nil
}

// setEnvironment adds the variables of all flags. It checks those of -env: a
// flag's own error would have its value, which may be secret.
func (p *parser) setEnvironment() error {
	if p.variables == nil {
		return nil
	}
	variables := make(map[string]string)
	for _, variable := range p.variables {
		name, value, ok := strings.Cut(variable, "=")
		if !ok {
			return errors.New("-env: want name=value")
		}
		variables[name] = value
	}
	if err := p.add(consulexec.WithEnv(variables)); err != nil {
		return fmt.Errorf("-env: %w", err)
	}
	return nil
}

func (p *parser) runFlags() {
	p.Func("concurrency", "run on at most this `number` of nodes at once, or on this percentage, such as 10%", func(value string) error {
		option := consulexec.WithConcurrency
		number, percent := strings.CutSuffix(value, "%")
		if percent {
			option = consulexec.WithConcurrencyPercent
		}
		n, err := strconv.Atoi(number)
		if err != nil {
			return errors.New("neither a number nor a percentage")
		}
		return p.add(option(n))
	})
	p.Func("max-failures", "dispatch to no more nodes after this `number` of nodes have failed", func(value string) error {
		return p.addNumber(value, consulexec.WithMaxFailures)
	})
	p.duration("timeout", "end the command on a node if it still runs there after this `time`", consulexec.WithTimeout)
	p.duration("recover", "wait for a node, or for Consul, that is out of reach for up to this `time` (default: give it up)", consulexec.WithRecovery)
	p.BoolVar(&p.kill, "kill", false, "end the command on the nodes when this program is interrupted")
	p.duration("wait", "while a command is silent, its node sends a heartbeat at this `interval` (default 2s)", consulexec.WithWait)
	p.duration("wait-repl", "`pause` between writing the job and firing the event; usually not needed (default 0s)", consulexec.WithReplicationWait)
	p.Func("prefix", "write the job into this `folder` of the KV store (default _rexec)", func(prefix string) error {
		return p.add(consulexec.WithPrefix(prefix))
	})
}

func (p *parser) outputFlags() {
	p.text("format", "output `format`: text, json, or group, which prints identical outputs once (default text)", func(value string) error {
		if !slices.Contains([]string{"text", "json", "group"}, value) {
			return errors.New("neither text, json nor group")
		}
		p.job.format = value
		return nil
	})
	p.BoolVar(&p.job.lines, "lines", false, "print only whole lines of a node's output, each when it has ended")
	p.Func("max-output", "pass on only the first `bytes` of a node's output (default: all)", func(value string) error {
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return errors.New("not a number")
		}
		return p.add(consulexec.WithMaxOutput(n))
	})
	p.single("failed-file", "write the names of the nodes that have to be done again to this `file`, for -nodes-file", func(path string) error {
		p.job.failedFile = path
		return checkFailedFile(path)
	})
	p.BoolVar(&p.job.blindOK, "blind-ok", false, "exit with the status of the nodes that answered if the token may not see all nodes")
	p.BoolVar(&p.job.list, "list", false, "print the names of the nodes that match, and run nothing")
	p.BoolVar(&p.job.verbose, "verbose", false, "print each step, ack and heartbeat")
}

func (p *parser) consulFlags() {
	config := p.job.consul
	values := map[string]struct {
		value *string
		usage string
	}{
		"http-addr":       {&config.Address, "`address` of the Consul agent (CONSUL_HTTP_ADDR, default http://localhost:8500)"},
		"token":           {&config.Token, "ACL `token` (CONSUL_HTTP_TOKEN)"},
		"token-file":      {&config.TokenFile, "`file` with the ACL token; takes precedence over -token (CONSUL_HTTP_TOKEN_FILE)"},
		"ca-file":         {&config.TLSConfig.CAFile, "CA `file` for TLS (CONSUL_CACERT)"},
		"ca-path":         {&config.TLSConfig.CAPath, "`directory` of CA files for TLS (CONSUL_CAPATH)"},
		"client-cert":     {&config.TLSConfig.CertFile, "client certificate `file` for TLS (CONSUL_CLIENT_CERT)"},
		"client-key":      {&config.TLSConfig.KeyFile, "client key `file` for TLS (CONSUL_CLIENT_KEY)"},
		"tls-server-name": {&config.TLSConfig.Address, "server `name` for TLS (CONSUL_TLS_SERVER_NAME)"},
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		// As in consul exec, an empty value has no effect.
		p.Func(name, values[name].usage, func(value string) error {
			if value != "" {
				*values[name].value = value
				p.located = append(p.located, name)
			}
			return nil
		})
	}
	p.single("datacenter", "run in the datacenter with this `name` (default: that of the agent)", func(name string) error {
		p.located = append(p.located, "datacenter")
		return p.add(consulexec.WithDatacenter(name))
	})
	p.Bool("stale", false, "accepted for compatibility with consul exec; has no effect")
	p.BoolVar(&p.job.demo, "demo", false, "run the command on this machine, on three embedded nodes, to try this program without Consul")
}
