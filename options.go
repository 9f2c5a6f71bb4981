package consulexec

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec/internal/consul"
	"github.com/consulexec/consulexec/internal/runner"
)

const (
	defaultWait = 2 * time.Second

	// defaultAckTimeout is well above the 0.2 s that gossip takes on a LAN. It
	// leaves time for two further dispatches to a node that gossip has missed.
	defaultAckTimeout = 5 * time.Second

	// minLostTimeout is the shortest default: an election on the servers may
	// hold an agent up for as long.
	minLostTimeout = 15 * time.Second

	// lostWaits is how many heartbeats in a row a node has to miss before it
	// counts as lost by default.
	lostWaits = 5
)

// An Option is a setting of New. If an option is given twice, the later value
// counts; but of the callbacks, On..., both are called, in the order of the
// options. New refuses a value that is not usable, with an *OptionError that
// names the option and the value. Of a script, arguments and environment it has
// no text, as they may be secret.
type Option func(*config) error

// config is what New makes of the command and the options. It does not change
// after New.
type config struct {
	job runner.Spec

	filter          nodeFilter
	names           []string // of WithNodes, each once, or nil
	expression      string   // of WithFilter, or empty
	healthy         string   // the name of WithHealthyService, or empty
	minNodes        int
	concurrency     int // no limit if 0
	percent         int // the same, in percent of the nodes
	maxFailures     int // no limit if 0
	limit           int // how many nodes run the command; no limit if 0
	noDiscovery     bool
	wait            time.Duration
	ackTimeout      time.Duration
	lostTimeout     time.Duration
	recovery        time.Duration // none if 0
	replicationWait time.Duration

	prefix     string
	datacenter string
	token      string // of WithToken, or empty
	apiConfig  *api.Config
	client     *api.Client
	connection *consul.Connection // of client

	capture  int
	logger   *slog.Logger
	handlers handlers
	kills    bool             // whether it is a killer, which takes turns as a run under way
	onTurn   func(waits bool) // called when events begin to wait for their turn, and when none does any more
}

