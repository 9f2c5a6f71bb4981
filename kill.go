package consulexec

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// killTimeout bounds what it takes to have commands ended on their nodes: gossip
	// takes 0.2 s, a command has 5 s to end by itself, and the killer gives up 9 s
	// after it has started.
	killTimeout = 15 * time.Second

	// killNodeTimeout is how much more that is for each node: the names of many take
	// many events, of ten at least.
	killNodeTimeout = eventPace / 10
)

// Consul's agents never end a command. So that it can be ended, it is started by
// way of a shell, and there are three pieces for a node's /bin/sh:
//
//	wrapperText   runs the command in a process group of its own, and hands its output and status through
//	watcherText   lives beside the command and ends the group: at the timeout, or when it gets a TERM
//	killerText    is a job of its own, which gives the watchers of a run that TERM
//
// They use POSIX's utilities only (cat, chmod, env, mkdir, ps, rm, rmdir, sed,
// sleep, tail, tr), and setsid, which POSIX lacks, where the shell has no job control
// without a terminal: dash has not; bash, which is /bin/sh on macOS, has. A group is
// sent a signal by kill -TERM -1234, which every shell takes: kill -s TERM -- -1234
// fails in busybox, and kill -s TERM -1234 in dash.
//
// Each process is found by its command line, in which the marker is early: some
// ps cut it after 79 characters.

// wrapperText is the shell program that runs a command; $0 is any name, $1 the
// run's ID, $2 the timeout in seconds or nothing, $3 watcherText, $4 the kind of
// the command, and the rest what that needs.
//
// The command is the foreground command of a pipeline whose other end is the watcher:
// a background command would have SIGINT and SIGQUIT ignored, and could not undo
// that. Down the pipe go the group's ID and then, twice, the status; it ends with
// the command, whatever happens to this shell. The signals that this shell outlives,
// to clear up after the command, are as they were for what it starts.
//
// The names of the variables are rare, as one that is in the environment would change
// it for the command. $SHELL is the agent's only if it is in the environment: bash
// sets it to the user's login shell otherwise, which is /bin/false for most services.
// A shell that was ended by a signal may report more than 255.
//
// What the shells say, such as "Terminated", is no output of the command.
const wrapperText = `
trap : HUP INT TERM
cx_id=$1 cx_limit=$2 cx_watcher=$3 cx_kind=$4 cx_dir= cx_own= cx_shell=/bin/sh
shift 4
command -v setsid >/dev/null 2>&1 && cx_own=setsid
if [ "$cx_kind" != args ] && [ -n "$SHELL" ]; then
	case "
$(env)
" in
	*"
SHELL=$SHELL
"*) cx_shell=$SHELL ;;
	esac
fi
case $cx_kind in
command) set -- "$cx_shell" -c "$1" ;;
script) cx_dir=$1; set -- "$cx_shell" -c "exec $1/script" ;;
esac
exec 3>&1 4>&2 2>/dev/null
{
	[ -n "$cx_own" ] || set -m
	/bin/sh -c '
		[ "$1" = setsid ] || kill -0 "-$$" || {
			echo "consulexec: not run, as it could not be ended: there is no setsid, and sh has no job control" >&4
			exit 126
		}
		echo "pid $$"
		exec "$@" >&3 2>&4 3>&- 4>&-
	' sh $cx_own /bin/sh -c 'exec "$@"' sh "$@" 3>&3 4>&4
	cx_code=$?
	[ "$cx_code" -lt 256 ] || cx_code=$((128 + cx_code % 128))
	echo "exit $cx_code"
	echo "exit $cx_code"
} | /bin/sh -c "$cx_watcher" sh "$cx_id" "$cx_limit" $cx_own >/dev/null 3>&- 4>&-
cx_code=$?
[ -z "$cx_dir" ] || { rm -f "$cx_dir/script"; rmdir "$cx_dir"; }
exit "$cx_code"
`

