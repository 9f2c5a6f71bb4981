package consulexec

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hashicorp/consul/api"
)

const (
	defaultWait = 2 * time.Second

	// defaultAckTimeout is well above the 0.2 s that gossip takes on a LAN. A
	// node that missed the gossip may take the job up to 30 s later, by
	// anti-entropy; a run does not wait for that by default.
	defaultAckTimeout = 5 * time.Second

	// minLostTimeout is the shortest default: an agent may be held up for as
	// long as its servers hold an election.
	minLostTimeout = 15 * time.Second

	// lostWaits is how many heartbeats in a row have to be missing before a node
	// counts as lost by default.
	lostWaits = 5
)

// An Option is a setting of New. Where one is given twice, the later counts.
// New refuses a value that makes no sense, with an error that names the option
// and the value.
type Option func(*config) error

// config is what New makes of its command and options. It does not change
// after New.
type config struct {
	command string
	script  []byte
	args    []string

	filter          nodeFilter
	names           []string // of WithNodes, each once, or nil
	minNodes        int
	concurrency     int // 0 is no limit
	percent         int // the same, in percent of the nodes
	maxFailures     int // 0 is no limit
	noDiscovery     bool
	wait            time.Duration
	ackTimeout      time.Duration
	lostTimeout     time.Duration
	replicationWait time.Duration
	timeout         time.Duration // 0 is none
	killOnCancel    bool

	prefix     string
	datacenter string
	apiConfig  *api.Config
	client     *api.Client
	transport  *http.Transport // the client's, where it is ours to close, or nil

	capture   int
	logger    *slog.Logger
	callbacks callbacks
}

// newConfig applies the options to the defaults. Its error has everything that
// is wrong.
func newConfig(command string, options []Option) (*config, error) {
	c := &config{
		command:    command,
		wait:       defaultWait,
		ackTimeout: defaultAckTimeout,
		prefix:     defaultPrefix,
		logger:     slog.New(slog.DiscardHandler),
		callbacks:  noCallbacks(),
	}
	var errs []error
	for i, option := range options {
		if option == nil {
			errs = append(errs, fmt.Errorf("option %d is nil", i+1))
		} else if err := option(c); err != nil {
			errs = append(errs, err)
		}
	}
	c.callbacks.cutLines()
	errs = append(errs, c.checkCommand(), c.checkTogether(), c.checkEvent(), c.connect())
	for i, err := range errs {
		if err != nil {
			errs[i] = fmt.Errorf("consulexec: %w", err)
		}
	}
	return c, errors.Join(errs...)
}

// checkCommand sees to it that there is exactly one thing to run, and that it
// reaches the agents unchanged.
func (c *config) checkCommand() error {
	var kinds []string
	if c.command != "" {
		kinds = append(kinds, "a command")
	}
	if c.script != nil {
		kinds = append(kinds, "WithScript")
	}
	if c.args != nil {
		kinds = append(kinds, "WithArgs")
	}
	switch {
	case len(kinds) == 0:
		return ErrNoCommand
	case len(kinds) > 1:
		return fmt.Errorf("%s: want exactly one of them", strings.Join(kinds, " and "))
	case c.command != "" && strings.TrimSpace(c.command) == "":
		return fmt.Errorf("command %q: %w", c.command, ErrNoCommand)
	}
	if err := checkText(c.command); err != nil {
		return fmt.Errorf("command %q: %w", c.command, err)
	}
	return nil
}

// checkText refuses what can't be in a job spec or in a process's arguments.
// Invalid UTF-8 would reach the agents as something else, as JSON can't hold it.
func checkText(s string) error {
	switch {
	case !utf8.ValidString(s):
		return errors.New("is not valid UTF-8; WithScript takes any bytes")
	case strings.ContainsRune(s, 0):
		return errors.New("has a NUL byte")
	}
	return nil
}

