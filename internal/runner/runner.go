// Package runner has the shell programs on the nodes: they run a command in a way
// that an agent alone can't, and end it. Consul's agents never end a command.
//
// A job's Args are a program for the node's /bin/sh, and its Script is data for
// it: the script, the input and the environment. An agent writes the Script to a
// file and runs the Args. There are three programs:
//
//   - start (guard.sh, keep.sh, watch.sh, start.sh) runs the command. It has two
//     others run by shells of their own: leader.sh and output.sh.
//   - end (guard.sh, end.sh) is a job of its own. It ends the commands of a run.
//   - ask (guard.sh, keep.sh, ask.sh) is a job of its own. It prints the output
//     of a run that the node keeps, and exits with its status.
//
// They use POSIX utilities: cat, cksum, dd, env, find, grep, id, ls, mkdir,
// mkfifo, mv, printf, ps (without /proc), rm, sed, sleep, uname; to keep output,
// also tee and tail. They also need setsid, which is not in POSIX. A shell with
// job control without a terminal, such as bash, needs no setsid; dash does. They
// send a signal to a group by kill -TERM -1234, which every shell takes. Other
// forms fail: "kill -s TERM -- -1234" in busybox, "kill -s TERM -1234" in dash.
//
// docs/design.md has a picture of the processes.
package runner

import (
	"bytes"
	_ "embed" // for the shell programs
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
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

	// Keep is how long after the command's end the node keeps its output and
	// status, rounded up to whole seconds. 0 is not at all.
	Keep time.Duration
}

// NeedsRunner reports whether an agent alone can't run it like that.
func (s *Spec) NeedsRunner() bool {
	return s.Script != nil || len(s.Env) > 0 || s.Dir != "" || s.Stdin != nil || s.MaxOutput != NoLimit || s.Timeout > 0 || s.Killable || s.Keep > 0
}

// Job returns the job of the run with this ID.
func (s *Spec) Job(id string) Job {
	switch {
	case s.NeedsRunner():
		return s.wrap(id)
	case s.Shell != "" && s.Command != "":
		return Job{Args: []string{s.Shell, "-c", s.Command}}
	}
	return Job{Command: s.Command, Args: s.Args}
}

// A Note is what the runner or an ask adds to the output for the library. It is
// the very end of the output.
type Note string

// The runner ends the output with NoteTimedOut if it had to end the command at
// the timeout. With Keep, it ends it with NoteEnded otherwise: without a note the
// output may not be whole. An ask ends the output with one of these notes in any
// case.
const (
	NoteEnded    Note = "ended"     // the status is the command's
	NoteTimedOut Note = "timed out" // the status is TimedOut
	NoteNoTrace  Note = "no trace"  // the command has not started there and never will
	NoteKilled   Note = "killed"    // the runner is gone without a status

	// They are like NoteEnded and NoteTimedOut, but the disk was full, and the
	// end of the output was not kept.
	NoteIncomplete         Note = "incomplete"
	NoteIncompleteTimedOut Note = "incomplete, timed out"
)

// Text returns the note as it is in the output of the run with this ID.
func (n Note) Text(id string) []byte { return []byte("\x00consulexec-" + id + " " + string(n)) }

// TimedOut is the exit status of the runner if it had to end the command at the
// timeout. Without the note, the status is the command's own.
const TimedOut = 124

// NotRun is the exit status of the runner if it could not run the command.
// Without a note that came too early for one.
const NotRun = 126

// TurnedAway is the status that an agent reports of a second copy of a job: the
// runner found that the first one had started, and ended by a signal. The runner
// never reports it of a command.
const TurnedAway = -1

// The exit statuses of the job that ends commands.
const (
	Ended    = 0 // nothing of the run is left
	Survives = 1 // something of the command's group goes on
	Unseen   = 2 // somebody holds the output who can't be found
	NoAnswer = 3 // a runner does not answer
)