// newConfig applies the options to the defaults. It returns everything that is
// wrong.
func newConfig(command string, options []Option) (*config, []error) {
	c := &config{
		job:        runner.Spec{Command: command, MaxOutput: runner.NoLimit},
		wait:       defaultWait,
		ackTimeout: defaultAckTimeout,
		prefix:     defaultPrefix,
		logger:     slog.New(slog.DiscardHandler),
		handlers:   make(handlers),
		onTurn:     func(bool) {},
	}
	var errs []error
	for i, option := range options {
		if option == nil {
			errs = append(errs, &OptionError{Option: "Option", Value: fmt.Sprint(i + 1), shown: fmt.Sprintf(" %d", i+1), Err: errors.New("is nil")})
		} else if err := option(c); err != nil {
			errs = append(errs, err)
		}
	}
	errs = append(errs, c.checkCommand(), c.checkTag(), c.checkRolling(), c.checkCatalog(), c.checkLostTimeout(), c.checkEvent(), c.connect())
	if c.recovery > 0 {
		c.job.Keep = c.recovery + c.lostTimeout + keepMargin
	}
	return c, slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

func (c *config) checkTag() error {
	if c.filter.tag != nil && expression(c.filter.service) == "" {
		return badValue("WithTag", c.filter.tag.String(), errors.New("needs WithService"))
	}
	return nil
}

// checkRolling checks the options that need to know the nodes.
func (c *config) checkRolling() error {
	if c.concurrency > 0 && c.percent > 0 {
		return &OptionError{
			Option: "WithConcurrency", Value: fmt.Sprint(c.concurrency), shown: fmt.Sprintf("(%d) and WithConcurrencyPercent(%d)", c.concurrency, c.percent),
			Err: errors.New("want one of them"),
		}
	}
	if c.limit > 0 && c.minNodes > c.limit {
		return &OptionError{
			Option: "WithMinNodes", Value: fmt.Sprint(c.minNodes), shown: fmt.Sprintf("(%d) and WithLimit(%d)", c.minNodes, c.limit),
			Err: errors.New("want no more than the limit"),
		}
	}
	if option, value := c.rolling(); option != "" && c.noDiscovery && c.names == nil {
		return badValue(option, value, errors.New("needs to know the nodes: give WithNodes, or drop WithoutDiscovery"))
	}
	return nil
}

// checkCatalog checks the options that need the catalog.
func (c *config) checkCatalog() error {
	if option, value := c.byCatalog(); option != "" && c.noDiscovery {
		return badValue(option, value, errors.New("needs Consul's catalog: drop WithoutDiscovery"))
	}
	return nil
}

// checkLostTimeout sets the default. A running node is silent for up to the
// wait, so the timeout has to be longer.
func (c *config) checkLostTimeout() error {
	if c.lostTimeout == 0 {
		c.lostTimeout = max(lostWaits*min(c.wait, math.MaxInt64/lostWaits), minLostTimeout)
	} else if c.lostTimeout <= c.wait {
		return badValue("WithLostTimeout", c.lostTimeout, fmt.Errorf("is not longer than the wait of %v, after which a silent command sends a heartbeat", c.wait))
	}
	return nil
}

// rolling returns the name and value of the option that limits how many nodes
// have the job at once, or an empty name. It needs to know the nodes.
func (c *config) rolling() (option string, value int) {
	switch {
	case c.concurrency > 0:
		return "WithConcurrency", c.concurrency
	case c.percent > 0:
		return "WithConcurrencyPercent", c.percent
	case c.maxFailures > 0:
		return "WithMaxFailures", c.maxFailures
	case c.limit > 0:
		return "WithLimit", c.limit
	}
	return "", 0
}

// byCatalog returns the name and value of the option by which only the catalog
// can select nodes, or an empty name.
func (c *config) byCatalog() (option, value string) {
	switch {
	case c.expression != "":
		return "WithFilter", c.expression
	case c.healthy != "":
		return "WithHealthyService", c.healthy
	}
	return "", ""
}

// byName reports whether events address nodes by their names instead of by the
// filter for names.
func (c *config) byName() bool {
	rolling, _ := c.rolling()
	byCatalog, _ := c.byCatalog()
	return c.names != nil || rolling != "" || byCatalog != ""
}

// checkEvent refuses a selection that no event can carry.
func (c *config) checkEvent() error {
	e := newEvent(c.prefix, c.filter, strings.Repeat("x", sessionIDLength))
	longest := ""
	if c.byName() {
		for _, name := range c.names {
			if len(regexp.QuoteMeta(name)) > len(regexp.QuoteMeta(longest)) {
				longest = name
			}
		}
		e.Payload = longestPayload(c.prefix)
		e.NodeFilter = nameFilter([]string{longest})
	}
	over := eventSize(e) - maxEventSize
	if over <= 0 {
		return nil
	}
	text := strings.Join(c.inEvents(), ", ")
	option, rest, _ := strings.Cut(text, "(")
	value := longest
	if quoted, err := strconv.QuotedPrefix(rest); err == nil {
		value, _ = strconv.Unquote(quoted)
	}
	if longest != "" {
		text += fmt.Sprintf(" with the name %q", longest)
	}
	return &OptionError{
		Option: option, Value: value, shown: text[len(option):],
		Err: fmt.Errorf("%d bytes too long: the event may have %d in all", over, maxEventSize),
	}
}

// inEvents lists the options that make events longer, for errors.
func (c *config) inEvents() (given []string) {
	if c.names != nil {
		unit := "names"
		if len(c.names) == 1 {
			unit = "name"
		}
		given = append(given, fmt.Sprintf("WithNodes(%d %s)", len(c.names), unit))
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
	return given
}

// selection lists the options that select nodes, for errors.
func (c *config) selection() string {
	given := c.inEvents()
	if c.expression != "" {
		given = append(given, fmt.Sprintf("WithFilter(%q)", c.expression))
	}
	if c.healthy != "" {
		given = append(given, fmt.Sprintf("WithHealthyService(%q)", c.healthy))
	}
	if given == nil {
		return "any node"
	}
	return strings.Join(given, ", ")
}

// connect makes the client, unless WithClient gave one. It touches no network.
func (c *config) connect() error {
	if c.client != nil {
		if c.apiConfig != nil {
			return &OptionError{Option: "WithClient", shown: " and WithConfig", Err: errors.New("want one of them")}
		}
		if c.connection == nil {
			c.connection = consul.Given(c.client)
		}
		return nil
	}
	connection, err := consul.Connect(c.apiConfig)
	switch {
	case err != nil && c.apiConfig != nil:
		return &OptionError{Option: "WithConfig", Err: err}
	case err != nil:
		return err
	}
	c.connection, c.client = connection, connection.Client
	if c.datacenter == "" {
		c.datacenter = connection.Datacenter
	}
	return nil
}

// withConnection uses the connection of another run.
func withConnection(connection *consul.Connection) Option {
	return func(c *config) error {
		c.client, c.connection = connection.Client, connection
		return nil
	}
}

// WithNode runs only on nodes whose name matches re, a regular expression in
// Go's syntax. It is not anchored: "web-1" matches web-10 too. All filters
// travel in one gossip message of 512 bytes. That leaves at least 327 bytes for
// re with the default prefix, and New refuses a longer one. For a list of names
// use WithNodes. Given twice, the later value counts.
func WithNode(re string) Option {
	return func(c *config) error { return compile(&c.filter.node, "WithNode", re) }
}

// WithService runs only on nodes whose agent has registered a service whose ID
// matches re, an unanchored regular expression in Go's syntax. It matches IDs,
// not names: for a name see WithHealthyService. The service "consul" of each
// server is in the catalog only and matches nothing. Given twice, the later value
// counts.
func WithService(re string) Option {
	return func(c *config) error { return compile(&c.filter.service, "WithService", re) }
}

// WithTag runs only on nodes on which one of the services that WithService
// selects has a tag that matches re, an unanchored regular expression in Go's
// syntax. It needs WithService. Given twice, the later value counts.
func WithTag(re string) Option {
	return func(c *config) error { return compile(&c.filter.tag, "WithTag", re) }
}

func compile(to **regexp.Regexp, option, re string) error {
	compiled, err := regexp.Compile(re)
	if err != nil {
		return badValue(option, re, err)
	}
	*to = compiled
	return nil
}

// WithNodes runs only on the nodes with these names, however many. The run
// fires as many events as the names need, and no node is in two of them. The
// order of the names is the order of WithConcurrency; a name that is given
// twice counts once. With WithNode, WithService and WithTag a node has to pass
// those too.
//
// All of the nodes are expected. A node that is not in Consul's catalog, or not
// alive, is StateNoResponse at once, with an error that says so; if the token
// may not read the catalog, only after the ack timeout. If no node is alive the
// run ends with ErrNoTargets. Given twice, the later names count alone.
func WithNodes(names ...string) Option {
	return func(c *config) error {
		if len(names) == 0 {
			return &OptionError{Option: "WithNodes", shown: "()", Err: errors.New("has no name")}
		}
		c.names = make([]string, 0, len(names))
		seen := make(map[string]bool, len(names))
		for _, name := range names {
			switch {
			case name == "":
				return badValue("WithNodes", names, errors.New("has an empty name"))
			case !utf8.ValidString(name):
				return badValue("WithNodes", name, errors.New("is not valid UTF-8"))
			case !seen[name]:
				seen[name] = true
				c.names = append(c.names, name)
			}
		}
		return nil
	}
}

// WithFilter runs only on nodes whose entry in the catalog satisfies an
// expression in Consul's own filter language, such as
//
//	Meta.rack == "b" and Node != "web-3"
//
// Consul evaluates it, as for the parameter filter of /v1/catalog/nodes. The
// fields are Node, Address, Datacenter, ID, Meta and TaggedAddresses. A key of
// the last two is selected as in Meta.rack or Meta["rack-id"]. The operators are
// ==, !=, in, contains and matches (a regular expression), the last three with
// "not" before them too. "rack" in Meta says whether there is a key, and Meta is
// empty, or is not empty, whether there are any. Comparisons are joined by and,
// or, not and parentheses.
//
// For a key that a node does not have, == is false and != is true. Both matches
// and not matches are true, so Meta.role matches "^web" also selects the nodes
// without a role. A node that has just joined is in the catalog for a moment
// without its Meta, so Meta.role != "db" selects it even if it has that role. Say
// "role" in Meta and … in both cases.
//
// If Consul refuses the expression, the error of Run and Targets is an
// *OptionError. No node gets the job then. New refuses parentheses that are nested
// more than six deep: with each level Consul's server takes three times as long,
// and with ten it does not answer.
//
// The catalog decides alone, so New refuses the option with WithoutDiscovery. If
// the token may not read all nodes, the run fails with ErrPermissionDenied, also
// with WithNodes. (Consul before 1.11, and any version for a request without a
// token, does not say that it leaves out nodes. The run notices it only if none
// of Consul's servers is among the rest.) Events address the nodes by name.
//
// With WithNodes, WithNode, WithService, WithTag and WithHealthyService a node
// has to pass those too. A name of WithNodes that is not in the catalog is
// reported as absent all the same. Given twice, the later value counts.
func WithFilter(expression string) Option {
	return func(c *config) error {
		if strings.TrimSpace(expression) == "" {
			return badValue("WithFilter", expression, errors.New("is empty"))
		}
		if nesting(expression) > maxNesting {
			return badValue("WithFilter", expression, fmt.Errorf("has parentheses nested more than %d deep, for which Consul's server takes too long", maxNesting))
		}
		c.expression = expression
		return nil
	}
}

// maxNesting is how deep the parentheses of WithFilter may be nested.
const maxNesting = 6

// nesting returns how deep the parentheses of an expression are nested. Those in
// strings, which are in double quotes or in backquotes, are none.
func nesting(expression string) (deepest int) {
	depth, quote := 0, rune(0)
	escaped := false
	for _, r := range expression {
		switch {
		case escaped:
			escaped = false
		case quote == '"' && r == '\\':
			escaped = true
		case quote != 0:
			if r == quote {
				quote = 0
			}
		case r == '"' || r == '`':
			quote = r
		case r == '(':
			depth++
			deepest = max(deepest, depth)
		case r == ')':
			depth--
		}
	}
	return deepest
}

// WithHealthyService runs only on nodes that have a healthy instance of the
// service of exactly this name: all checks of the instance, and all of its node,
// are passing when the run begins. An instance in the state warning is not
// healthy. The name is not the service's ID, which WithService matches; services
// that Nomad registers have IDs that nobody can guess.
//
// As with WithFilter, the catalog decides alone, and other options narrow the
// selection further. A token that may not read all nodes, or that may not read
// the service, is ErrPermissionDenied; so is one that sees neither the service
// nor the service "consul". Consul before 1.11 does not say that it hides the
// service: then it is ErrNoTargets. A name of WithNodes whose agent has failed is
// not healthy, so it is not selected. Given twice, the later value counts.
func WithHealthyService(name string) Option {
	return func(c *config) error {
		clean := path.Clean("/" + name)
		switch {
		case name == "":
			return badValue("WithHealthyService", name, errors.New("is empty"))
		case clean != "/"+name, strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }):
			return badValue("WithHealthyService", name, errors.New("is a name that no request to Consul can carry: it is no clean path, or has a character that can't be printed"))
		}
		c.healthy = name
		return nil
	}
}

