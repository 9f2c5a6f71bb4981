package consulexec

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"regexp/syntax"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec/internal/runner"
)

const (
	// defaultPrefix is the folder of `consul exec`. ACL policies for remote exec
	// usually name it.
	defaultPrefix = "_rexec"

	// eventName is the user event that starts remote execution. Agents listen
	// to no other name.
	eventName = "_rexec"

	// minWait is the shortest Wait. An agent writes an empty chunk through Raft
	// after each Wait without output, so a shorter one floods the servers.
	minWait = 100 * time.Millisecond

	// maxEventPayload is the largest body that PUT /v1/event/fire takes.
	maxEventPayload = 300

	// maxEventSize is the largest event that gossip takes, filters included.
	// Consul keeps the default of Serf's UserEventSizeLimit.
	maxEventSize = 512

	// Each event carries Serf's Lamport time, the number of events before it.
	// It takes one byte in a young cluster, and five at most.
	minLamportSize = 1
	maxLamportSize = 5

	// sessionIDLength is the length of a session's UUID in text.
	sessionIDLength = 36
)

// jobSpec is the document in the key "job". Each agent reads it before it
// acknowledges.
type jobSpec struct {
	runner.Job
	Wait time.Duration // nanoseconds
}

// eventPayload is the body of the event. It says where an agent finds its job.
type eventPayload struct {
	Prefix  string
	Session string
}

// dispatchName returns the name of the nth dispatch in keys, from 1. The first
// has none. A name has at most three characters up to the 34,695th dispatch.
func dispatchName(n int) string {
	const decimals, base = 1000, 36
	switch {
	case n == 1:
		return ""
	case n < decimals:
		return strconv.Itoa(n)
	}
	return strconv.FormatInt(int64(n-decimals+10*base*base), base)
}

// longestDispatch is as long as the name of any dispatch that New plans for.
const longestDispatch = "999"

// dispatchPrefix returns the prefix under which agents find the job of a
// dispatch.
func dispatchPrefix(prefix, session, dispatch string) string {
	if dispatch == "" {
		return prefix
	}
	return prefix + "/" + session + "/" + dispatch
}

// nodePath returns a node's name as its agent spells it in keys: agents join the
// parts of a key with path.Join. It is empty if such a key is not below the
// folder of its dispatch.
func nodePath(name string) string {
	const folder = "folder"
	below, ok := strings.CutPrefix(path.Join(folder, name), folder+"/")
	if !ok {
		return ""
	}
	return below
}

// newEvent returns the event for the job of a session, for all nodes that pass
// the filter.
func newEvent(prefix string, filter nodeFilter, session string) *api.UserEvent {
	return &api.UserEvent{
		Name:          eventName,
		Payload:       marshal(eventPayload{prefix, session}),
		NodeFilter:    expression(filter.node),
		ServiceFilter: expression(filter.service),
		TagFilter:     expression(filter.tag),
	}
}

// firstEventSize returns the size of the first event of a run. If that is for
// nodes of the catalog, by name, it is only a lower bound.
func (c *config) firstEventSize() int {
	const most = 20 // more names than an event carries
	e := newEvent(c.prefix, c.filter, strings.Repeat("x", sessionIDLength))
	if c.names != nil {
		e.NodeFilter = nameFilter(c.names[:min(len(c.names), most)])
	}
	return min(eventSize(e), maxEventSize)
}

// eventSize returns the largest size of an event in gossip. Agents encode it as
// MessagePack within MessagePack.
func eventSize(e *api.UserEvent) int {
	field := func(key string, length int) int {
		switch {
		case length == 0:
			return 0
		case length < 32:
			return 1 + len(key) + 1 + length
		case length < 256:
			return 1 + len(key) + 2 + length
		}
		return 1 + len(key) + 3 + length
	}
	inner := len("\x84") + field("ID", sessionIDLength) + field("n", len(e.Name)) + field("p", len(e.Payload)) +
		field("nf", len(e.NodeFilter)) + field("sf", len(e.ServiceFilter)) + field("tf", len(e.TagFilter)) + len("\xa1v\x01")
	outer := len("\x03\x84") + len("\xa5LTime") + maxLamportSize + len("\xa4Name\xb3consul:event:") + len(e.Name) +
		len("\xa7Payload\xda\x00\x00") + len("\xa2CC\xc2")
	return outer + inner
}

// marshal encodes one of the documents above, neither of which can fail.
func marshal(document any) []byte {
	data, err := json.Marshal(document)
	if err != nil {
		panic(err)
	}
	return data
}

