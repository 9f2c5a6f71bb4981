//go:build unix

package consulexec_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
	"github.com/consulexec/consulexec/internal/runtest"
)

// TestRecovery has a cluster of exectest lose what nodes report, in several
// ways, while they really run a command.
func TestRecovery(t *testing.T) {
	// loses is a handler whose agent gives up in the middle of the first job.
	loses := func() exectest.Handler {
		var once sync.Once
		return func(ctx context.Context, j *exectest.Job) int {
			once.Do(func() { time.AfterFunc(time.Second, j.Silence) })
			return exectest.RunCommand(ctx, j)
		}
	}
	for _, test := range []struct {
		name      string
		accident  func(srv *exectest.Server)
		recovered int // of "b", at least
	}{
		{"agent gives up", func(*exectest.Server) {}, 0},
		{"agent restarted", func(srv *exectest.Server) {
			srv.Kill("b")
			time.Sleep(200 * time.Millisecond)
			srv.Start("b")
		}, 1},
		{"session destroyed", func(srv *exectest.Server) {
			for _, id := range srv.Sessions() {
				srv.DestroySession(id)
			}
		}, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			srv := exectest.NewServer(runtest.Node("a", loses()), exectest.Node("b"))
			defer srv.Close()
			rec := runtest.NewRecorder(t, srv.Client())
			rec.Hook = func(call string) {
				if call == "output b" && rec.Count(call) == 1 {
					test.accident(srv)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			command := "for i in 1 2 3 4; do echo line $i; sleep 0.7; done; exit 7"
			result, err := rec.Run(ctx, command, consulexec.WithRecovery(30*time.Second),
				consulexec.WithWait(100*time.Millisecond), consulexec.WithLostTimeout(2*time.Second))
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range result.Nodes {
				if n.ExitCode != 7 || strings.Count(string(n.Output), "line") != 4 || !strings.HasSuffix(string(n.Output), "line 4\n") {
					t.Errorf("%s: %v, code %d, output %q", n.Node, n.State, n.ExitCode, n.Output)
				}
				if least := map[string]int{"a": 1, "b": test.recovered}[n.Node]; n.Recovered < least {
					t.Errorf("%s was reached again %d times, want at least %d", n.Node, n.Recovered, least)
				}
			}
			if left := srv.Keys(""); len(left) > 0 || len(srv.Sessions()) > 0 {
				t.Errorf("keys %q and sessions %q are left", left, srv.Sessions())
			}
		})
	}
}
