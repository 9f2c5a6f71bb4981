package exectest

import (
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
)

func TestSetHealth(t *testing.T) {
	srv := NewServer(
		Node("a", WithNamedService("web-1", "web"), WithNamedService("web-2", "web"), WithService("api")),
		Node("b", WithNamedService("web-3", "web")),
	)
	defer srv.Close()
	healthy := func() string {
		list, _, err := srv.Client().Health().Service("web", "", true, nil)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(names(list, func(e *api.ServiceEntry) string { return e.Service.ID }))
	}
	for _, step := range []struct{ node, service, status, want string }{
		{"a", "web-1", api.HealthWarning, "[web-2 web-3]"}, // an ID
		{"a", "web", api.HealthCritical, "[web-3]"},        // a name
		{"a", "web-2", api.HealthPassing, "[web-2 web-3]"},
		{"a", "api", api.HealthCritical, "[web-2 web-3]"}, // another service
		{"b", "", api.HealthCritical, "[web-2]"},          // the node itself
		{"b", "", api.HealthPassing, "[web-2 web-3]"},
	} {
		if srv.SetHealth(step.node, step.service, step.status); healthy() != step.want {
			t.Errorf("%v: healthy are %s", step, healthy())
		}
	}
	checks, _, err := srv.Client().Health().Node("a", nil)
	if got, want := fmt.Sprint(statuses(checks)), "[a:serfHealth:passing a:service:api:critical a:service:web-1:critical a:service:web-2:passing]"; err != nil || got != want {
		t.Errorf("checks %s, %v", got, err)
	}
}

// TestSetHealthWakes changes the health while a query waits for that.
func TestSetHealthWakes(t *testing.T) {
	srv := catalogServer()
	defer srv.Close()
	_, meta, err := srv.Client().Health().State(api.HealthCritical, nil)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	go srv.SetHealth("web-1", "", api.HealthCritical)
	checks, _, err := srv.Client().Health().State(api.HealthCritical, &api.QueryOptions{WaitIndex: meta.LastIndex})
	if got, want := fmt.Sprint(statuses(checks)), "[old:serfHealth:critical web-1:node:critical]"; err != nil || got != want || time.Since(began) > time.Minute {
		t.Errorf("critical checks %s, %v", got, err)
	}
}

func TestSetHealthRefuses(t *testing.T) {
	srv := catalogServer()
	defer srv.Close()
	for _, bad := range [][3]string{{"nope", "", "passing"}, {"web-1", "nope", "passing"}, {"web-1", "web", "fine"}, {"web-1", "serfHealth", "passing"}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("SetHealth takes %q", bad)
				}
			}()
			srv.SetHealth(bad[0], bad[1], bad[2])
		}()
	}
	srv.SetHealth("web-1", "web", "warning") // the lock is free again
}
