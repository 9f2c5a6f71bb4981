package exectest

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
)

// inSession returns a shell command that runs in a session of its own. It opens
// the witness's FIFO, writes a chunk of output and does the rest.
func inSession(w witness, rest string) string {
	return "setsid sh -c 'exec 3>" + w.path + "; head -c 4096 /dev/zero; " + rest + "; true'"
}

func needSetsid(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("setsid"); err != nil {
		t.Skip(err)
	}
}

func TestCloseKillsStrays(t *testing.T) {
	needSetsid(t)
	const sleep, quietly = "sleep 300", "exec >/dev/null 2>&1; sleep 300"
	for _, test := range []struct {
		name, before, rest, after string
		exits                     bool
	}{
		{name: "foreground", rest: sleep, after: "; true"},
		{name: "foreground without the output", rest: quietly, after: "; true"},
		{name: "background", rest: sleep, after: " &"},
		{name: "left behind", rest: quietly, after: " &", exits: true},
		{name: "left behind, cleans up later", before: "mkdir $TMPDIR/a;", rest: quietly + "; rmdir $TMPDIR/a", after: " &", exits: true},
		{name: "stopped", before: "env -i TMPDIR=$TMPDIR PATH=$PATH ", rest: "exec >/dev/null 2>&1; kill -STOP $$", after: " &", exits: true},
		{name: "left behind, other TMPDIR", before: "export TMPDIR=/;", rest: quietly, after: " &", exits: true},
		{name: "foreground, other TMPDIR", before: "export TMPDIR=/;", rest: sleep, after: "; true"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWitness(t)
			t.Setenv("TMPDIR", t.TempDir())
			srv := NewServer(Node("web-1"))
			defer srv.Close()
			command := test.before + inSession(w, test.rest) + test.after
			_, dir := submit(t, srv.Client(), spec{Command: command, Wait: time.Hour}, api.UserEvent{})
			await(t, srv.Client(), dir, has("web-1/out/00000"))
			if test.exits {
				await(t, srv.Client(), dir, has("web-1/exit"))
			}
			if w.ended(t, 10*time.Millisecond) {
				t.Fatal("the process ended before Close")
			}
			srv.Close()
			if !w.ended(t, 10*time.Second) {
				t.Error("a process outlived Close")
			}
			if files, err := os.ReadDir(os.Getenv("TMPDIR")); err != nil || len(files) > 0 {
				t.Errorf("files after Close: %v, %v", files, err)
			}
		})
	}
}

// TestCloseSparesOthers closes one of two servers with the same commands.
func TestCloseSparesOthers(t *testing.T) {
	needSetsid(t)
	var servers []*Server
	var witnesses []witness
	for range 2 {
		w, srv := newWitness(t), NewServer(Node("web-1"))
		defer srv.Close()
		job := spec{Command: inSession(w, "exec >/dev/null 2>&1; sleep 300") + " &", Wait: time.Hour}
		_, dir := submit(t, srv.Client(), job, api.UserEvent{})
		await(t, srv.Client(), dir, has("web-1/exit"))
		servers, witnesses = append(servers, srv), append(witnesses, w)
	}
	servers[0].Close()
	if !witnesses[0].ended(t, 10*time.Second) {
		t.Error("a process outlived Close")
	}
	if witnesses[1].ended(t, 10*time.Millisecond) {
		t.Error("a process of another server ended")
	}
}

// A writerFunc is called for each write.
type writerFunc func()

func (f writerFunc) Write(p []byte) (int, error) { f(); return len(p), nil }

// TestOneCommandEndsWithContext ends one of two commands of a node, and none of
// another node.
func TestOneCommandEndsWithContext(t *testing.T) {
	needSetsid(t)
	ends, stays, elsewhere := newWitness(t), newWitness(t), newWitness(t)
	run := Run(func(ctx context.Context, j *Job) int {
		if strings.Contains(j.Command, ends.path) {
			var cancel context.CancelFunc
			ctx, cancel = context.WithCancel(ctx)
			defer cancel()
			j.Output = writerFunc(cancel)
		}
		return RunCommand(ctx, j)
	})
	srv := NewServer(Node("web-1", run), Node("web-2", run))
	defer srv.Close()
	start := func(node string, w witness) (dir string) {
		job := spec{Command: inSession(w, "sleep 300") + "; true", Wait: time.Hour}
		_, dir = submit(t, srv.Client(), job, api.UserEvent{NodeFilter: node})
		return dir
	}
	await(t, srv.Client(), start("web-1", stays), has("web-1/out/00000"))
	await(t, srv.Client(), start("web-2", elsewhere), has("web-2/out/00000"))
	keys := await(t, srv.Client(), start("web-1", ends), has("web-1/exit"))
	if got := keys["web-1/exit"]; got != "-1" {
		t.Errorf("exit is %s, want -1", got)
	}
	if !ends.ended(t, 10*time.Second) {
		t.Error("a process outlived its command's context")
	}
	if stays.ended(t, 10*time.Millisecond) || elsewhere.ended(t, 10*time.Millisecond) {
		t.Error("a process of another command ended")
	}
}