// WithConcurrency runs the command on at most n nodes at once, n >= 1. When a
// node ends, the job goes to the next one, in the order of WithNodes, otherwise
// by name. The default is no limit.
//
// The run needs to know the nodes, from Consul's catalog or from WithNodes.
// Without WithNodes it fails if its token may not read the catalog. A node that
// the job was dispatched to takes a place until it has exited, is lost, or has
// not acknowledged within the ack timeout. On a lost node the command may still
// run. Given twice, the later value counts.
func WithConcurrency(n int) Option {
	return func(c *config) error { return setAtLeastOne(&c.concurrency, "WithConcurrency", n) }
}

// WithConcurrencyPercent is WithConcurrency with a share of the nodes that can
// get the job, from 1 to 100 percent. It is rounded down to whole nodes, but is
// at least one. Given twice, the later value counts.
func WithConcurrencyPercent(percent int) Option {
	return func(c *config) error {
		if percent < 1 || percent > 100 {
			return badValue("WithConcurrencyPercent", percent, errors.New("is not from 1 to 100"))
		}
		c.percent = percent
		return nil
	}
}

// WithMaxFailures dispatches to no further node once n nodes have failed, n >=
// 1. A node fails if it exits with another status than 0, is lost, or does not
// respond. Nodes that run go on to their end. The rest is StateSkipped, and
// Result.Err says why. The default is no limit.
//
// A name of WithNodes that is not alive counts before the first dispatch, so
// the job may go to nobody. The run needs to know the nodes, as WithConcurrency
// does. Without WithConcurrency the option has little use, as the job goes to
// all nodes at once. Given twice, the later value counts.
func WithMaxFailures(n int) Option {
	return func(c *config) error { return setAtLeastOne(&c.maxFailures, "WithMaxFailures", n) }
}

