package exectest

import (
	"io"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"
)

func TestEventFilter(t *testing.T) {
	web := &node{name: "web-1", consulServer: true, services: []service{
		{id: "api-1", name: "api", tags: []string{"blue", "v1"}},
		{id: "db-1", name: "postgres"},
	}}
	for _, test := range []struct {
		node, service, tag string
		want               bool
	}{
		{"", "", "", true},
		{"eb", "", "", true},
		{"^eb", "", "", false},
		{"^(web-1|web-2)$", "", "", true},
		{"", "api", "", true},
		{"", "^api-1$", "", true},
		{"", "postgres", "", false}, // a name; the filter matches IDs
		{"", "consul", "", false},   // only in the catalog
		{"", "api", "bl", true},
		{"", "api", "green", false},
		{"", "db", "blue", false}, // a tag of another service
		{"", "-1", "v1", true},
		{"db", "api", "blue", false},
	} {
		matches, err := newEventFilter(&event{NodeFilter: test.node, ServiceFilter: test.service, TagFilter: test.tag})
		if err != nil || matches(web) != test.want {
			t.Errorf("node %q service %q tag %q: %v, want %v", test.node, test.service, test.tag, !test.want, test.want)
		}
	}
}

func TestEventFireRefuses(t *testing.T) {
	srv := NewServer()
	defer srv.Close()
	for _, test := range []struct {
		path   string
		body   io.Reader
		status int
		text   string
	}{
		{"event/fire/", strings.NewReader("x"), 400, "Missing name"},
		{"event/fire/_rexec", io.MultiReader(strings.NewReader("x")), 400, "Event payload size"}, // without a Content-Length
		{"event/fire/_rexec", strings.NewReader(strings.Repeat("x", 301)), 413, "Event payload too large"},
		{"event/fire/_rexec", strings.NewReader(strings.Repeat("x", 300)), 200, ""},
		{"event/fire/_rexec?tag=x", nil, 500, "Cannot provide tag filter without service filter"},
		{"event/fire/_rexec?node=(", nil, 500, "Invalid node filter"},
		{"event/fire/_rexec?service=(", nil, 500, "Invalid service filter"},
		{"event/fire/_rexec?service=x&tag=(", nil, 500, "Invalid tag filter"},
	} {
		status, _, body := send(t, srv, "PUT", test.path, test.body)
		if status != test.status || !strings.Contains(body, test.text) {
			t.Errorf("%s: %d %s", test.path, status, body)
		}
	}
}

// TestEventSize checks the longest filters that Consul 1.22.7 was measured to
// accept.
func TestEventSize(t *testing.T) {
	for _, test := range []struct {
		name    string
		payload int
		node    int
		service int
		tag     int
	}{
		{"foo", 0, 409, 0, 0},
		{"foo", 1, 404, 0, 0},
		{"foo", 20, 385, 0, 0},
		{"foo", 31, 374, 0, 0},
		{"foo", 32, 373, 0, 0},
		{"foo", 68, 337, 0, 0},
		{"foo", 200, 206, 0, 0},
		{"foo", 255, 151, 0, 0},
		{"foo", 256, 149, 0, 0},
		{"foo", 290, 115, 0, 0},
		{"_rexec", 0, 403, 0, 0},
		{"_rexec", 68, 331, 0, 0},
		{"_rexec", 200, 200, 0, 0},
		{"averyveryverylongnameofaneventthatisover31", 20, 304, 0, 0},
		{"_rexec", 68, 0, 331, 0},
		{"_rexec", 68, 10, 317, 0},
		{"_rexec", 68, 40, 286, 0},
		{"_rexec", 68, 0, 10, 317},
		{"_rexec", 68, 100, 10, 213},
	} {
		e := &event{
			ID: newID(), Name: test.name, Payload: make([]byte, test.payload), NodeFilter: strings.Repeat("x", test.node),
			ServiceFilter: strings.Repeat("x", test.service), TagFilter: strings.Repeat("x", test.tag),
		}
		if got := e.encodedSize(1); got != maxEvent {
			t.Errorf("%+v: encoded in %d bytes, want %d", test, got, maxEvent)
		}
		if early, late := e.encodedSize(1), e.encodedSize(200); late != early+1 {
			t.Errorf("%+v: Lamport time 200 takes %d bytes more than 1, want 1", test, late-early)
		}
	}
}

func TestEventTooLarge(t *testing.T) {
	srv := NewServer()
	defer srv.Close()
	event := &api.UserEvent{Name: "_rexec", Payload: make([]byte, 68), NodeFilter: strings.Repeat("x", 331)}
	id, _, err := srv.Client().Event().Fire(event, nil)
	if err != nil || len(id) != 36 {
		t.Errorf("331 bytes: %q, %v", id, err)
	}
	event.NodeFilter += "x"
	_, _, err = srv.Client().Event().Fire(event, nil)
	if !isStatus(err, 500, "user event exceeds configured limit of 512 bytes") {
		t.Errorf("332 bytes: %v", err)
	}
}
