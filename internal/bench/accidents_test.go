package main

import (
	"slices"
	"testing"

	"github.com/consulexec/consulexec/internal/accidents"
)

// TestMeasureAccidents destroys the session of a run of each client. Only with
// recovery are nodes reported whole.
func TestMeasureAccidents(t *testing.T) {
	if testing.Short() {
		t.Skip("starts real Consul agents")
	}
	t.Parallel()
	group := accidents.Groups[len(accidents.Groups)-1]
	i := slices.IndexFunc(group.Accidents, func(a accidents.Accident) bool { return a.Name == "the session is destroyed" })
	group.Accidents = group.Accidents[i : i+1]
	rows, err := measureGroup(t.Context(), work{Accidents: true}, group, options{runs: 1})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"0 of 5", "5 of 5", "0 of 5"}; len(rows) != 1 || !slices.Equal(rows[0].figures, want) || len(rows[0].problems) > 0 {
		t.Errorf("rows %q, want %q", rows, want)
	}
}
