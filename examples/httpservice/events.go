package main

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

const (
	maxStreams = 100 // readers of events at once; each holds one batch

	// heartbeat is how long a reader of events waits for a sign of life. Many
	// proxies cut a connection that is silent for 30 or 60 seconds.
	heartbeat = 15 * time.Second

	// writeTimeout is how long a reader may take to read a batch. A reader that
	// was cut off reconnects with Last-Event-ID.
	writeTimeout = 30 * time.Second
)

// events sends the events of a run until its end. It begins after the event
// that the reader has seen last, or at the start.
func (s *server) events(w http.ResponseWriter, req *http.Request) {
	r := s.find(w, req)
	if r == nil {
		return
	}
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		writeError(w, refuse(http.StatusTooManyRequests, "too many readers: %d are connected", maxStreams))
		return
	}
	seen, _ := strconv.Atoi(req.Header.Get("Last-Event-ID")) // an ID that is no number counts as 0
	seen = r.record.nearest(seen)
	if r.record.seenAll(seen) {
		w.WriteHeader(http.StatusNoContent) // makes an EventSource stop reconnecting
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	control := http.NewResponseController(w)
	control.SetWriteDeadline(time.Now().Add(writeTimeout))
	if control.Flush() != nil { // the header: the run may be silent for long
		return
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		batch, more := r.record.after(seen)
		if len(batch) > 0 {
			control.SetWriteDeadline(time.Now().Add(writeTimeout))
			for _, m := range batch {
				if seen = max(seen, m.id); m.id > 0 {
					fmt.Fprintf(w, "id: %d\n", m.id)
				}
				fmt.Fprintf(w, "data: %s\n\n", m.data)
			}
			if control.Flush() != nil || r.record.seenAll(seen) {
				return
			}
			continue
		}
		select {
		case <-more:
		case <-beat.C:
			control.SetWriteDeadline(time.Now().Add(writeTimeout))
			io.WriteString(w, ": the run goes on\n\n")
			if control.Flush() != nil {
				return
			}
		case <-req.Context().Done():
			return
		}
	}
}