// WithLimit runs the command on n of the matching nodes, n >= 1: the first, in
// the order of WithNodes, otherwise by name, that take it. A node that does not
// take it within the ack timeout is passed over: it is fenced, so that it never
// will, and the job goes to the next one. A node that took the job, or of which
// nobody knows whether it did, counts however it ends. So never more than n nodes
// run the command. The default is no limit.
//
// A node that was passed over is StateNoResponse, and OnNoResponse reports it.
// One that was not needed is StateSkipped, without a callback. Neither is a
// failure: NodeResult.Err is nil, and WithMaxFailures does not count them. But
// if fewer than n nodes took the job, Result.Err is ErrTooFewNodes and names
// those that were passed over.
//
// The run needs to know the nodes, as WithConcurrency does. New refuses a
// WithMinNodes of more than n. RunDatacenters applies the limit in each
// datacenter. Given twice, the later value counts.
func WithLimit(n int) Option {
	return func(c *config) error { return setAtLeastOne(&c.limit, "WithLimit", n) }
}

func setAtLeastOne(to *int, option string, n int) error {
	if n <= 0 {
		return badValue(option, n, errors.New("is not positive"))
	}
	*to = n
	return nil
}

// WithTimeout bounds the command, node by node, and not the run, whose bound is a
// deadline of the context of Run or Start. It ends the command on each node on
// which it still runs d after its start, d > 0, rounded up to whole seconds. The
// default is no limit. The node does that by itself, even if this program or its
// connection is gone. The command's process group gets a SIGTERM, and so does
// every other process that holds the command's output. What is left gets a
// SIGKILL 5 s later. If the output is still held 2 s after that, the node stops
// reading it. So the node exits within seconds of the timeout, whatever the
// command's children do.
//
// A command that the timeout had to end has status 124 and
// NodeResult.TimedOut, even if it handles SIGTERM. It counts as a failure. A
// command that ended by itself keeps its status, even if the timeout had to end
// children that held its output. A daemon runs on, as it has left the process
// group and closed the output. When a node has exited, nothing ends its children
// any more.
//
// With this option, and those that refer to it, a node runs the command under a
// small shell program, the runner. It runs the command in a session of its own.
// Output and status stay the same, with these exceptions. Signal n is 128+n
// instead of -1. A program of WithArgs that is not found is 127 instead of 255.
// If the runner can't set directory or environment, the status is 125. If it
// can't run the command for another reason, the status is 126. The reason is the
// output then. Some shells drop a variable of the agent's environment whose name
// no shell takes, such as my.var, and zsh as /bin/sh adds LOGNAME and OLDPWD and
// sets IFS anew. If the agent gets the event twice, the runner turns the second
// copy away: the command runs once.
//
// The node needs a POSIX /bin/sh (tried: bash, busybox, dash, ksh93, mksh, zsh),
// cat, cksum, dd, env, find, grep, id, ls, mkdir, mkfifo, mv, printf, ps (only
// without /proc), rm, sed, sleep and uname. It also needs setsid (util-linux,
// busybox) or a /bin/sh with job control, such as bash. The agent's user can
// write to its TMPDIR, or /tmp. There the runner keeps a directory whose name
// begins with consulexec-. It is gone a minute after the command's end, or later
// with WithRecovery. If somebody kills the runner's own processes, neither the
// timeout nor that removal is certain. The same holds if the machine can't open
// more files while the runner starts, or, with ksh93 or zsh as /bin/sh, if it can't
// start more processes. Without /proc, as on macOS, nobody can look for processes
// that left the group and hold the output. The option does not work on Windows
// agents.
//
// The job grows by some 15 KB, so the largest script is that much smaller. Given
// twice, the later value counts.
func WithTimeout(d time.Duration) Option {
	return func(c *config) error { return setPositive(&c.job.Timeout, "WithTimeout", d) }
}

