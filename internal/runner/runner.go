// Package runner wraps what a node runs in shell programs that can end it.
// Consul's agents never end a command.
//
// Three programs run on a node, each by its /bin/sh:
//
//   - wrapper.sh runs the command in a process group of its own and hands its output
//     and status through.
//   - watcher.sh lives beside the command. It ends the group at the timeout, or when
//     it gets a SIGTERM.
//   - killer.sh is a job of its own. It sends that SIGTERM to the watchers of a run.
//
// They use POSIX utilities: cat, chmod, env, mkdir, ps, rm, rmdir, sed, sleep,
// tail, tr. They also need setsid, which is not in POSIX. A shell with job
// control without a terminal, such as bash, needs no setsid; dash does. They
// send a signal to a group by kill -TERM -1234, which every shell takes. Other
// forms fail: "kill -s TERM -- -1234" in busybox, "kill -s TERM -1234" in dash.
//
// A process of a run is found by its command line. It begins with a marker, as
// some ps cut a line after 79 characters.
package runner

import (
	_ "embed" // for the shell programs
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Job is the part of a job spec that says what a node runs: Args if it has
// some, else Script, else Command. An agent writes a Script to a file in any
// case.
type Job struct {
	Command string   `json:",omitempty"`
	Args    []string `json:",omitempty"`
	Script  []byte   `json:",omitempty"`
}

// NoLimit is a MaxOutput that limits nothing.
const NoLimit = -1

// A Spec says what a node runs, and how. Either Command, Script or Args is set;
// Script and Args are a script and its arguments.
type Spec struct {
	Command string
	Script  []byte
	Args    []string

	Shell     string            // of a command or script; the agent's own if empty
	Env       map[string]string // added to the agent's environment
	Dir       string            // the agent's own if empty
	Stdin     []byte            // nothing if nil
	MaxOutput int64             // in bytes; NoLimit passes all on
	Timeout   time.Duration     // none if 0
	Killable  bool              // whether the killer can end it
}

// NeedsRunner reports whether an agent alone can't run it like that.
func (s *Spec) NeedsRunner() bool {
	return s.Script != nil || len(s.Env) > 0 || s.Dir != "" || s.Stdin != nil || s.MaxOutput != NoLimit || s.Timeout > 0 || s.Killable
}

// Job returns the job of the run with this ID.
func (s *Spec) Job(id string) Job {
	job := Job{Command: s.Command, Args: s.Args, Script: s.Script}
	switch {
	case s.Timeout > 0 || s.Killable:
		return Wrap(job, id, s.Timeout)
	case s.Shell != "" && s.Command != "":
		return Job{Args: []string{s.Shell, "-c", s.Command}}
	}
	return job
}

// The runner ends the output of a command that it had to end at the timeout with
// this note. It exits with status TimedOut then.
func TimeoutNote(id string) []byte { return []byte("\x00consulexec-" + id + " timed out") }

// TimedOut is the exit status of the runner if it had to end the command at the
// timeout. Without the note, the status is the command's own.
const TimedOut = 124

// TurnedAway is the status that an agent reports of a second copy of a job: the
// runner found that the first one had started, and ended by a signal. The runner
// never reports it of a command.
const TurnedAway = -1

// The exit statuses of the killer.
const (
	Ended           = 0 // no shell of the run is left
	StillRuns       = 1 // one is left after 9 s
	ProcessesHidden = 2 // the killer can't see processes
)

var (
	//go:embed wrapper.sh
	wrapperSource string
	//go:embed watcher.sh
	watcherSource string
	//go:embed killer.sh
	killerSource string

	wrapper = withoutComments(wrapperSource)
	watcher = withoutComments(watcherSource)
	killer  = withoutComments(killerSource)
)

// withoutComments drops comment lines and empty lines, which would only make
// each job larger. No line of the programs begins with # inside quotes.
func withoutComments(source string) string {
	var text strings.Builder
	for line := range strings.Lines(source) {
		if trimmed := strings.TrimSpace(line); trimmed != "" && !strings.HasPrefix(trimmed, "#") {
			text.WriteString(line)
		}
	}
	return text.String()
}

// marked begins a program with the marker: the run's ID, and what the process
// is.
func marked(id, role, program string) string {
	return fmt.Sprintf(": consulexec-%s %s\n%s", id, role, program)
}

// Killer returns the job that ends the commands of the run with this ID on its
// node. Its exit status is one of the constants above.
func Killer(id string) Job {
	return Job{Args: []string{"/bin/sh", "-c", marked(id, "killer", killer), "sh", id}}
}

// Wrap returns a job that does what job does and can be ended: by the killer of
// the run with this ID and, unless timeout is 0, by the timeout. The timeout is
// rounded up to whole seconds, as POSIX's sleep takes no others.
//
// A script stays a script, and the wrapper is its first part. That part copies
// the rest, whatever bytes it has, into a directory of its own beside the
// agent's file.
func Wrap(job Job, id string, timeout time.Duration) Job {
	limit := ""
	if timeout > 0 {
		seconds := (timeout-1)/time.Second + 1
		limit = strconv.Itoa(int(min(seconds, math.MaxInt32)))
	}
	shell := []string{"/bin/sh", "-c", marked(id, "wrapper", wrapper), "sh", id, limit, watcher}
	switch {
	case len(job.Script) > 0:
		return Job{Script: append(scriptHead(append(shell, "script")), job.Script...)}
	case len(job.Args) > 0:
		return Job{Args: slices.Concat(shell, []string{"args"}, job.Args)}
	}
	return Job{Args: append(shell, "command", job.Command)}
}

// scriptHead returns the first part of a script. It replaces the
// shell by command, so that the shell does not read the rest. The last argument
// of command is the directory that holds the rest.
func scriptHead(command []string) []byte {
	quoted := make([]string, len(command))
	for i, word := range command {
		quoted[i] = quote(word)
	}
	const text = `#!/bin/sh
(umask 077 && mkdir "$0.d") || exit 126
(umask 077 && tail -c +%-6d "$0" >"$0.d/script" && chmod 700 "$0.d/script") || {
	rm -f "$0.d/script"
	rmdir "$0.d"
	exit 126
}
exec %s "$0.d"
`
	head := func(length int) string { return fmt.Sprintf(text, length+1, strings.Join(quoted, " ")) }
	return []byte(head(len(head(0))))
}

// quote quotes a word for the shell.
func quote(word string) string {
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
