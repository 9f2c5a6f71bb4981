package main

import (
	"net/http"
	"slices"
	"time"
)

// A summary is what GET /runs says of a run.
type summary struct {
	ID string `json:"id"`
	order
	User         string    `json:"user,omitempty"` // who has started it, if the service knows
	State        string    `json:"state"`          // running, succeeded or failed
	Error        string    `json:"error,omitempty"`
	Started      time.Time `json:"started"`
	Ended        time.Time `json:"ended,omitzero"`
	Counts       tally     `json:"counts"` // of nodes
	OutputBytes  int64     `json:"output_bytes"`
	DroppedBytes int64     `json:"dropped_bytes"` // of OutputBytes: no longer kept
}

func (r *run) summary() summary {
	s := summary{ID: r.id, order: r.order, User: r.user, State: "running", Started: r.started.UTC(), Counts: r.counted()}
	s.OutputBytes, s.DroppedBytes = r.record.bytes()
	if r.over() {
		s.State, s.Ended = "succeeded", r.ended.UTC()
		if err := r.result.Err(); err != nil {
			s.State, s.Error = "failed", describe(err)
		}
	}
	return s
}

// list sends the runs that can be read, the latest first.
func (s *server) list(w http.ResponseWriter, _ *http.Request) {
	summaries := []summary{}
	s.mu.Lock()
	for _, r := range s.runs {
		summaries = append(summaries, r.summary())
	}
	s.mu.Unlock()
	slices.SortFunc(summaries, func(a, b summary) int { return b.Started.Compare(a.Started) })
	writeJSON(w, http.StatusOK, map[string]any{"runs": summaries})
}