var (
	//go:embed guard.sh
	guardSource string
	//go:embed keep.sh
	keepSource string
	//go:embed start.sh
	startSource string
	//go:embed watch.sh
	watchSource string
	//go:embed leader.sh
	leaderSource string
	//go:embed output.sh
	outputSource string
	//go:embed end.sh
	endSource string
	//go:embed ask.sh
	askSource string

	start  = withoutComments(guardSource + keepSource + watchSource + startSource)
	leader = withoutComments(leaderSource)
	output = withoutComments(outputSource)
	end    = withoutComments(guardSource + endSource)
	ask    = withoutComments(guardSource + keepSource + askSource)
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

// marked begins a program with the run's ID and what the process is, as some ps
// cut a line after 79 characters.
func marked(id, role, program string) string {
	return fmt.Sprintf(": consulexec-%s %s\n%s", id, role, program)
}

// shell returns the arguments that run a program by the node's /bin/sh.
func shell(id, role, program string, args ...string) []string {
	return append([]string{"/bin/sh", "-c", marked(id, role, "cx_id=$1\n"+program), "sh", id}, args...)
}

// End returns the job that ends the commands of the run with this ID on its
// node. Its exit status is one of the constants above.
func End(id string) Job { return Job{Args: shell(id, "end", end)} }

// Ask returns the job that prints the output of the run with this ID on its node,
// without the first from bytes, and exits with its status. It prints what is kept
// while the command still runs, and waits for its end. If the run has not begun
// on the node, it never will; the node remembers that for the time keep. No other
// ask of the run has the same name, which consists of letters, digits and "-". If
// an agent gets the ask twice, the second copy ends by a signal. If an ask can do
// nothing, it exits without a note.
func Ask(id, name string, from int64, keep time.Duration) Job {
	return Job{Args: shell(id, "ask", ask, name, strconv.FormatInt(from+1, 10), seconds(keep))}
}

// wrap returns the job that runs it by the runner.
func (s *Spec) wrap(id string) Job {
	kind, interpreter, word, rest := s.program()
	data, lengths := s.data(id)
	args := slices.Concat(
		[]string{seconds(s.Keep), seconds(s.Timeout), s.passed(), s.Dir}, lengths,
		[]string{marked(id, "leader", leader), output, kind, interpreter, word}, rest)
	return Job{Args: shell(id, "start", start, args...), Script: data}
}

// program returns what start runs: the kind, the shell or interpreter with its
// argument, and the rest.
func (s *Spec) program() (kind, interpreter, word string, rest []string) {
	switch {
	case s.Script != nil && s.Shell == "":
		interpreter, word, _ = Interpreter(s.Script)
		return "script", interpreter, word, s.Args
	case s.Script != nil:
		return "script", s.Shell, "", s.Args
	case s.Args != nil:
		return "args", "", "", s.Args
	}
	return "command", s.Shell, "", []string{s.Command}
}

// Interpreter returns the interpreter of the script's #! line and its argument,
// as the system would: the argument is the rest of the line. They are empty if
// there is no such line.
func Interpreter(script []byte) (interpreter, word string, err error) {
	line, found := bytes.CutPrefix(script, []byte("#!"))
	if !found {
		return "", "", nil
	}
	line, _, _ = bytes.Cut(line, []byte("\n"))
	line, _, _ = bytes.Cut(line, []byte{0})
	if !utf8.Valid(line) {
		return "", "", errors.New("its #! line is not valid UTF-8")
	}
	interpreter = strings.Trim(string(line), " \t")
	if i := strings.IndexAny(interpreter, " \t"); i >= 0 {
		interpreter, word = interpreter[:i], strings.TrimLeft(interpreter[i:], " \t")
	}
	if interpreter != "" && !strings.Contains(interpreter, "/") {
		interpreter = "./" + interpreter // the system does not look into PATH
	}
	return interpreter, word, nil
}

// seconds returns a time, rounded up to whole seconds: POSIX's sleep takes no
// others. It returns nothing for 0.
func seconds(d time.Duration) string {
	if d <= 0 {
		return ""
	}
	return strconv.Itoa(int(min((d-1)/time.Second+1, math.MaxInt32)))
}

// maxCounted is the largest limit that each shell can count.
const maxCounted = math.MaxInt32 - 1

// passed returns how many bytes of output the node passes on: one more than the
// limit, to tell. The node does not count more than maxCounted.
func (s *Spec) passed() string {
	if s.MaxOutput < 0 || s.MaxOutput > maxCounted {
		return ""
	}
	return strconv.FormatInt(s.MaxOutput+1, 10)
}

// data returns the runner's data, and the lengths of all of it, the script, the
// input and the environment. There is no data if there is none of these.
func (s *Spec) data(id string) (data []byte, lengths []string) {
	env := exports(s.Env)
	if len(s.Script)+len(s.Stdin)+len(env) == 0 {
		return nil, []string{"", "0", "0", "0"}
	}
	data = slices.Concat([]byte("consulexec-"+id+"\n"), s.Script, s.Stdin, env)
	for _, n := range []int{len(data), len(s.Script), len(s.Stdin), len(env)} {
		lengths = append(lengths, strconv.Itoa(n))
	}
	return data, lengths
}

// exports returns a shell program that sets variables. A shell may give some of
// them, such as SECONDS, a meaning of its own until they are unset.
func exports(env map[string]string) []byte {
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(env)) {
		fmt.Fprintf(&text, "unset %s\nexport %[1]s=%s\n", name, quote(env[name]))
	}
	return []byte(text.String())
}

// quote quotes a word for the shell.
func quote(word string) string {
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
