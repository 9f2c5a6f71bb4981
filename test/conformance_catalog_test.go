package test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/internal/devcluster"
	"github.com/consulexec/consulexec/internal/runtest"
)

// rackMeta is the metadata of web-1 and web-2 in the catalog.
var rackMeta = map[string]map[string]string{
	"web-1": {"rack": "a", "zone-id": "z1"},
	"web-2": {"rack": "b"},
}

// metaConfig returns an agent's configuration with a node's metadata, in HCL.
func metaConfig(node string) string {
	var pairs []string
	for key, value := range rackMeta[node] {
		pairs = append(pairs, fmt.Sprintf("%q = %q", key, value))
	}
	return "node_meta {\n" + strings.Join(pairs, "\n") + "\n}\n"
}

// targets returns what Targets says of a command with these options.
func (c cluster) targets(t *testing.T, options ...consulexec.Option) (string, error) {
	t.Helper()
	e, err := consulexec.New("true", append(slices.Clone(options), c.reach)...)
	if err != nil {
		t.Fatal(err)
	}
	names, err := e.Targets(t.Context())
	return strings.Join(names, " "), err
}

// conformExpressions checks which nodes Consul's filter language selects.
func conformExpressions(t *testing.T, c cluster) {
	const refused = "refused"
	for expression, want := range map[string]string{
		`Node == "db-1"`:                                 "db-1",
		`Node=="db-1"`:                                   "db-1",
		`Node != "db-1"`:                                 "off-1 web-1 web-2",
		`Node matches "^web"`:                            "web-1 web-2",
		"Node matches `^web`":                            "web-1 web-2",
		`Node not matches "^web"`:                        "db-1 off-1",
		`Node contains "b-1"`:                            "db-1 web-1",
		`"b-1" not in Node`:                              "off-1 web-2",
		`Node == "a and b"`:                              "",
		`Node matches "^web" and Node != "web-1"`:        "web-2",
		`Node == "db-1" or Node == "off-1"`:              "db-1 off-1",
		`Node == "db-1" or Node == "x" and Node==web`:    "db-1",
		`( Node == "db-1" or Node=="off-1")`:             "db-1 off-1",
		`not (Node == "db-1" or Node == "off-1")`:        "web-1 web-2",
		`not not Node == "db-1"`:                         "db-1",
		`Meta.rack == b`:                                 "web-2",
		`Meta.rack == "b" and Node != "web-3"`:           "web-2",
		`Meta.rack != "b"`:                               "db-1 off-1 web-1",
		`Meta.rack matches "^b"`:                         "db-1 off-1 web-2", // true without the key
		`Meta.rack not matches "^b"`:                     "db-1 off-1 web-1",
		`"rack" in Meta`:                                 "web-1 web-2",
		`rack not in Meta`:                               "db-1 off-1",
		`Meta contains "rack"`:                           "web-1 web-2",
		`Meta not contains "rack"`:                       "db-1 off-1",
		`a in Meta.rack`:                                 "web-1",
		`a not in Meta.rack`:                             "db-1 off-1 web-2",
		`Meta["zone-id"] == "z1"`:                        "web-1",
		"Meta[ `zone-id` ] == z1":                        "web-1",
		`Meta is not empty`:                              "db-1 off-1 web-1 web-2",
		`Meta is empty`:                                  "",
		`TaggedAddresses.lan matches "^127"`:             "db-1 off-1 web-1 web-2",
		`TaggedAddresses is empty`:                       "",
		`Address matches "^127" and Datacenter == "dc1"`: "db-1 off-1 web-1 web-2",
		`ID != ""`:                                       "db-1 off-1 web-1 web-2",

		`Nope == "db-1"`:               refused,
		`Meta == "db-1"`:               refused,
		`Node.x == "db-1"`:             refused,
		`Node is empty`:                refused,
		`CreateIndex == 1`:             refused,
		`Node matches "("`:             refused,
		`Node in Nodes`:                refused,
		`Node == web-1`:                refused,
		`Address == 127.0.0.1`:         refused,
		`Node == "db-1" Node`:          refused,
		`Node == "db-1`:                refused,
		`(Node == "db-1"`:              refused,
		`Node == "db-1" and`:           refused,
		`Node == "db-1"and Node == ""`: refused,
		`Node = "db-1"`:                refused,
		`Node == "\q"`:                 refused,
		`Meta["rack" == "b"`:           refused,
		`Node == "a" && Node == "b"`:   refused,
		`not`:                          refused,
	} {
		got, err := c.targets(t, consulexec.WithFilter(expression))
		var bad *consulexec.OptionError
		switch {
		case errors.As(err, &bad) && bad.Option == "WithFilter":
			got = refused
		case err != nil && !errors.Is(err, consulexec.ErrNoTargets):
			t.Errorf("%s: %v", expression, err)
		}
		if got != want {
			t.Errorf("%s: %s, want %s; error %v", expression, got, want, err)
		}
	}
}