// checkTogether looks at the options that depend on one another.
func (c *config) checkTogether() error {
	var errs []error
	if c.filter.tag != nil && expression(c.filter.service) == "" {
		errs = append(errs, fmt.Errorf("WithTag(%q): needs WithService", c.filter.tag))
	}
	if c.concurrency > 0 && c.percent > 0 {
		errs = append(errs, fmt.Errorf("WithConcurrency(%d) and WithConcurrencyPercent(%d): want one of them", c.concurrency, c.percent))
	}
	if limit := c.rolling(); limit != "" && c.noDiscovery && c.names == nil {
		errs = append(errs, fmt.Errorf("%s: needs to know the nodes: WithNodes, or no WithoutDiscovery", limit))
	}
	if c.lostTimeout == 0 {
		c.lostTimeout = max(lostWaits*c.wait, minLostTimeout)
	} else if c.lostTimeout <= c.wait {
		errs = append(errs, fmt.Errorf("WithLostTimeout(%v): is not over the wait of %v, after which a silent node gives its next sign of life", c.lostTimeout, c.wait))
	}
	return errors.Join(errs...)
}

// rolling names the option for which the nodes have to be known and are not all
// told at once, or is empty.
func (c *config) rolling() string {
	switch {
	case c.concurrency > 0:
		return fmt.Sprintf("WithConcurrency(%d)", c.concurrency)
	case c.percent > 0:
		return fmt.Sprintf("WithConcurrencyPercent(%d)", c.percent)
	case c.maxFailures > 0:
		return fmt.Sprintf("WithMaxFailures(%d)", c.maxFailures)
	}
	return ""
}

// byName tells whether the nodes are told by their names, not by the filter on
// them.
func (c *config) byName() bool { return c.names != nil || c.rolling() != "" }

// checkEvent refuses what no event can carry.
func (c *config) checkEvent() error {
	e := c.event(strings.Repeat("x", sessionIDLength))
	longest := ""
	if c.byName() {
		for _, name := range c.names {
			if len(regexp.QuoteMeta(name)) > len(regexp.QuoteMeta(longest)) {
				longest = name
			}
		}
		e.NodeFilter = only([]string{longest})
	}
	over := eventSize(e, minLamportSize) - maxEventSize
	switch {
	case over <= 0:
		return nil
	case longest != "":
		return fmt.Errorf("%s with the name %q: %d bytes too long: the event may have %d in all", c.selection(), longest, over, maxEventSize)
	}
	return fmt.Errorf("%s: %d bytes too long: the event may have %d in all", c.selection(), over, maxEventSize)
}

// selection lists the options that say which nodes, and that make events longer.
func (c *config) selection() string {
	var given []string
	if c.names != nil {
		given = append(given, fmt.Sprintf("WithNodes(%d names)", len(c.names)))
	}
	for _, part := range []struct {
		option string
		re     *regexp.Regexp
	}{{"WithNode", c.filter.node}, {"WithService", c.filter.service}, {"WithTag", c.filter.tag}} {
		if part.re != nil {
			given = append(given, fmt.Sprintf("%s(%q)", part.option, part.re))
		}
	}
	if c.prefix != defaultPrefix {
		given = append(given, fmt.Sprintf("WithPrefix(%q)", c.prefix))
	}
	if given == nil {
		return "any node"
	}
	return strings.Join(given, ", ")
}

// connect makes the client, which touches no network.
func (c *config) connect() error {
	if c.client != nil {
		if c.apiConfig != nil {
			return errors.New("WithClient and WithConfig: want one of them")
		}
		return nil
	}
	conf := api.DefaultConfig()
	if c.apiConfig != nil {
		given := *c.apiConfig // api.NewClient fills in its argument
		switch {
		case given.HttpClient != nil:
			client := *given.HttpClient
			given.HttpClient = &client
		case given.Transport == nil:
			given.Transport = conf.Transport
			c.transport = conf.Transport
		}
		conf = &given
	} else {
		c.transport = conf.Transport
	}
	if c.datacenter == "" {
		c.datacenter = conf.Datacenter
	}
	if c.transport != nil {
		// The agent is on this machine, or near. To compress what it sends takes the
		// time of both sides, and saves what costs little there.
		c.transport.DisableCompression = true
	}
	client, err := api.NewClient(conf)
	if err != nil {
		return fmt.Errorf("make a client for Consul at %s: %w", conf.Address, err)
	}
	takeBodies(conf.HttpClient) // api.NewClient has put in which one it uses
	c.client = client
	return nil
}

