package test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
	"github.com/consulexec/consulexec/internal/runtest"
)

// writes returns a command that fills n chunks, one each pause.
func writes(n int, pause time.Duration) exectest.Handler {
	return func(ctx context.Context, j *exectest.Job) int {
		for i := range n {
			io.WriteString(j.Output, numbered(i))
			runtest.Sleeps(pause)(ctx, j)
		}
		return 0
	}
}

// numbered returns the text of chunk i.
func numbered(i int) string { return fmt.Sprintf("%4095d\n", i) }

// TestDeletion has two nodes that print much, and many that print little. The
// run deletes what it has read, so that listings stay short. No output is lost
// by that.
func TestDeletion(t *testing.T) {
	t.Parallel()
	const chunks, many = 1000, 300
	nodes := []exectest.Option{runtest.Node("a", writes(chunks, 10*time.Millisecond)), runtest.Node("b", writes(chunks/2, 20*time.Millisecond))}
	var names []string
	for i := range many {
		name := fmt.Sprintf("n-%03d", i)
		if i%2 == 1 {
			name = fmt.Sprintf("n-%03d/later", i-1) // in the folder of a node that has exited
		}
		names = append(names, name)
		nodes = append(nodes, runtest.Node(name, writes(1, time.Duration(i)*20*time.Millisecond), exectest.AckAfter(time.Duration(i%2)*2*time.Second)))
	}
	runtest.Bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		most := 0
		counting, stop := context.WithCancel(t.Context())
		var counter sync.WaitGroup
		counter.Go(func() {
			for counting.Err() == nil {
				most = max(most, len(srv.Keys("_rexec/")))
				runtest.Sleeps(100*time.Millisecond)(counting, nil)
			}
		})
		start := time.Now()
		_, result, err := runtest.Execute(t, srv.Client(), "x", consulexec.WithCapture(chunks*4096),
			consulexec.WithAckTimeout(12*time.Second)) // nobody is fenced
		took := time.Since(start)
		stop()
		counter.Wait()
		if err != nil || result.Err() != nil || len(result.Nodes) != 2+many {
			t.Fatalf("error %v, result %v, %d nodes", err, result.Err(), len(result.Nodes))
		}
		checkNumbered(t, result, "a", chunks)
		checkNumbered(t, result, "b", chunks/2)
		for _, name := range names {
			checkNumbered(t, result, name, 1)
		}
		if most > 1000 {
			t.Errorf("%d keys at once, want at most 1000 of %d", most, chunks+chunks/2+3*many)
		}
		if took > 30*time.Second {
			t.Errorf("took %v, want at most 30s", took)
		}
		checkListings(t, srv.Requests(), took)
	})
}

// checkListings checks that some listings have values, as they do after a
// deletion, and that there are not too many in a second.
func checkListings(t *testing.T, requests []exectest.Request, took time.Duration) {
	t.Helper()
	listings, values := 0, 0
	for _, r := range requests {
		if r.Method == "GET" && strings.HasPrefix(r.Path, "/v1/kv/_rexec/") {
			listings++
			if r.Query.Has("recurse") {
				values++
			}
		}
	}
	t.Logf("%d listings in %v, %d with values", listings, took, values)
	if values < listings/10 {
		t.Errorf("%d of %d listings have values, want at least a tenth", values, listings)
	}
	if perSecond := float64(listings) / took.Seconds(); perSecond > 19.5 {
		t.Errorf("%.1f listings in a second, want at most 19.5", perSecond)
	}
}

// checkNumbered checks that a node's output is that of writes(chunks, …).
func checkNumbered(t *testing.T, result *consulexec.Result, name string, chunks int) {
	t.Helper()
	n, _ := result.Node(name)
	var want bytes.Buffer
	for i := range chunks {
		want.WriteString(numbered(i))
	}
	if !bytes.Equal(n.Output, want.Bytes()) {
		t.Errorf("%s: output of %d bytes is not the %d bytes that it printed", name, len(n.Output), want.Len())
	}
}

// TestDeletionFails fails deletions in every way. The keys are then listed
// again, but no output is lost or comes twice.
func TestDeletionFails(t *testing.T) {
	t.Parallel()
	ways := map[string]exectest.Action{
		"denied":    exectest.Denied,
		"too large": tooMany,
	}
	for name, way := range waysToFail {
		ways[name] = way
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			const chunks = 300
			runtest.Bubble(t, []exectest.Option{runtest.Node("a", writes(chunks, 20*time.Millisecond)), runtest.Node("b", runtest.Up)}, func(t *testing.T, srv *exectest.Server) {
				tries := 0
				srv.Fault(exectest.Fault{Match: exectest.Path("PUT", "/v1/txn"), Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
					body, err := io.ReadAll(r.Body)
					if err != nil {
						t.Error(err)
					}
					r.Body = io.NopCloser(bytes.NewReader(body))
					if !bytes.Contains(body, []byte(`"delete`)) || bytes.Contains(body, []byte(`/job"`)) {
						next.ServeHTTP(w, r)
						return
					}
					tries++
					way(w, r, next)
				}})
				_, result, err := runtest.Execute(t, srv.Client(), "x", consulexec.WithCapture(chunks*4096))
				if err != nil || result.Err() != nil {
					t.Fatalf("error %v, result %v", err, result.Err())
				}
				checkNumbered(t, result, "a", chunks)
				if tries == 0 || name != "too large" && tries > 1 {
					t.Errorf("%d deletions, want one, or more if they only were too large", tries)
				}
			})
		})
	}
}

// tooMany refuses transactions of more than 64 operations, as Consul 1.12 does.
func tooMany(w http.ResponseWriter, r *http.Request, next http.Handler) {
	body, _ := io.ReadAll(r.Body)
	if bytes.Count(body, []byte(`"KV"`)) > 64 {
		exectest.Respond(http.StatusRequestEntityTooLarge, "Transaction contains too many operations")(w, r, next)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	next.ServeHTTP(w, r)
}
