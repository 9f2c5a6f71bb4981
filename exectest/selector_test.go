package exectest

import (
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"
)

// TestFilter filters the catalog's nodes. The conformance tests filter on real
// Consul, too.
func TestFilter(t *testing.T) {
	srv := NewServer(
		Node("web-1", WithMeta(map[string]string{"rack": "a", "zone-id": "z1"})),
		Node("web-2", WithMeta(map[string]string{"rack": "b"})),
		Node("db", External()),
		Node("old", Down()),
	)
	defer srv.Close()
	const refused = "refused"
	for expression, want := range map[string]string{
		"":                        "db old web-1 web-2",
		`Node == "db"`:            "db",
		`Node==db`:                "db",
		`Node != "db"`:            "old web-1 web-2",
		`Node matches "^web"`:     "web-1 web-2",
		"Node matches `^web`":     "web-1 web-2",
		`Node not matches "^web"`: "db old",
		`Node contains "b-1"`:     "web-1",
		`"b-1" not in Node`:       "db old web-2",
		`Node == "a and b"`:       "",
		`Node matches "^web" and Node != "web-1"`:        "web-2",
		`Node == "db" or Node == "old"`:                  "db old",
		`Node == db or Node == old and Node==web`:        "db",
		`( Node == db or Node==old)`:                     "db old",
		`not (Node == "db" or Node == "old")`:            "web-1 web-2",
		`not not Node == "db"`:                           "db",
		`Meta.rack == "b"`:                               "web-2",
		`Meta.rack != "b"`:                               "db old web-1",
		`Meta.rack matches "^b"`:                         "db old web-2", // true without the key
		`Meta.rack not matches "^b"`:                     "db old web-1",
		`"rack" in Meta`:                                 "web-1 web-2",
		`Meta not contains "rack"`:                       "db old",
		`a in Meta.rack`:                                 "web-1",
		`a not in Meta.rack`:                             "db old web-2",
		`Meta["zone-id"] == "z1"`:                        "web-1",
		"Meta[ `zone-id` ] == z1":                        "web-1",
		`Meta is not empty`:                              "db old web-1 web-2",
		`Meta is empty`:                                  "",
		`TaggedAddresses.lan == "127.0.0.11"`:            "web-1",
		`Address matches "^127" and Datacenter == "dc1"`: "db old web-1 web-2",

		`Nope == "db"`:            refused,
		`Meta == "db"`:            refused,
		`Node.x == "db"`:          refused,
		`Node is empty`:           refused,
		`CreateIndex == 1`:        refused,
		`Node matches "("`:        refused,
		`Node in Nodes`:           refused,
		`Node == web-1`:           refused,
		`Node == 127.0.0.1`:       refused,
		`Node == "db" Node`:       refused,
		`Node == "db`:             refused,
		`(Node == "db"`:           refused,
		`Node == "db" and`:        refused,
		`Node == "db"and Node`:    refused,
		`Node = "db"`:             refused,
		`Node == "\q"`:            refused,
		`Meta["rack" == "b"`:      refused,
		`not`:                     refused,
		`Node == "db" && Node==a`: refused,
		` `:                       refused,
	} {
		nodes, _, err := srv.Client().Catalog().Nodes(&api.QueryOptions{Filter: expression})
		got := strings.Join(names(nodes, func(n *api.Node) string { return n.Node }), " ")
		if isStatus(err, 500, "Failed to create boolean expression evaluator: ") {
			got = refused
		} else if err != nil {
			t.Error(err)
		}
		if got != want {
			t.Errorf("%s: %s, %v; want %s", expression, got, err, want)
		}
	}
}

// TestFilterNested filters lists whose items have numbers, lists and structures.
func TestFilterNested(t *testing.T) {
	srv := catalogServer()
	defer srv.Close()
	for expression, want := range map[string]string{
		`Service.Port == 8300`:                "web-2",
		`Service.Port != "0x206c"`:            "",
		`Service.Port == x`:                   "refused",
		`Service.Tags contains "x"`:           "",
		`Service.Tags is empty`:               "web-2",
		`Checks.Status == "passing"`:          "web-2",
		`Checks.Status != "passing"`:          "",
		`Service.EnableTagOverride == F`:      "web-2",
		`Service.Proxy.LocalServicePort == 0`: "web-2", // a nil pointer
		`Checks is not empty`:                 "web-2",
	} {
		entries, _, err := srv.Client().Health().Service("consul", "", false, &api.QueryOptions{Filter: expression})
		got := strings.Join(names(entries, func(e *api.ServiceEntry) string { return e.Node.Node }), " ")
		if err != nil {
			got = "refused"
		}
		if got != want {
			t.Errorf("%s: %s, %v; want %s", expression, got, err, want)
		}
	}
}