// WithScript runs a script instead of a command: each agent writes it to a
// temporary file and has the shell run that file. It may hold any bytes. Consul
// takes some 380 KiB of script by default (kv_max_value_size is 512 KiB, and the
// script is sent in base64); a larger one is an error of the run.
func WithScript(script []byte) Option {
	return func(c *config) error {
		if len(script) == 0 {
			return fmt.Errorf("WithScript(%q): is empty", script)
		}
		c.script = slices.Clone(script)
		return nil
	}
}

// WithArgs runs a program with arguments instead of a command, without a shell.
// The first is the program, looked up in the agent's PATH.
func WithArgs(args ...string) Option {
	return func(c *config) error {
		if len(args) == 0 || args[0] == "" {
			return fmt.Errorf("WithArgs(%q): has no program", args)
		}
		for _, arg := range args {
			if err := checkText(arg); err != nil {
				return fmt.Errorf("WithArgs(%q): %q %w", args, arg, err)
			}
		}
		c.args = slices.Clone(args)
		return nil
	}
}

// WithNode runs only on nodes whose name matches re, a regular expression in
// Go's syntax. It is not anchored: "web-1" matches web-10 too. Names and filters
// travel in one gossip message of 512 bytes, which leaves some 330 bytes for re
// with the default prefix; New refuses a longer one. For a list of names there is
// WithNodes.
func WithNode(re string) Option {
	return func(c *config) error { return compile(&c.filter.node, "WithNode", re) }
}

// WithService runs only on nodes whose agent has a service registered whose ID,
// not its name, matches re, an unanchored regular expression in Go's syntax. The
// service "consul" that each server has in the catalog is not registered with an
// agent and matches nothing.
func WithService(re string) Option {
	return func(c *config) error { return compile(&c.filter.service, "WithService", re) }
}

// WithTag runs only on nodes where one of the services that WithService selects
// has a tag that matches re, an unanchored regular expression in Go's syntax. It
// needs WithService.
func WithTag(re string) Option {
	return func(c *config) error { return compile(&c.filter.tag, "WithTag", re) }
}

func compile(to **regexp.Regexp, option, re string) error {
	compiled, err := regexp.Compile(re)
	if err != nil {
		return fmt.Errorf("%s(%q): %w", option, re, err)
	}
	*to = compiled
	return nil
}

// WithNodes runs only on the nodes of these names, however many: they are put
// into as few events as it takes, and no node is in two. The order is that of
// WithConcurrency; a name that is given twice counts once. With WithNode,
// WithService and WithTag, a node has to pass those as well.
//
// All of them are expected. One that is not in Consul's catalog, or not alive, is
// StateNoResponse at once, with an error that says so; where the catalog may not
// be read, only after the ack timeout. Where none is alive the run ends with
// ErrNoTargets.
func WithNodes(names ...string) Option {
	return func(c *config) error {
		if len(names) == 0 {
			return errors.New("WithNodes(): has no name")
		}
		c.names = make([]string, 0, len(names))
		seen := make(map[string]bool, len(names))
		for _, name := range names {
			switch {
			case name == "":
				return fmt.Errorf("WithNodes(%q): has an empty name", names)
			case !utf8.ValidString(name):
				return fmt.Errorf("WithNodes: name %q is not valid UTF-8", name)
			case !seen[name]:
				seen[name] = true
				c.names = append(c.names, name)
			}
		}
		return nil
	}
}

// WithConcurrency runs the command on at most n nodes at once, n >= 1: the next is
// told as one ends. The order is that of WithNodes, otherwise by name. The default
// is no limit.
//
// It needs to know the nodes, from Consul's catalog or by WithNodes; a run whose
// token may not read the catalog fails without WithNodes. A node that has been told takes a place
// until it has exited, is lost, or has not acknowledged within the ack timeout.
// Of a lost node the command may still run, and one that acknowledges after that
// timeout runs the command beside the others: WithAckTimeout makes that rarer.
func WithConcurrency(n int) Option {
	return func(c *config) error {
		if n <= 0 {
			return fmt.Errorf("WithConcurrency(%d): is not positive", n)
		}
		c.concurrency = n
		return nil
	}
}

// WithConcurrencyPercent is WithConcurrency with a part of the nodes that can be
// told, from 1 to 100 percent, rounded down to whole nodes, but at least one.
func WithConcurrencyPercent(percent int) Option {
	return func(c *config) error {
		if percent < 1 || percent > 100 {
			return fmt.Errorf("WithConcurrencyPercent(%d): is not from 1 to 100", percent)
		}
		c.percent = percent
		return nil
	}
}

