package test

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
	"github.com/consulexec/consulexec/internal/runtest"
)

// TestMemory has a callback that falls behind the whole output of a command.
// The run must not hold that output in memory. It is no parallel test, as it
// measures the memory of the process.
func TestMemory(t *testing.T) {
	const total = 48 << 20
	written := make(chan struct{})
	much := func(ctx context.Context, j *exectest.Job) int {
		defer close(written)
		chunk := []byte(strings.Repeat("x", 1<<20))
		for range total / len(chunk) {
			j.Output.Write(chunk)
		}
		return 0
	}
	inUse := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	runtest.Bubble(t, []exectest.Option{runtest.Node("a", much)}, func(t *testing.T, srv *exectest.Server) {
		var before, most uint64
		received, measured := 0, 0
		e, err := consulexec.New("x", consulexec.WithConfig(srv.Config()), consulexec.OnOutput(func(_ string, output []byte) {
			if received == 0 {
				<-written               // the server has all of it
				time.Sleep(time.Second) // the reader must expect any amount after so long a time
				before = inUse()
			}
			if received += len(output); received-measured > total/12 {
				measured = received
				most = max(most, inUse())
			}
		}))
		if err != nil {
			t.Fatal(err)
		}
		if result, err := e.Run(t.Context()); err != nil || result.Err() != nil || received != total {
			t.Fatalf("error %v, result %v, %d bytes", err, result.Err(), received)
		}
		if grown := int64(most) - int64(before); grown > total/3 {
			t.Errorf("%d bytes more in use while %d bytes were handed over, want at most a third", grown, total)
		}
	})
}
