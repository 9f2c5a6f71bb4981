package consulexec_test

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
)

// TestMemory checks that output which has been handed over is let go of: a callback
// that falls behind a whole command's output does not fill the memory with it.
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
	srv := exectest.NewServer(node("a", much))
	defer srv.Close()
	inUse := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	var before, most uint64
	received, measured := 0, 0
	e, err := consulexec.New("x", consulexec.WithConfig(srv.Config()), consulexec.OnOutput(func(_ string, output []byte) {
		if received == 0 {
			<-written // the server has all of it
			// In so long a time any amount may have come, and the reader knows that.
			time.Sleep(time.Second)
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
		t.Errorf("%d bytes more in use while %d were handed over", grown, total)
	}
}
