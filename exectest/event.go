package exectest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
)

const (
	// rexec is the name of the event that makes agents run a job.
	rexec = "_rexec"

	// maxPayload is what the HTTP API takes as an event's payload.
	maxPayload = 300

	// maxEvent is what the gossip layer takes as a whole event, encoded.
	maxEvent = 512
)

// An event is one as the HTTP API shows it.
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
	filter, err := newFilter(e)
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

// fire counts an event and returns the nodes that it reaches.
func (dc *datacenter) fire(s *Server, e *event, matches filter) ([]*node, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.encodedSize(dc.eventTime+1) > maxEvent {
		return nil, fmt.Errorf("error broadcasting event: encoded user event exceeds configured limit of %d bytes after encoding", maxEvent)
	}
	dc.eventTime++
	var reached []*node
	for _, n := range dc.nodes {
		if e.Name == rexec && n.alive && !n.external && !n.execDisabled && matches(n) {
			reached = append(reached, n)
		}
	}
	return reached, nil
}

// A filter tells whether an event is for a node.
type filter func(*node) bool

// newFilter compiles an event's filters, unanchored regular expressions: one on the node's name, one on the IDs of its
// services, one on the tags of the services that match.
func newFilter(e *event) (filter, error) {
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

// encodedSize is how many bytes the event takes in gossip: MessagePack within MessagePack, of which the outer, older one
// knows no lengths of one byte.
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
		inner += str(len("p")) + max(2+n, str(n)) // bytes know no length within the type byte
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

// A payload is what the event of a job carries.
type payload struct {
	Prefix  string
	Session string
}

func (e *event) payload() (payload, error) {
	var p payload
	err := json.Unmarshal(e.Payload, &p)
	return p, err
}