// WithKillOnCancel ends the commands that still run on their nodes when the
// run's context ends, before Run or Wait returns and before OnError. By default
// commands run on. A command ends as WithTimeout says: its process group and who
// else holds its output, by SIGTERM, and by SIGKILL 5 s later. If a callback
// panics or ends its goroutine, the commands are ended as well, in all
// datacenters of RunDatacenters, before the panic goes on.
//
// StateKilled means that nothing is left of the command's process group, and that
// nobody holds its output. The error of the run names, as *NodeError, each other
// node that had acknowledged the job, and says what is known. Its agent may be
// dead, or a process can't be killed or found. Such a node stays StateRunning.
// Children of nodes that had exited before run on.
//
// A second job does it, so Consul has to be reachable; the token needs no further
// permission. It usually takes a second or two. It is bounded by some 20 s, on top
// of the clean-up. The time for which its events wait for their turn does not
// count: some five events a second go out, each for ten nodes or more, and those
// of other runs come in between. Nodes that had not acknowledged get the second
// job too: they can't start the command any more. The error does not name them if
// they do not answer.
//
// WithTimeout says what a node needs. The option does not work on Windows
// agents. It covers the end of the context, not a lost session or the death of
// this program: WithTimeout covers those. Given twice, it is the same.
func WithKillOnCancel() Option {
	return func(c *config) error {
		c.job.Killable = true
		return nil
	}
}

