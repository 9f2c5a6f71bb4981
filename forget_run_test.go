package consulexec_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
)

// writes is a command that fills n chunks, one each pause.
func writes(n int, pause time.Duration) exectest.Handler {
	return func(ctx context.Context, j *exectest.Job) int {
		for i := range n {
			io.WriteString(j.Output, numbered(i))
			sleeps(pause)(ctx, j)
		}
		return 0
	}
}

// numbered is the text of a chunk.
func numbered(i int) string { return fmt.Sprintf("%4095d\n", i) }

// TestForget has a few nodes write much, and many a little. What was read is deleted,
// so that no listing gets long, and nothing is lost by that.
func TestForget(t *testing.T) {
	const chunks, many = 1000, 300
	nodes := []exectest.Option{node("a", writes(chunks, 10*time.Millisecond)), node("b", writes(chunks/2, 20*time.Millisecond))}
	var names []string
	for i := range many {
		name := fmt.Sprintf("n-%03d", i)
		if i%2 == 1 {
			name = fmt.Sprintf("n-%03d/later", i-1) // in the folder of one that has exited
		}
		names = append(names, name)
		nodes = append(nodes, node(name, writes(1, time.Duration(i)*20*time.Millisecond), exectest.AckAfter(time.Duration(i%2)*2*time.Second)))
	}
	bubble(t, nodes, func(t *testing.T, srv *exectest.Server) {
		most := 0
		counting, stop := context.WithCancel(t.Context())
		var counter sync.WaitGroup
		counter.Go(func() {
			for counting.Err() == nil {
				most = max(most, len(srv.Keys("_rexec/")))
				sleeps(100*time.Millisecond)(counting, nil)
			}
		})
		start := time.Now()
		_, result, err := execute(t, srv.Client(), "x", consulexec.WithCapture(chunks*4096))
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
			t.Errorf("%d keys at once, of %d in all", most, chunks+chunks/2+3*many)
		}
		if took > 30*time.Second {
			t.Errorf("took %v", took)
		}
		checkListings(t, srv.Requests(), took)
	})
}

// checkListings checks that listings brought values along when what was read is gone,
// and that they came apart.
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
		t.Errorf("of %d listings %d had the values", listings, values)
	}
	if perSecond := float64(listings) / took.Seconds(); perSecond > 19.5 {
		t.Errorf("%.1f listings in a second", perSecond)
	}
}

func checkNumbered(t *testing.T, result *consulexec.Result, name string, chunks int) {
	t.Helper()
	n, _ := result.Node(name)
	var want bytes.Buffer
	for i := range chunks {
		want.WriteString(numbered(i))
	}
	if !bytes.Equal(n.Output, want.Bytes()) {
		t.Errorf("%s: %d bytes of output, want %d, or they are others", name, len(n.Output), want.Len())
	}
}

// TestForgetFails has deletions fail in every way: what was to be deleted is only
// listed again.
func TestForgetFails(t *testing.T) {
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
			bubble(t, []exectest.Option{node("a", writes(chunks, 20*time.Millisecond)), node("b", ok)}, func(t *testing.T, srv *exectest.Server) {
				tries := 0
				srv.Fault(exectest.Fault{Match: exectest.Path("PUT", "/v1/txn"), Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
					body, err := io.ReadAll(r.Body)
					if err != nil {
						t.Error(err)
					}
					r.Body = io.NopCloser(bytes.NewReader(body))
					if !bytes.Contains(body, []byte(`"delete`)) {
						next.ServeHTTP(w, r)
						return
					}
					tries++
					way(w, r, next)
				}})
				_, result, err := execute(t, srv.Client(), "x", consulexec.WithCapture(chunks*4096))
				if err != nil || result.Err() != nil {
					t.Fatalf("error %v, result %v", err, result.Err())
				}
				checkNumbered(t, result, "a", chunks)
				if tries == 0 || name != "too large" && tries > 1 {
					t.Errorf("tried %d times", tries)
				}
			})
		})
	}
}

// tooMany takes as few operations as Consul 1.12 does.
func tooMany(w http.ResponseWriter, r *http.Request, next http.Handler) {
	body, _ := io.ReadAll(r.Body)
	if bytes.Count(body, []byte(`"KV"`)) > 64 {
		exectest.Respond(http.StatusRequestEntityTooLarge, "Transaction contains too many operations")(w, r, next)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	next.ServeHTTP(w, r)
}

// conformMuchOutput has nodes write much, bit by bit, and looks whether what was read
// is deleted while they go on.
func conformMuchOutput(t *testing.T, client *api.Client) {
	const bits, lines = 6, 80
	command := fmt.Sprintf("i=0; for bit in 1 2 3 4 5 6; do for line in $(seq %d); do printf '%%4095d\\n' $i; i=$((i+1)); done; sleep 0.4; done", lines)
	chunks := make(map[string]int)
	var keys []string
	rec := new(recorder)
	rec.hook = func(call string) {
		name, isOutput := strings.CutPrefix(call, "output ")
		if !isOutput {
			return
		}
		if chunks[name]++; chunks[name] == (bits-1)*lines && keys == nil {
			var err error
			if keys, _, err = client.KV().Keys("_rexec/", "", nil); err != nil {
				t.Error(err)
			}
		}
	}
	_, result, err := executeContext(t.Context(), t, client, rec, command, answering, consulexec.WithCapture(bits*lines*4096))
	if err != nil || result.Err() != nil {
		t.Fatalf("error %v, result %v", err, result.Err())
	}
	for _, name := range []string{"db-1", "web-1", "web-2"} {
		checkNumbered(t, result, name, bits*lines)
	}
	keys = slices.DeleteFunc(keys, func(key string) bool { return !strings.HasPrefix(key, "_rexec/"+result.Session) })
	first := func(key string) bool { return strings.HasSuffix(key, "/out/00000") }
	if len(keys) == 0 || slices.ContainsFunc(keys, first) {
		t.Errorf("when most was read there are %d keys, or a node's first chunk is still there", len(keys))
	}
}
