package consulexec

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestMayRun(t *testing.T) {
	now := time.Now()
	s := newState(&config{concurrency: 6, ackTimeout: time.Second, lostTimeout: time.Minute})
	s.expect([]string{"exits", "runs", "is lost", "is silent", "is given up", "is perhaps told", "waits"})
	told := s.next()
	s.tell(told[:5], now, nil)
	s.tell(told[5:], now, errors.New("the context ended amid the event"))
	for _, name := range []string{"exits", "runs", "is lost"} {
		s.ack(name, now)
	}
	s.exit("exits", 0, now)
	s.lose("is lost", errors.New("silent"))
	s.nodes["is given up"].pending = false
	s.absent("is absent", errors.New("not in the catalog"))
	s.ack("a stranger", now)
	s.pause(time.Second, now.Add(time.Minute)) // which tells nobody
	took, silent := s.mayRun()
	if want := []string{"a stranger", "is lost", "runs"}; !slices.Equal(took, want) {
		t.Errorf("took it: %q, want %q", took, want)
	}
	if want := []string{"is given up", "is perhaps told", "is silent"}; !slices.Equal(silent, want) {
		t.Errorf("may have taken it: %q, want %q", silent, want)
	}
}

func TestWrapTimeout(t *testing.T) {
	for timeout, want := range map[time.Duration]string{
		0: "", 1: "1", time.Second: "1", time.Second + 1: "2", 90 * time.Minute: "5400", 1<<63 - 1: "2147483647",
	} {
		if got := wrap(jobSpec{Command: "x"}, "id", timeout).Args[5]; got != want {
			t.Errorf("%v: %q, want %q", timeout, got, want)
		}
	}
}

// TestWrapJob looks at what the agents see of the job.
func TestWrapJob(t *testing.T) {
	for name, job := range map[string]jobSpec{
		"command": {Command: "uptime", Wait: time.Second},
		"args":    {Args: []string{"uptime", "-p"}, Wait: time.Second},
		"script":  {Script: []byte("\x00\xff"), Wait: time.Second},
	} {
		wrapped := wrap(job, "id", 0)
		if wrapped.Wait != job.Wait || wrapped.Command != "" || (wrapped.Script == nil) == (wrapped.Args == nil) || (wrapped.Script == nil) == (job.Script != nil) {
			t.Errorf("%s: %+v", name, wrapped)
		}
		if job.Script != nil && !strings.HasSuffix(string(wrapped.Script), "\n"+string(job.Script)) {
			t.Errorf("the script is not in %q", wrapped.Script)
		}
		if size := len(marshal(wrapped)) - len(marshal(job)); size > 8<<10 {
			t.Errorf("%s: %d bytes more", name, size)
		} else {
			t.Logf("%s: %d bytes more", name, size)
		}
	}
}