// WithMinNodes makes the run wait until at least n nodes have exited, n >= 0.
// The default is 0. If fewer take the job, the run ends once nothing new has
// come for the ack timeout. Result.Err then says how many were missing. Given
// twice, the later value counts.
func WithMinNodes(n int) Option {
	return func(c *config) error {
		if n < 0 {
			return badValue("WithMinNodes", n, errors.New("is negative"))
		}
		c.minNodes = n
		return nil
	}
}

// WithWait sets the interval of the heartbeats that an agent sends while its
// command prints nothing, at least 100 ms. The default is 2 s. If nobody is
// expected (see WithoutDiscovery) it is also the silence that ends the run. It
// kills nothing. Each heartbeat is a write through Raft on Consul's servers.
// Given twice, the later value counts.
func WithWait(d time.Duration) Option {
	return func(c *config) error {
		if d < minWait {
			return badValue("WithWait", d, fmt.Errorf("is under %v", minWait))
		}
		c.wait = d
		return nil
	}
}

// WithAckTimeout sets how long after its first event an expected node may take
// to acknowledge the job. After that it is fenced and counts as not responding,
// for good. The default is 5 s. Gossip takes about 0.2 s on a LAN. After a
// fifth and two fifths of d a silent node is dispatched to again, unless d is
// under 2 s. If agents are slow, because they are busy or far away, d should be
// more than twice the time that they take. Given twice, the later value counts.
func WithAckTimeout(d time.Duration) Option {
	return func(c *config) error { return setPositive(&c.ackTimeout, "WithAckTimeout", d) }
}

