package main

import (
	"context"
	"fmt"
	"log/slog"
)

// steps is a slog.Handler that prints the library's log for -verbose: the steps
// in the words of consul exec, and what is out of order.
type steps struct {
	screen *screen
	json   bool   // standard output is only for JSON objects
	run    string // the ID of the run
	own    bool   // whether the record is about this run; -kill starts another one
}

func (s *steps) Enabled(context.Context, slog.Level) bool { return true }
func (s *steps) WithGroup(string) slog.Handler            { return s }

func (s *steps) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *s
	for _, a := range attrs {
		if a.Key == "run" {
			with.own = a.Value.String() == s.run
		}
	}
	return &with
}

func (s *steps) Handle(_ context.Context, record slog.Record) error {
	if !s.own {
		return nil
	}
	values := make(map[string]slog.Value)
	details := ""
	record.Attrs(func(a slog.Attr) bool {
		values[a.Key] = a.Value
		details += fmt.Sprintf(" %s=%v", a.Key, a.Value)
		return true
	})
	dispatch, ok := values["dispatch"]
	further := ok && dispatch.String() != ""
	switch {
	case record.Level >= slog.LevelInfo:
		s.screen.err(record.Message + ":" + details)
	case s.json:
	case further: // consul exec has one dispatch only
	case record.Message == "session created":
		s.screen.out(faint.Sprintf("Created remote execution session: %v", values["session"]) + "\n")
	case record.Message == "job written":
		s.screen.out(faint.Sprint("Uploaded remote execution spec") + "\n")
	case record.Message == "event fired":
		s.screen.out(faint.Sprintf("Fired remote execution event: %v", values["event"]) + "\n")
	}
	return nil
}
