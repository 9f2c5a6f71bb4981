package exectest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
)

const (
	// rexec is the event name that makes agents run a job.
	rexec = "_rexec"

	// maxPayload is the HTTP API's limit for an event's payload, in bytes.
	maxPayload = 300

	// maxEvent is Serf's limit for a whole encoded event, in bytes.
	maxEvent = 512
)

// An event is a user event in the HTTP API's JSON form.
type event struct {
	ID            string
	Name          string
	Payload       []byte
	NodeFilter    string
	ServiceFilter string
	TagFilter     string
	Version       int
	LTime         int
}

func eventFire(c *call) (any, error) {
	if c.id == "" {
		return nil, &httpError{http.StatusBadRequest, "Missing name"}
	}
	if c.ContentLength < 0 {
		return nil, &httpError{http.StatusBadRequest, "Event payload size must be greater than zero"}
	}
	if len(c.body) > maxPayload {
		return nil, &httpError{http.StatusRequestEntityTooLarge, fmt.Sprintf(
			"Event payload too large, received %d bytes, max size: %d bytes.", len(c.body), maxPayload)}
	}
	e := &event{
		ID: newID(), Name: c.id, Version: 1,
		NodeFilter: c.params.Get("node"), ServiceFilter: c.params.Get("service"), TagFilter: c.params.Get("tag"),
	}
	if len(c.body) > 0 {
		e.Payload = c.body
	}
	filter, err := newEventFilter(e)
	if err != nil {
		return nil, err
	}
	reached, err := c.dc.fire(c.srv, e, filter)
	if err != nil {
		return nil, err
	}
	for _, n := range reached {
		c.srv.deliver(n, e)
	}
	return e, nil
}

// fire advances the Lamport clock and returns the nodes that the event reaches.
func (dc *datacenter) fire(s *Server, e *event, matches eventFilter) ([]*node, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.encodedSize(dc.eventTime+1) > maxEvent {
		return nil, fmt.Errorf("error broadcasting event: encoded user event exceeds configured limit of %d bytes after encoding", maxEvent)
	}
	dc.eventTime++
	var reached []*node
	for _, n := range dc.nodes {
		if e.Name != rexec || !n.alive || n.external || n.execDisabled || !matches(n) {
			continue
		}
		if n.misses > 0 {
			n.misses--
			continue
		}
		reached = append(reached, n)
	}
	return reached, nil
}

// An eventFilter reports whether a node accepts an event.
type eventFilter func(*node) bool

// newEventFilter compiles an event's three unanchored regular expressions. They
// match the node's name, the IDs of its services, and the tags of a matching
// service.
func newEventFilter(e *event) (eventFilter, error) {
	if e.TagFilter != "" && e.ServiceFilter == "" {
		return nil, errors.New("Cannot provide tag filter without service filter")
	}
	nodeRE, err := regexp.Compile(e.NodeFilter)
	if err != nil {
		return nil, fmt.Errorf("Invalid node filter: %w", err)
	}
	serviceRE, err := regexp.Compile(e.ServiceFilter)
	if err != nil {
		return nil, fmt.Errorf("Invalid service filter: %w", err)
	}
	tagRE, err := regexp.Compile(e.TagFilter)
	if err != nil {
		return nil, fmt.Errorf("Invalid tag filter: %w", err)
	}
	return func(n *node) bool {
		if !nodeRE.MatchString(n.name) {
			return false
		}
		if e.ServiceFilter == "" {
			return true
		}
		for _, service := range n.services {
			if !serviceRE.MatchString(service.id) {
				continue
			}
			if e.TagFilter == "" {
				return true
			}
			for _, tag := range service.tags {
				if tagRE.MatchString(tag) {
					return true
				}
			}
		}
		return false
	}, nil
}

// encodedSize returns the event's size in gossip, in bytes. An event is
// MessagePack within MessagePack. The outer layer uses the older format, which
// has no one-byte lengths.
func (e *event) encodedSize(lamport uint64) int {
	str := func(length int) int {
		switch {
		case length < 32:
			return 1 + length
		case length < 256:
			return 2 + length
		default:
			return 3 + length
		}
	}
	inner := 1 + str(len("ID")) + str(len(e.ID)) + str(len("n")) + str(len(e.Name)) + str(len("v")) + 1
	if n := len(e.Payload); n > 0 {
		inner += str(len("p")) + max(2+n, str(n)) // byte strings have no length in the type byte
	}
	if e.NodeFilter != "" {
		inner += str(len("nf")) + str(len(e.NodeFilter))
	}
	if e.ServiceFilter != "" {
		inner += str(len("sf")) + str(len(e.ServiceFilter))
	}
	if e.TagFilter != "" {
		inner += str(len("tf")) + str(len(e.TagFilter))
	}
	raw := func(length int) int {
		if length < 32 {
			return 1 + length
		}
		return 3 + length
	}
	number := func(n uint64) int {
		switch {
		case n < 1<<7:
			return 1
		case n < 1<<8:
			return 2
		case n < 1<<16:
			return 3
		default:
			return 5
		}
	}
	const messageType = 1
	return messageType + 1 + raw(len("LTime")) + number(lamport) + raw(len("Name")) + raw(len("consul:event:")+len(e.Name)) +
		raw(len("Payload")) + raw(inner) + raw(len("CC")) + 1
}

// A payload is the JSON payload of a job's event.
type payload struct {
	Prefix  string
	Session string
}

func (e *event) payload() (payload, error) {
	var p payload
	err := json.Unmarshal(e.Payload, &p)
	return p, err
}