// WithLostTimeout sets how long a node that runs the command may be silent,
// without output and heartbeat, before it counts as lost, or is asked if the
// run has WithRecovery. It has to be longer than the wait and should be several
// times as long. The default is five times the wait, at least 15 s. If gossip
// reports that the node's agent has failed, or the catalog has no such agent any
// more, the node is lost after the wait and a second, if that is sooner. Given
// twice, the later value counts.
func WithLostTimeout(d time.Duration) Option {
	return func(c *config) error { return setPositive(&c.lostTimeout, "WithLostTimeout", d) }
}

func setPositive(to *time.Duration, option string, d time.Duration) error {
	if d <= 0 {
		return badValue(option, d, errors.New("is not positive"))
	}
	*to = d
	return nil
}

// WithRecovery makes a run survive what happens to Consul and its agents while
// the command runs, d > 0. By default a node is lost if its agent gives up or is
// restarted, as when a server of Consul is restarted; and a lost session ends
// the run. With recovery the command goes on, the node keeps output and status,
// and the run asks for them. The callbacks get one stream of output, without gap
// or repetition, and then the true status. NodeResult.Recovered counts how often
// a node was reached again.
//
// A node is asked if its agent has given up, if it is silent for the lost
// timeout although gossip reports its agent as alive, if its agent comes back, if
// a part of its output is missing, and if the session was lost. Then the run
// opens a new session. A question goes to agents as a job of its own, by a
// further event, and is repeated.
//
// While a node is out of reach, the run waits for it up to d after its last sign
// of life, but at least for the lost timeout. Then the node is lost. It keeps its
// place in a run WithConcurrency meanwhile. If Consul does not answer for d, or
// for some 40 s if that is longer, the run fails with ErrSessionLost. Before a
// node may have the job, a run fails as without recovery. So does one whose nodes
// are not known (see WithoutDiscovery) within the ack timeout.
//
// If a node has no trace of the run, it is lost at once: it can't start the
// command any more. That is so after an agent has acknowledged the job and
// failed to start it. It is also so if somebody, perhaps the command itself, has
// emptied the node's TMPDIR, or if TMPDIR is another one after a restart, as with
// PrivateTmp of systemd. If the service manager ends the
// command together with the agent (KillMode=control-group), the node is lost, too;
// Consul's packages have KillMode=process. A node without an acknowledgement and
// without a trace did not run the command: its state is StateNoResponse.
//
// A node keeps the output in a directory below its TMPDIR, which only the agent's
// user can read. That takes as much disk as the command prints, but no more than
// WithMaxOutput allows. If the disk is full the command goes on, and the node's
// error says so if output may be missing. The directory is gone d, the lost
// timeout and a minute after the command's end. If the node was restarted
// meanwhile, a later run under the runner removes the directory.
//
// WithTimeout says what a node needs. The node needs tail and tee as well. The
// option does not work on Windows agents. Given twice, the later value counts.
func WithRecovery(d time.Duration) Option {
	return func(c *config) error { return setPositive(&c.recovery, "WithRecovery", d) }
}

// WithReplicationWait makes the run wait for d between the job and the event,
// as the flag -wait-repl of `consul exec` does. The default is 0. It is not
// needed: an agent whose stale read does not find the job asks the leader.
// Given twice, the later value counts.
func WithReplicationWait(d time.Duration) Option {
	return func(c *config) error {
		if d < 0 {
			return badValue("WithReplicationWait", d, errors.New("is negative"))
		}
		c.replicationWait = d
		return nil
	}
}

// WithoutDiscovery does not ask Consul's catalog which nodes to expect. The run
// then ends by silence, as `consul exec` does: when no node is running and
// nothing has come for the wait. With WithMinNodes it ends when that many nodes
// have exited and none is running. The names of WithNodes are still expected,
// and the run ends with them. Given twice, it is the same.
func WithoutDiscovery() Option {
	return func(c *config) error {
		c.noDiscovery = true
		return nil
	}
}