// WithMaxFailures tells no further node once n nodes have failed, n >= 1: exited
// with another status than 0, lost, or without a response. Those that run go on to
// their end; those never told are StateSkipped, and Result.Err says why. The
// default is no limit. Names of WithNodes that are not alive count before anyone is
// told, so that perhaps nobody is. It needs to know the nodes, and is of little use without
// WithConcurrency, as all are told at once then.
func WithMaxFailures(n int) Option {
	return func(c *config) error {
		if n <= 0 {
			return fmt.Errorf("WithMaxFailures(%d): is not positive", n)
		}
		c.maxFailures = n
		return nil
	}
}

// WithTimeout ends the command on each node where it still runs d after its start,
// d > 0, rounded up to whole seconds; the default is no limit. The node does that by
// itself, also when this program or its connection is gone: the command's process
// group gets a SIGTERM, and what is left of it a SIGKILL 5 s later. A command that is
// ended so exits with its own status if it handles SIGTERM, otherwise with 143, or
// 137 after SIGKILL: StateExited, like any other. Processes that left the group, as
// daemons do, and children of a command that ended by itself are left alone.
//
// With this option or WithKillOnCancel the command runs under a small shell script
// in a session of its own. Its output and status stay its own, but for two: a
// signal n is 128+n instead of -1, and a program of WithArgs that is not found is
// 127 instead of 255. The node needs a POSIX /bin/sh, cat, chmod, env, mkdir, rm,
// rmdir, sed, sleep, tail and tr, and setsid (util-linux, busybox) or a /bin/sh with
// job control (bash, as on macOS). Where neither is there the command is not run,
// and the status is 126. It does not work on Windows agents. The job grows by some
// 3 KB, which a script of the largest size has to leave room for. A script runs from
// a directory beside the agent's own temporary file, which is removed at its end.
func WithTimeout(d time.Duration) Option {
	return func(c *config) error { return setPositive(&c.timeout, "WithTimeout", d) }
}

// WithKillOnCancel ends the commands that still run on their nodes when the run's
// context ends, before Run or Wait returns and before OnError: SIGTERM to the
// process group, children included, and SIGKILL 5 s later. By default they run on.
// They are told by a second job, for which Consul has to be reachable and the token
// needs no more than for the first. It usually takes a second or two and is bounded
// by some 20 s, and 10 ms more per node; that is on top of the clean-up.
//
// The error names, as *NodeError, each node that had acknowledged the job and did not
// confirm that its command has ended: its agent may be dead, or the command cannot be
// killed. Nodes that had not acknowledged are told as well, but not named where they
// do not answer. What the nodes need, and what else changes, is said at WithTimeout;
// besides that, ps where there is no /proc. It covers the end of the context only, not
// a lost session or this program's death: WithTimeout covers those.
func WithKillOnCancel() Option {
	return func(c *config) error {
		c.killOnCancel = true
		return nil
	}
}

// WithMinNodes makes the run wait until at least n nodes have exited, n >= 0;
// the default is 0. Where fewer take the job, the run ends once nothing new has
// come for the ack timeout, and Result.Err says how many were missing.
func WithMinNodes(n int) Option {
	return func(c *config) error {
		if n < 0 {
			return fmt.Errorf("WithMinNodes(%d): is negative", n)
		}
		c.minNodes = n
		return nil
	}
}

// WithWait sets the interval of the heartbeats that an agent sends while its
// command prints nothing, at least 100 ms; the default is 2 s. Where nobody is
// expected (see WithoutDiscovery) it is also the silence that ends the run. It
// kills nothing. Each heartbeat is a write through Raft on Consul's servers.
func WithWait(d time.Duration) Option {
	return func(c *config) error {
		if d < minWait {
			return fmt.Errorf("WithWait(%v): is under %v", d, minWait)
		}
		c.wait = d
		return nil
	}
}

// WithAckTimeout sets how long after the event an expected node may take to
// acknowledge the job before it counts as not responding; the default is 5 s.
// Gossip takes about 0.2 s on a LAN, but some 30 s to a node that it missed. A
// node that acknowledges later, while others keep the run going, still counts.
func WithAckTimeout(d time.Duration) Option {
	return func(c *config) error { return setPositive(&c.ackTimeout, "WithAckTimeout", d) }
}

