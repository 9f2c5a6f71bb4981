package consulexec

import (
	"encoding/json"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/consul/api"
)

const (
	// defaultPrefix is where `consul exec` puts its jobs, and where operators
	// expect to allow them in ACL policies.
	defaultPrefix = "_rexec"

	// eventName is the user event that agents take as a call to remote
	// execution. It can't be chosen.
	eventName = "_rexec"

	// minWait is the shortest Wait. An agent writes an empty chunk through Raft
	// after each Wait without output, so a shorter one floods the servers.
	minWait = 100 * time.Millisecond

	// maxEventPayload is the largest body that PUT /v1/event/fire takes.
	maxEventPayload = 300

	// maxEventSize is the largest event that gossip takes, filters and all:
	// Consul leaves Serf's UserEventSizeLimit as it is.
	maxEventSize = 512

	// Each event carries Serf's Lamport time, the number of events before it:
	// one byte in a young cluster, five at most.
	minLamportSize = 1
	maxLamportSize = 5

	// maxChunk is how many bytes of output agents put into a key, at most.
	maxChunk = 4096

	// sessionIDLength is the length of a session's UUID in text.
	sessionIDLength = 36
)

// jobSpec is the document in the key "job", which each agent reads before it
// acknowledges. Agents look at Script first, then at Args, then at Command.
type jobSpec struct {
	Command string        `json:",omitempty"`
	Args    []string      `json:",omitempty"`
	Script  []byte        `json:",omitempty"`
	Wait    time.Duration // nanoseconds
}

// eventPayload is the body of the event: where an agent finds its job.
type eventPayload struct {
	Prefix  string
	Session string
}

// event makes the event that tells nodes of a session's job.
func (c *config) event(session string) *api.UserEvent {
	return &api.UserEvent{
		Name:          eventName,
		Payload:       marshal(eventPayload{c.prefix, session}),
		NodeFilter:    expression(c.filter.node),
		ServiceFilter: expression(c.filter.service),
		TagFilter:     expression(c.filter.tag),
	}
}