// WithPrefix sets the folder of Consul's KV store that holds the job. The
// default is "_rexec". Agents follow any prefix that their token may write to.
// The job is gone from there when the run ends. If there are many nodes or much
// output, the keys that were read go during the run. Given twice, the later
// value counts.
func WithPrefix(prefix string) Option {
	return func(c *config) error {
		if err := checkPrefix(prefix); err != nil {
			return badValue("WithPrefix", prefix, err)
		}
		c.prefix = prefix
		return nil
	}
}

// WithDatacenter runs in the datacenter dc, through the same agent. A healthy
// server of that datacenter then holds the session. If Consul's autopilot
// removes that server from the catalog, the run ends with ErrSessionLost. To
// find it the token needs service:read on "consul" and node:read. For a
// datacenter other than the agent's own, Consul 1.22 requires that the agent is
// a server; 1.8 does not. Given twice, the later value counts.
func WithDatacenter(dc string) Option {
	return func(c *config) error {
		if dc == "" {
			return badValue("WithDatacenter", dc, errors.New("is empty"))
		}
		c.datacenter = dc
		return nil
	}
}

// WithConfig says how to reach Consul. The default is api.DefaultConfig, which
// follows CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN and the other variables of
// Consul's tools. New reads conf and does not change it, nor its Transport and
// HttpClient. If conf has neither of these, runs with the same settings share
// their connections, which are closed with the last run, and Consul's answers
// are not compressed: near Consul that is cheaper for both sides. If Consul is
// far away, give a Transport. A Namespace or Partition other than the default
// is an error, also from CONSUL_NAMESPACE and CONSUL_PARTITION: agents look for
// jobs in the default ones only. Given twice, the later value counts.
func WithConfig(conf *api.Config) Option {
	return func(c *config) error {
		if conf == nil {
			return badValue("WithConfig", nil, errors.New("no config"))
		}
		c.apiConfig = conf
		return nil
	}
}

// WithClient uses the caller's client, which may serve any number of runs at
// once. Its connections stay open after the run. Make one client for all runs:
// runs with different clients know nothing of each other, and each client keeps
// connections of its own. If other programs use up the connections that the
// agent grants, the runs get by with those that the client's transport keeps
// idle: see MaxIdleConnsPerHost of http.Transport. If the client was made for
// another datacenter than its agent's, give WithDatacenter too. It has to use
// the default namespace and partition. Much output takes more CPU to read than
// with WithConfig, as consul/api then decodes it. Given twice, the later value
// counts.
func WithClient(client *api.Client) Option {
	return func(c *config) error {
		if client == nil {
			return badValue("WithClient", nil, errors.New("no client"))
		}
		c.client = client
		return nil
	}
}

// WithToken uses this ACL token for every request of the run, in place of that
// of the client or config, of the environment, or of the agent. So runs with
// tokens of their own can share one client. It is in no log and no error. New
// refuses a token that is empty, or has a character that no header can carry.
// Given twice, the later value counts.
func WithToken(token string) Option {
	return func(c *config) error {
		switch {
		case token == "":
			return badValue("WithToken", token, errors.New("is empty"))
		case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
			return &OptionError{Option: "WithToken", Err: errors.New("has a character that no header can carry")}
		}
		c.token = token
		return nil
	}
}

// WithCapture keeps the first maxBytes bytes of each node's output in its
// NodeResult. The default is 0, none. Given twice, the later value counts.
func WithCapture(maxBytes int) Option {
	return func(c *config) error {
		if maxBytes < 0 {
			return badValue("WithCapture", maxBytes, errors.New("is negative"))
		}
		c.capture = maxBytes
		return nil
	}
}

// WithLogger logs each step of the run at debug level, and what is out of order
// at warning level. Each line has the run's ID. Neither the token nor the
// command is logged. The default logs nothing. Given twice, the later value
// counts.
func WithLogger(logger *slog.Logger) Option {
	return func(c *config) error {
		if logger == nil {
			return badValue("WithLogger", nil, errors.New("no logger"))
		}
		c.logger = logger
		return nil
	}
}
