package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
)

const (
	maxBody  = 64 << 10         // bytes of a request
	bodyTime = 10 * time.Second // for reading a request
)

// An order says what to run, and on which nodes. Without node and nodes, these
// are all nodes. A field that is there but empty is an error: it may come from
// a variable that nobody has set, and must not mean every node.
type order struct {
	Command string    `json:"command"`
	Node    pattern   `json:"node,omitempty"`
	Nodes   nodeNames `json:"nodes,omitempty"`
}

// A pattern is a regular expression for the names of nodes.
type pattern string

func (p *pattern) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return fmt.Errorf("node: %w", err)
	}
	if text == "" {
		return errors.New("node is empty or null: leave it out to run on all nodes")
	}
	*p = pattern(text)
	return nil
}

// nodeNames are names of nodes. None has a comma or a space: that is more likely
// two names in one string, and the page could not show it as one.
type nodeNames []string

func (n *nodeNames) UnmarshalJSON(data []byte) error {
	var list []string
	if err := json.Unmarshal(data, &list); err != nil {
		return fmt.Errorf("nodes: %w", err)
	}
	if len(list) == 0 {
		return errors.New("nodes is empty or null: leave it out to run on all nodes")
	}
	for i, name := range list {
		if name == "" {
			return fmt.Errorf("nodes: name %d of %d is empty", i+1, len(list))
		}
		if strings.ContainsFunc(name, func(r rune) bool { return r == ',' || unicode.IsSpace(r) }) {
			return fmt.Errorf("nodes: name %d of %d, %q, has a comma or a space: each name is a string of its own", i+1, len(list), name)
		}
	}
	*n = list
	return nil
}

// readOrder reads an order from the body of a request.
func readOrder(w http.ResponseWriter, req *http.Request) (order, error) {
	var o order
	if kind, _, err := mime.ParseMediaType(req.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return o, refuse(http.StatusUnsupportedMediaType, "the Content-Type must be application/json")
	}
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime))
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxBody))
	if err == nil {
		err = o.decode(body)
	}
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return o, refuse(http.StatusRequestEntityTooLarge, "%w", err)
	} else if err != nil {
		return o, refuse(http.StatusBadRequest, "read the request: %w", err)
	}
	return o, nil
}

// decode reads an order, and nothing else, from a body.
func (o *order) decode(body []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(o); err != nil {
		return err
	}
	if decoder.Decode(new(any)) != io.EOF {
		return errors.New("the request has more than one JSON value")
	}
	return checkFields(body)
}

// checkFields refuses what encoding/json accepts: a field that is there twice, or
// spelt with other letters, such as "Node". Another program that reads the order,
// as a proxy does that checks it, may understand it differently.
func checkFields(body []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(body))
	if start, err := decoder.Token(); err != nil || start != json.Delim('{') {
		return err
	}
	seen := map[any]bool{"command": false, "node": false, "nodes": false}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return err
		}
		if twice, known := seen[name]; !known {
			return fmt.Errorf("there is no field %q", name)
		} else if twice {
			return fmt.Errorf("the field %q is there twice", name)
		}
		seen[name] = true
		if err := decoder.Decode(new(json.RawMessage)); err != nil {
			return err
		}
	}
	return nil
}

// exec returns the run that is ordered.
func (o order) exec(client *api.Client) (*consulexec.Exec, error) {
	options := []consulexec.Option{consulexec.WithClient(client), consulexec.WithKillOnCancel()}
	if o.Node != "" {
		options = append(options, consulexec.WithNode(string(o.Node)))
	}
	if len(o.Nodes) > 0 {
		options = append(options, consulexec.WithNodes(o.Nodes...))
	}
	e, err := consulexec.New(o.Command, options...)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "%w", err)
	}
	return e, nil
}