// conformCatalogFilter runs on nodes that Consul selects.
func conformCatalogFilter(t *testing.T, c cluster) {
	rack := consulexec.WithFilter(`Meta.rack == "b" or Meta.rack == "a"`)
	for _, test := range []struct {
		options []consulexec.Option
		want    string
		targets string
	}{
		{[]consulexec.Option{rack}, "web-1: exit 0, web-2: exit 0", "web-1 web-2"},
		{[]consulexec.Option{rack, consulexec.WithNode("2")}, "web-2: exit 0", "web-2"},
		{[]consulexec.Option{rack, consulexec.WithService("web"), consulexec.WithTag("blue")}, "web-1: exit 0", "web-1"},
		{[]consulexec.Option{rack, consulexec.WithNodes("web-2", "db-1", "gone", "web-1")}, "gone: no response, web-1: exit 0, web-2: exit 0", "web-2 web-1"},
		{[]consulexec.Option{rack, consulexec.WithLimit(1)}, "web-1: exit 0, web-2: skipped", "web-1 web-2"},
		{[]consulexec.Option{consulexec.WithDatacenter("dc2"), consulexec.WithFilter(`Node != "far-1"`)}, "far-2: exit 0", "far-2"},
	} {
		rec, result, err := c.execute(t, "true", test.options...)
		if err != nil || runtest.States(result) != test.want || strings.Join(rec.Targets, " ") != test.targets {
			t.Errorf("error %v, states %s, want %s; targets %q", err, runtest.States(result), test.want, rec.Targets)
		}
	}
	rec, _, err := c.execute(t, "true", consulexec.WithFilter("Rack == b"))
	if !errors.Is(err, consulexec.ErrBadOption) || !strings.Contains(err.Error(), `Selector "Rack" is not valid`) || !slices.Equal(rec.Calls, []string{"error"}) {
		t.Errorf("a bad expression: error %v, callbacks %v", err, rec.Calls)
	}
	rec, _, err = c.execute(t, "true", consulexec.WithFilter("Node == nobody"))
	if !errors.Is(err, consulexec.ErrNoTargets) || !slices.Equal(rec.Calls, []string{"error"}) || rec.Targets != nil {
		t.Errorf("nobody: error %v, callbacks %v", err, rec.Calls)
	}
}