// WithLostTimeout sets how long a node that runs the command may stay silent,
// without output and heartbeat, before it counts as lost. It has to be over the
// wait, and should be several times that; the default is five times the wait and
// at least 15 s.
func WithLostTimeout(d time.Duration) Option {
	return func(c *config) error { return setPositive(&c.lostTimeout, "WithLostTimeout", d) }
}

func setPositive(to *time.Duration, option string, d time.Duration) error {
	if d <= 0 {
		return fmt.Errorf("%s(%v): is not positive", option, d)
	}
	*to = d
	return nil
}

// WithReplicationWait makes the run wait for d between the job and the event, as
// the flag -wait-repl of `consul exec` does; the default is 0. Agents that do not
// find the job in a stale read ask the leader, so there is no need for it.
func WithReplicationWait(d time.Duration) Option {
	return func(c *config) error {
		if d < 0 {
			return fmt.Errorf("WithReplicationWait(%v): is negative", d)
		}
		c.replicationWait = d
		return nil
	}
}

// WithoutDiscovery does not ask Consul's catalog which nodes to expect. The run
// then ends by silence, as `consul exec` does: when no node is running and
// nothing has come for the wait; or, with WithMinNodes, when that many have
// exited and none is running. The names of WithNodes are expected nevertheless, and
// the run ends with them.
func WithoutDiscovery() Option {
	return func(c *config) error {
		c.noDiscovery = true
		return nil
	}
}

// WithPrefix sets the folder of Consul's KV store in which the job stands; the
// default is "_rexec". Agents follow any prefix, where their token may write to
// it. The job is gone from there when the run ends; where there is much output, or
// many nodes, what was read of it goes before.
func WithPrefix(prefix string) Option {
	return func(c *config) error {
		if err := checkPrefix(prefix); err != nil {
			return fmt.Errorf("WithPrefix(%q): %w", prefix, err)
		}
		c.prefix = prefix
		return nil
	}
}

// WithDatacenter runs in the datacenter dc, through the same agent. The session
// is then held by a healthy server of that datacenter, which the token has to be
// allowed to find: service:read on "consul" and node:read. For a datacenter other
// than the agent's own, newer Consuls ask that the agent is a server: 1.22 does,
// 1.8 does not.
func WithDatacenter(dc string) Option {
	return func(c *config) error {
		if dc == "" {
			return fmt.Errorf("WithDatacenter(%q): is empty", dc)
		}
		c.datacenter = dc
		return nil
	}
}

// WithConfig says how to reach Consul. The default is api.DefaultConfig, which
// follows CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN and the other variables of
// Consul's tools. New reads conf and leaves it as it is. Where conf has no
// Transport and no HttpClient, answers are not compressed, which is cheaper for
// both sides where Consul is near; for one far away give a Transport.
func WithConfig(conf *api.Config) Option {
	return func(c *config) error {
		if conf == nil {
			return errors.New("WithConfig(nil): no config")
		}
		c.apiConfig = conf
		return nil
	}
}

// WithClient uses a client of the caller's, which may serve any number of runs
// at once. Its connections stay open after the run. A client that was made for
// another datacenter than its agent's needs WithDatacenter beside it. Much output
// takes more CPU to read than with WithConfig, as consul/api then decodes it.
func WithClient(client *api.Client) Option {
	return func(c *config) error {
		if client == nil {
			return errors.New("WithClient(nil): no client")
		}
		c.client = client
		return nil
	}
}

// WithCapture keeps the first maxBytes bytes of each node's output in its
// NodeResult; the default is 0, none.
func WithCapture(maxBytes int) Option {
	return func(c *config) error {
		if maxBytes < 0 {
			return fmt.Errorf("WithCapture(%d): is negative", maxBytes)
		}
		c.capture = maxBytes
		return nil
	}
}

// WithLogger logs each step of the run at debug level, and what is out of order
// at warning level, each line with the run's ID. Neither the token nor the
// command is logged. The default logs nothing.
func WithLogger(logger *slog.Logger) Option {
	return func(c *config) error {
		if logger == nil {
			return errors.New("WithLogger(nil): no logger")
		}
		c.logger = logger
		return nil
	}
}