// watcherText is the shell program beside a command; $1 is the run's ID, $2 the
// timeout in seconds or nothing, $3 "setsid" where there is one. Its status is the
// command's.
//
// It waits for two at once, the command's end and its own, so it leaves the first to
// a child, which reads the first of the two statuses and carries the marker: by that
// the killer finds a watcher only when it is ready for the TERM. The child is
// awaited before the status is read, as the two would tear it apart.
//
// The group may not exist yet when it is to be ended, but its leader does. Who is in
// it may outlive the leader. The timer has a group of its own as well: it is a
// shell and its sleep, and the shell may just be starting either. When the time is
// up it stays to be killed, so that its ID cannot be another's by then. All that
// have no use for the command's output let go of it, as the agent waits for that.
const watcherText = `
exec 3<&0 </dev/null
told= pid=
end() {
	trap "" HUP INT TERM
	told=1
	[ -n "$pid" ] || return 0
	kill -TERM "-$pid" || kill -TERM "$pid"
	tenths=0
	while [ "$tenths" -lt 50 ]; do
		kill -0 "-$pid" || kill -0 "$pid" || return 0
		if sleep 0.1; then tenths=$((tenths + 1)); else sleep 1; tenths=$((tenths + 10)); fi
	done
	kill -KILL "-$pid"
}
trap end HUP INT TERM
read kind pid <&3 || read kind pid <&3
[ "$kind" = pid ] || exit "${pid:-255}"
[ -z "$told" ] || end
timer=
if [ -n "$2" ]; then
	[ -n "$3" ] || set -m
	$3 /bin/sh -c 'sleep "$1"; kill -TERM "$2"; sleep 60' sh "$2" $$ 3<&- &
	timer=$!
	set +m
fi
/bin/sh -c ": consulexec-$1 watcher $$
read first" <&3 3<&- &
reader=$!
wait "$reader"
[ -z "$told" ] || wait "$reader"
trap "" HUP INT TERM
[ -z "$timer" ] || { kill -KILL "$timer"; kill -KILL "-$timer"; }
read kind code <&3 || code=255
exit "$code"
`

// killerText is the shell program that ends the commands of a run on its node; $1
// is the run's ID. It tells each watcher once. Its status is 0 when no shell of the
// run is left, 1 when one still is after 9 s, and 2 when it can't see processes,
// not even itself. Where it finds none it looks again a second later: an agent that
// has acknowledged the job just now may be about to start the command.
const killerText = `
exec 2>/dev/null
told=" " tenths=0 again=yes
while :; do
	if [ -r "/proc/$$/cmdline" ]; then
		found=$(cat /proc/[0-9]*/cmdline | tr "\\000" "\\n" | sed -n "s/^: consulexec-$1 //p")
	else
		found=$(ps -A -o args= | sed -n "s/^.* -c : [c]onsulexec-$1 \\([a-z]*\\) *\\([0-9]*\\).*/\\1 \\2/p")
	fi
	self= left=
	for word in $found; do
		case $word in
		killer) self=yes ;;
		*[!0-9]*) left=yes ;;
		*)
			case $told in
			*" $word "*) ;;
			*) kill -TERM "$word"; told="$told$word " ;;
			esac
			;;
		esac
	done
	[ -n "$self" ] || exit 2
	if [ -n "$left" ]; then
		again=
		[ "$tenths" -lt 90 ] || exit 1
		if sleep 0.2; then tenths=$((tenths + 2)); else sleep 1; tenths=$((tenths + 10)); fi
	else
		[ -n "$again" ] || exit 0
		again=
		sleep 1
	fi
done
`

// marked puts the marker at the beginning of a shell program: a process of the run
// with that ID, and what it is.
func marked(id, what, text string) string {
	return fmt.Sprintf(": consulexec-%s %s%s", id, what, text)
}

// killer returns the job that ends the commands of a run: see killerText.
func killer(id string) jobSpec {
	return jobSpec{Args: []string{"/bin/sh", "-c", marked(id, "killer", killerText), "sh", id}}
}