// conformHealthyService makes services ill and well again.
func conformHealthyService(t *testing.T, c cluster) {
	healthy := func(name string) string {
		t.Helper()
		got, err := c.targets(t, consulexec.WithHealthyService(name))
		if err != nil && !errors.Is(err, consulexec.ErrNoTargets) {
			t.Error(err)
		}
		return got
	}
	for _, step := range []struct {
		node, service, status string
		want                  string // of "web"
	}{
		{"web-1", "web-a", api.HealthPassing, "web-1 web-2"},
		{"web-1", "web-a", api.HealthWarning, "web-2"},
		{"web-2", "web-b", api.HealthCritical, ""},
		{"web-2", "web-b", api.HealthPassing, "web-2"},
		{"web-2", "", api.HealthCritical, ""},
		{"web-2", "", api.HealthPassing, "web-2"},
	} {
		if c.setHealth(step.node, step.service, step.status); healthy("web") != step.want {
			t.Errorf("%+v: %q", step, healthy("web"))
		}
	}
	for name, want := range map[string]string{"postgres": "db-1", "consul": "web-1", "pg": "", "web-b": "", "WEB": "", "we": "", "no/such name?": ""} {
		if got := healthy(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	rec, result, err := c.execute(t, "true", consulexec.WithHealthyService("web"))
	if err != nil || runtest.States(result) != "web-2: exit 0" || !slices.Equal(rec.Targets, []string{"web-2"}) {
		t.Errorf("error %v, states %s, targets %q", err, runtest.States(result), rec.Targets)
	}
	_, result, err = c.execute(t, "true", consulexec.WithHealthyService("web"), consulexec.WithNodes("web-1", "db-1", "web-2"), consulexec.WithFilter(`Meta.rack == "b"`))
	if err != nil || runtest.States(result) != "web-2: exit 0" {
		t.Errorf("with more: error %v, states %s", err, runtest.States(result))
	}
}

// conformTargets asks who would run a command, and does not run it.
func conformTargets(t *testing.T, c cluster) {
	for _, test := range []struct {
		options []consulexec.Option
		want    string
		is      error
		absent  string // the text of the error has it
	}{
		{want: "db-1 off-1 web-1 web-2"},
		{options: []consulexec.Option{consulexec.WithNodes("web-2", "gone", "db-1")}, want: "web-2 db-1", absent: "node gone: no response: the catalog has no such agent"},
		{options: []consulexec.Option{consulexec.WithNodes("gone")}, is: consulexec.ErrNoTargets, absent: "node gone"},
		{options: []consulexec.Option{consulexec.WithService("^web$")}, is: consulexec.ErrNoTargets, absent: "IDs, not names"},
		{options: []consulexec.Option{consulexec.WithoutDiscovery()}, is: consulexec.ErrDiscoveryOff},
		{options: []consulexec.Option{consulexec.WithDatacenter("dc2")}, want: "far-1 far-2"},
	} {
		got, err := c.targets(t, test.options...)
		if got != test.want || test.is != nil && !errors.Is(err, test.is) || (err == nil) != (test.is == nil && test.absent == "") {
			t.Errorf("names %q, want %q; error %v", got, test.want, err)
		}
		if err != nil && !strings.Contains(err.Error(), test.absent) {
			t.Errorf("error %v, want %s", err, test.absent)
		}
	}
}

// awaitMeta waits until each node of dc1 has registered its metadata. Until then
// the leader has a shorter entry for a node that has joined.
func awaitMeta(t *testing.T, client *api.Client) {
	t.Helper()
	await(t, "metadata of each node", func() bool {
		nodes, _, err := client.Catalog().Nodes(nil)
		return err == nil && !slices.ContainsFunc(nodes, func(n *api.Node) bool { return len(n.Meta) == 0 })
	})
}

func await(t *testing.T, what string, arrived func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !arrived(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the catalog lacks the %s", what)
		}
	}
}

// setHealth returns exectest's SetHealth for real agents. It waits until the
// catalog has the status.
func setHealth(t *testing.T, agents *devcluster.Cluster) func(node, service, status string) {
	return func(node, service, status string) {
		t.Helper()
		client := agents.Client(node)
		id := "test:" + service
		err := client.Agent().CheckRegister(&api.AgentCheckRegistration{
			ID: id, Name: id, ServiceID: service, AgentServiceCheck: api.AgentServiceCheck{TTL: "1h", Status: status},
		})
		if err == nil {
			err = client.Agent().UpdateTTL(id, "", status)
		}
		if err != nil {
			t.Fatal(err)
		}
		await(t, id+" of "+node, func() bool {
			checks, _, _ := client.Health().Node(node, nil)
			return slices.ContainsFunc(checks, func(c *api.HealthCheck) bool { return c.CheckID == id && c.Status == status })
		})
	}
}

// TestToken has runs of several tokens share one client, on real agents.
func TestToken(t *testing.T) {
	needsConsul(t)
	cluster := devcluster.Start(t, devcluster.Config{Nodes: devcluster.Nodes(1, 1), ACL: true})
	shared := &http.Client{}
	client := func(token string) *api.Client {
		client, err := api.NewClient(&api.Config{Address: cluster.Address("client-1"), Token: token, HttpClient: shared})
		if err != nil {
			t.Fatal(err)
		}
		return client
	}
	enough, err := cluster.Token(policy + catalogPolicy)
	if err != nil {
		t.Fatal(err)
	}
	little, err := cluster.Token(catalogPolicy)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ of, own string }{{cluster.ManagementToken(), little}, {"", enough}, {little, enough}} {
		rec := runtest.NewRecorder(t, client(cluster.ManagementToken()))
		rec.Reach = consulexec.WithClient(client(test.of))
		result, err := rec.Run(t.Context(), "true", consulexec.WithToken(test.own))
		if test.own == little {
			if !errors.Is(err, consulexec.ErrPermissionDenied) || strings.Contains(err.Error(), little) {
				t.Errorf("a token without permissions: %v", err)
			}
		} else if err != nil || runtest.States(result) != "client-1: exit 0, server-1: exit 0" {
			t.Errorf("error %v, states %s", err, runtest.States(result))
		}
	}
}