// eventSize is the size of an event in gossip, as agents encode it: MessagePack
// within MessagePack.
func eventSize(e *api.UserEvent, lamport int) int {
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
	outer := len("\x03\x84") + len("\xa5LTime") + lamport + len("\xa4Name\xb3consul:event:") + len(e.Name) +
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

// checkPrefix says what is wrong with a key prefix. Agents join its parts with
// path.Join, so one that is not clean would be read elsewhere than written.
func checkPrefix(prefix string) error {
	switch {
	case prefix == "":
		return fmt.Errorf("is empty")
	case !utf8.ValidString(prefix):
		return fmt.Errorf("is not valid UTF-8")
	case strings.ContainsFunc(prefix, unicode.IsControl):
		return fmt.Errorf("has a control character, which Consul refuses")
	case strings.HasPrefix(prefix, "/"):
		return fmt.Errorf("begins with a slash")
	case prefix == ".", prefix == "..", strings.HasPrefix(prefix, "../"):
		return fmt.Errorf("climbs out of its folder")
	case strings.HasPrefix(prefix, " "):
		return fmt.Errorf("begins with a space, which Consul refuses")
	case path.Clean(prefix) != prefix:
		return fmt.Errorf("is not a clean path; that would be %q", path.Clean(prefix))
	}
	// Newer Consuls take escapes in a key for what they may be an escape of.
	if decoded, err := url.PathUnescape(prefix); err == nil && decoded != prefix && (strings.Contains(decoded, "..") || strings.Contains(decoded, " ")) {
		return fmt.Errorf("has escapes that may decode to a climbing path or a space, which Consul refuses")
	}
	payload := marshal(eventPayload{prefix, strings.Repeat("x", sessionIDLength)})
	if over := len(payload) - maxEventPayload; over > 0 {
		return fmt.Errorf("is %d bytes too long: the event that carries it may have %d", over, maxEventPayload)
	}
	return nil
}

// A keyKind says what a key under a job means.
type keyKind uint8

const (
	keyUnknown keyKind = iota
	keyJob             // the job itself
	keyAck             // a node has read the job and is about to run it
	keyOutput          // a chunk of output, or a heartbeat where it is empty
	keyExit            // the exit status, as decimal text
)

// String returns the last part of such a key, for the log.
func (k keyKind) String() string {
	return [...]string{"unknown", "job", "ack", "out", "exit"}[k]
}

// jobKey is a key under a job, taken apart.
type jobKey struct {
	node  string
	kind  keyKind
	chunk int // of keyOutput: its number, from 0
}

// parseKey takes a key apart, relative to <prefix>/<session>/. It reads from
// the right: a node may be called "job" or "out", and its name may even hold a
// slash. The node's name is a part of key, not a copy.
func parseKey(key string) jobKey {
	if key == "job" {
		return jobKey{kind: keyJob}
	}
	rest, last, ok := cutLast(key)
	if !ok {
		return jobKey{}
	}
	switch last {
	case "ack":
		return jobKey{node: rest, kind: keyAck}
	case "exit":
		return jobKey{node: rest, kind: keyExit}
	}
	node, dir, ok := cutLast(rest)
	if !ok || dir != "out" {
		return jobKey{}
	}
	chunk, ok := parseChunk(last)
	if !ok {
		return jobKey{}
	}
	return jobKey{node: node, kind: keyOutput, chunk: chunk}
}

// path spells the key as agents do, relative to <prefix>/<session>/: the other
// way round of parseKey. A key of no known kind has none.
func (k jobKey) path() string {
	switch k.kind {
	case keyJob:
		return "job"
	case keyAck:
		return k.node + "/ack"
	case keyOutput:
		return fmt.Sprintf("%s/out/%05x", k.node, k.chunk)
	case keyExit:
		return k.node + "/exit"
	}
	return ""
}

// cutLast cuts key at its last slash. A part that is empty is no part.
func cutLast(key string) (before, last string, ok bool) {
	i := strings.LastIndexByte(key, '/')
	if i <= 0 {
		return "", "", false
	}
	return key[:i], key[i+1:], true
}

// parseChunk reads a chunk's number: at least five digits of lower-case hex, as
// the format %05x writes it. Another spelling of the same number is refused, so
// that no chunk counts twice.
func parseChunk(digits string) (int, bool) {
	if len(digits) < 5 || (len(digits) > 5 && digits[0] == '0') || len(digits) > 7 {
		return 0, false
	}
	n := 0
	for i := range len(digits) {
		switch c := digits[i]; {
		case '0' <= c && c <= '9':
			n = n<<4 | int(c-'0')
		case 'a' <= c && c <= 'f':
			n = n<<4 | int(c-'a'+10)
		default:
			return 0, false
		}
	}
	return n, true
}

// parseExit reads an exit status: decimal text, -1 where a signal ended the
// process.
func parseExit(value []byte) (int, error) {
	code, err := strconv.Atoi(string(value))
	if err != nil {
		const enough = 32 // of a stranger's value, in an error's text
		return 0, fmt.Errorf("exit status %q is not a number", value[:min(len(value), enough)])
	}
	return code, nil
}

// nodeFilter tells which nodes take a job, as their agents decide it: each
// expression is unanchored, and nil where it was not given.
type nodeFilter struct {
	node    *regexp.Regexp // on the node's name
	service *regexp.Regexp // on the ID of a service registered with the agent
	tag     *regexp.Regexp // on a tag of a service whose ID matches
}

func (f nodeFilter) matchNode(name string) bool {
	return f.node == nil || f.node.MatchString(name)
}

// matchService tells whether one service satisfies the filters on services.
func (f nodeFilter) matchService(id string, tags []string) bool {
	return (f.service == nil || f.service.MatchString(id)) && f.matchTags(tags)
}

func (f nodeFilter) matchTags(tags []string) bool {
	if expression(f.tag) == "" {
		return true // agents take an empty filter for none
	}
	for _, tag := range tags {
		if f.tag.MatchString(tag) {
			return true
		}
	}
	return false
}

// expression returns re's text, as the event carries it: empty for none.
func expression(re *regexp.Regexp) string {
	if re == nil {
		return ""
	}
	return re.String()
}