// wrap returns a job that does what the given one does and can be ended: by the
// killer of the run with that ID and, unless it is 0, by the timeout, which is
// rounded up to whole seconds, as POSIX's sleep takes no others.
//
// A script goes on as a script, of which the wrapper is the first part: it puts the
// rest, whatever bytes these are, into a directory of its own beside the file that
// the agent has made, where nobody else can have put anything.
func wrap(job jobSpec, id string, timeout time.Duration) jobSpec {
	limit := ""
	if timeout > 0 {
		seconds := (timeout-1)/time.Second + 1
		limit = strconv.Itoa(int(min(seconds, math.MaxInt32)))
	}
	shell := []string{"/bin/sh", "-c", marked(id, "wrapper", wrapperText), "sh", id, limit, watcherText}
	wrapped := jobSpec{Wait: job.Wait}
	switch {
	case len(job.Script) > 0:
		wrapped.Script = append(scriptHead(append(shell, "script")), job.Script...)
	case len(job.Args) > 0:
		wrapped.Args = slices.Concat(shell, []string{"args"}, job.Args)
	default:
		wrapped.Args = append(shell, "command", job.Command)
	}
	return wrapped
}

// scriptHead returns the first part of a script, which runs the given command with
// the directory of the rest as one more argument. The command takes its place, so
// that no shell reads on.
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

// endCommands has the commands of the run ended where they may still run, and waits
// for that. It has to be called when the session is gone, so that no agent can
// begin any more. The error names each node that took the command and has not
// confirmed its end, and says why; it is not nil either where nobody could be told.
func (r *run) endCommands() error {
	took, told := r.state.mayRun()
	names := slices.Concat(took, told)
	if r.state.news.IsZero() || r.state.known && len(names) == 0 {
		return nil // nobody was told
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.caller), killTimeout+time.Duration(len(names))*killNodeTimeout)
	defer cancel()
	result, err := r.runKiller(ctx, names)
	var errs []error
	switch {
	case ctx.Err() != nil:
		errs = append(errs, errors.New("not all could be told to end in time"))
	case err != nil && !errors.Is(err, ErrNoTargets): // of which each is named
		// Not wrapped: it is not the run's own error.
		errs = append(errs, fmt.Errorf("tell them to end: %v", err))
	}
	for _, name := range took {
		n := r.state.nodes[name]
		if why := notEnded(result, name); why != nil {
			errs = append(errs, &NodeError{Node: name, State: n.State, ExitCode: -1, Err: why})
		} else if n.State == StateRunning {
			n.State = StateKilled
		}
	}
	return errors.Join(errs...)
}

// runKiller runs the killer on the nodes of these names; where it is not known which
// nodes there are, on those that were told, whoever they are.
func (r *run) runKiller(ctx context.Context, names []string) (*Result, error) {
	options := []Option{WithArgs(killer(r.id).Args...), WithClient(r.client), WithPrefix(r.prefix), WithLogger(r.logger)}
	if dc := r.consul.datacenter; dc != "" {
		options = append(options, WithDatacenter(dc))
	}
	if r.state.known {
		options = append(options, WithNodes(names...))
	} else {
		options = append(options, WithoutDiscovery(), WithMinNodes(len(r.state.nodes)), func(c *config) error {
			c.filter = r.filter
			return nil
		})
	}
	e, err := New("", options...)
	if err != nil {
		return nil, err
	}
	r.log.Debug("ending commands", "nodes", len(names), "by", e.id)
	return e.Run(ctx)
}

// notEnded says why it is not certain that a node's command has ended, or returns
// nil when it is.
func notEnded(result *Result, name string) error {
	if result == nil {
		return errors.New("was not told to end")
	}
	n, _ := result.Node(name)
	switch {
	case n.State != StateExited:
		return errors.New("does not confirm that it has ended")
	case n.ExitCode == 1:
		return errors.New("goes on after it was told to end")
	case n.ExitCode == 2:
		return errors.New("is not to be seen among the node's processes, which are hidden")
	case n.ExitCode != 0:
		return fmt.Errorf("does not confirm that it has ended: exit status %d of what tells it to", n.ExitCode)
	}
	return nil
}

// mayRun returns the nodes on which the command may still run, by name: those that
// took it, and those that were told, or may have been, and have said nothing.
func (s *state) mayRun() (took, told []string) {
	for name, n := range s.nodes {
		switch {
		case n.State == StateExited:
		case !n.Acked.IsZero():
			took = append(took, name)
		case !n.told.IsZero():
			told = append(told, name)
		}
	}
	slices.Sort(took)
	slices.Sort(told)
	return took, told
}