// checkPrefix returns what is wrong with a key prefix. Agents join a key's
// parts with path.Join, so they would not find a job under a prefix that is not
// clean.
func checkPrefix(prefix string) error {
	switch {
	case prefix == "":
		return errors.New("is empty")
	case !utf8.ValidString(prefix):
		return errors.New("is not valid UTF-8")
	case strings.ContainsFunc(prefix, unicode.IsControl):
		return errors.New("has a control character, which Consul refuses")
	case strings.HasPrefix(prefix, "/"):
		return errors.New("begins with a slash")
	case prefix == ".", prefix == "..", strings.HasPrefix(prefix, "../"):
		return errors.New("climbs out of its folder")
	case strings.HasPrefix(prefix, " "):
		return errors.New("begins with a space, which Consul refuses")
	case path.Clean(prefix) != prefix:
		return fmt.Errorf("is not a clean path; use %q", path.Clean(prefix))
	}
	// Newer Consuls also refuse a key whose escapes decode to a bad one.
	if decoded, err := url.PathUnescape(prefix); err == nil && decoded != prefix && (strings.Contains(decoded, "..") || strings.Contains(decoded, " ")) {
		return errors.New("has escapes that decode to .. or a space, which Consul refuses")
	}
	payload := longestPayload(prefix)
	if over := len(payload) - maxEventPayload; over > 0 {
		return fmt.Errorf("is %d bytes too long: the event that carries it may have %d", over, maxEventPayload)
	}
	return nil
}

// longestPayload is as long as the payload of any event that New plans for.
func longestPayload(prefix string) []byte {
	session := strings.Repeat("x", sessionIDLength)
	return marshal(eventPayload{dispatchPrefix(prefix, session, longestDispatch), session})
}

// nodeFilter decides which nodes take a job, as their agents do: each
// expression is unanchored, and nil if it was not given.
type nodeFilter struct {
	node    *regexp.Regexp // for the node's name
	service *regexp.Regexp // for the ID of a service registered with the agent
	tag     *regexp.Regexp // for a tag of a service whose ID matches
}

func (f nodeFilter) matchNode(name string) bool {
	return f.node == nil || f.node.MatchString(name)
}

// matchService reports whether one service passes the filters for services.
func (f nodeFilter) matchService(id string, tags []string) bool {
	return (f.service == nil || f.service.MatchString(id)) &&
		(expression(f.tag) == "" || slices.ContainsFunc(tags, f.tag.MatchString))
}

// expression returns re's text as the event carries it. Agents take an empty
// filter for none.
func expression(re *regexp.Regexp) string {
	if re == nil {
		return ""
	}
	return re.String()
}

// nameFilter returns the node filter that matches these names and no others. It
// has what the names share once: regexp/syntax factors out each common
// beginning, and a common end is cut off before.
func nameFilter(names []string) string {
	if len(names) == 1 {
		return "^" + regexp.QuoteMeta(names[0]) + "$"
	}
	end := commonEnd(names)
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = regexp.QuoteMeta(strings.TrimSuffix(name, end))
	}
	slices.Sort(quoted)
	re, err := syntax.Parse(strings.Join(quoted, "|"), syntax.Perl)
	if err != nil {
		panic(err) // each part is quoted
	}
	// A group that captures is shorter. Names have their brackets escaped.
	text := strings.ReplaceAll(re.String(), "(?:", "(")
	if re.Op == syntax.OpAlternate {
		text = "(" + text + ")"
	}
	return "^" + text + regexp.QuoteMeta(end) + "$"
}

// commonEnd returns the longest common end of all names.
func commonEnd(names []string) string {
	end := names[0]
	for _, name := range names[1:] {
		for !strings.HasSuffix(name, end) {
			_, size := utf8.DecodeRuneInString(end)
			end = end[size:]
		}
	}
	return end
}

// groupNames splits names into groups whose filters fit, as many names in each
// as possible. It sorts them first, so that similar names share a group. A name
// that does not fit alone has a group of its own.
func groupNames(names []string, fits func(filter string) bool) [][]string {
	names = slices.Sorted(slices.Values(names))
	var groups [][]string
	for len(names) > 0 {
		most := 1
		for most < len(names) && fits(nameFilter(names[:most])) {
			most = min(2*most, len(names))
		}
		n := sort.Search(most, func(i int) bool { return !fits(nameFilter(names[:i+1])) })
		n = max(n, 1)
		groups = append(groups, names[:n])
		names = names[n:]
	}
	return groups
}
