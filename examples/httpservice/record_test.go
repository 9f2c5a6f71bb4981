package main

import (
	"context"
	"fmt"
	"io"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
)

// A stuckWriter is the connection of a reader that reads nothing until release
// is closed.
type stuckWriter struct {
	*httptest.ResponseRecorder
	stuck    chan struct{} // closed at the first write
	once     sync.Once
	release  chan struct{}
	deadline time.Time
}

func (w *stuckWriter) Write(p []byte) (int, error) {
	w.once.Do(func() { close(w.stuck) })
	<-w.release
	return w.ResponseRecorder.Write(p)
}

func (w *stuckWriter) SetWriteDeadline(deadline time.Time) error {
	w.deadline = deadline
	return nil
}

// TestMuchOutput has a run with more output than maxOutput, and a reader that
// does not read. The run must neither wait for it nor keep more output in
// memory.
func TestMuchOutput(t *testing.T) {
	const size = 3 << 20
	slow := &stuckWriter{ResponseRecorder: httptest.NewRecorder(), stuck: make(chan struct{}), release: make(chan struct{})}
	s := start(t, exectest.Node("a", exectest.Run(func(ctx context.Context, j *exectest.Job) int {
		select {
		case <-slow.stuck:
		case <-ctx.Done():
		}
		line := strings.Repeat("x", 1023) + "\n"
		for range size / len(line) {
			io.WriteString(j.Output, line)
		}
		io.WriteString(j.Output, "the last line")
		return 0
	})))
	run := begin(t, s.web.URL, order{Command: "much"})
	var slowReader sync.WaitGroup
	slowReader.Go(func() {
		s.handler().ServeHTTP(slow, httptest.NewRequestWithContext(t.Context(), "GET", "http://localhost"+strings.TrimPrefix(run, s.web.URL)+"/events", nil))
	})
	s.mu.Lock()
	done := s.runs[filepath.Base(run)].done
	s.mu.Unlock()
	<-done

	check := func(name string, r *reader) {
		dropped, output := int64(0), ""
		for {
			e, ok := r.next()
			if !ok {
				break
			}
			dropped, output = max(dropped, e.Bytes), output+e.Output
		}
		if !strings.HasSuffix(output, "x\nthe last line") {
			t.Errorf("%s: the end of the output is missing", name)
		}
		if len(output)+int(dropped) != size+len("the last line") || len(output) > maxOutput || len(output) < maxOutput-4096 {
			t.Errorf("%s: %d bytes of output, %d dropped", name, len(output), dropped)
		}
		if r.bytes > maxOutput+50_000 {
			t.Errorf("%s: the reader gets %d bytes", name, r.bytes)
		}
	}
	check("late", read(t, run, ""))
	close(slow.release)
	slowReader.Wait()
	check("slow", newReader(t, slow.Body))
	if left := time.Until(slow.deadline); left <= 0 || left > writeTimeout {
		t.Errorf("a reader has %v for a batch, want at most %v", left, writeTimeout)
	}
}

// TestBatch checks that batches are in order and of limited size.
func TestBatch(t *testing.T) {
	r := newRecord()
	for i := range 1000 {
		r.addOutput("a", time.Now(), []byte(strings.Repeat("x", 500)))
		if i%10 == 0 {
			r.add(consulexec.Event{Type: consulexec.EventAck, Node: fmt.Sprint(i)})
		}
	}
	for seen := 0; seen < 1100; {
		batch, _ := r.after(seen)
		size := 0
		for _, m := range batch {
			size += len(m.data)
			if seen++; m.id != seen {
				t.Fatalf("the message at place %d has the ID %d", seen, m.id)
			}
		}
		if size == 0 || size > maxBatch+1000 {
			t.Fatalf("a batch of %d bytes", size)
		}
	}
	if batch, _ := r.after(1100); len(batch) > 0 {
		t.Errorf("%d messages after the last one", len(batch))
	}
}
