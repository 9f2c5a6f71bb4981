package runner

import (
	"reflect"
	"testing"
	"time"
)

// TestParse makes jobs of specs and reads the specs from them. Each field of Spec
// is in one of them at least.
func TestParse(t *testing.T) {
	script := []byte("#!/bin/sh -e\necho \x00\xff")
	specs := []Spec{
		{Command: "echo 'it''s'", MaxOutput: NoLimit},
		{Command: "uptime", Shell: "/bin/bash", MaxOutput: NoLimit},
		{Args: []string{"printf", "", "a\nb"}, MaxOutput: 0},
		{Script: script, MaxOutput: maxCounted},
		{Script: script, Args: []string{"", "-x"}, Shell: "/bin/bash", MaxOutput: NoLimit},
		{Script: []byte("echo"), MaxOutput: NoLimit},
		{Script: script, Stdin: []byte("in\x00put\n"), Env: map[string]string{"A": "it's\n'", "B": "", "C": "unset A\nexport A='x'\n"}, MaxOutput: 7},
		{Command: "x", Env: map[string]string{"A": "'"}, MaxOutput: NoLimit},
		{Command: "x", Stdin: []byte("in"), Dir: "/a b", Timeout: time.Minute, Keep: time.Hour, MaxOutput: NoLimit},
	}
	var set Spec // has each field that a spec sets
	for _, spec := range specs {
		spec.Killable = true
		for i := range reflect.TypeFor[Spec]().NumField() {
			if field := reflect.ValueOf(spec).Field(i); !field.IsZero() {
				reflect.ValueOf(&set).Elem().Field(i).Set(field)
			}
		}
		p, ok := Parse(spec.Job("id"))
		if want := (Parsed{Role: RoleStart, ID: "id", Spec: spec}); !ok || !reflect.DeepEqual(p, want) {
			t.Errorf("%+v, %v, want %+v", p, ok, want)
		}
	}
	for i := range reflect.TypeFor[Spec]().NumField() {
		if reflect.ValueOf(set).Field(i).IsZero() {
			t.Errorf("no spec sets %s", reflect.TypeFor[Spec]().Field(i).Name)
		}
	}
	if p, ok := Parse(End("id")); !ok || !reflect.DeepEqual(p, Parsed{Role: RoleEnd, ID: "id"}) {
		t.Errorf("%+v, %v", p, ok)
	}
	if p, ok := Parse(Ask("id", "name", 7, time.Minute)); !ok || !reflect.DeepEqual(p, Parsed{Role: RoleAsk, ID: "id", Name: "name", From: 7, Keep: time.Minute}) {
		t.Errorf("%+v, %v", p, ok)
	}
	for _, job := range []Job{{}, {Command: "uptime"}, {Args: []string{"/bin/sh", "-c", ": consulexec-id start", "sh", "id", "", ""}}, {Script: script}} {
		if p, ok := Parse(job); ok {
			t.Errorf("%+v is taken for %+v", job, p)
		}
	}
}
