# start.sh runs a command so that it can be ended, and hands its output and
# status through. Its arguments:
#
#   $1     the run's ID
#   $2     how many seconds output and status are kept after the end, or nothing
#   $3     the timeout in seconds, or nothing
#   $4     how many bytes of output are passed on, or nothing
#   $5     the command's directory, or nothing
#   $6-$9  the lengths of the data: all, the script, the input, the environment
#   $10    the text of leader.sh
#   $11    the text of output.sh
#   $12    what to run: command, script or args
#   $13    its shell or interpreter; if empty, the agent's shell
#   $14    the interpreter's argument, or nothing
#   $15... the command, the script's arguments, or the program and its arguments
#
# The agent has written the data to a file. Its first line is the run's name;
# then come the script, the input and the environment.
#
# This shell waits for the leader, in the foreground: a command in the
# background would have SIGINT and SIGQUIT ignored and could not undo that. It
# survives HUP, INT and TERM. Its children get these signals' default actions.
trap : HUP INT TERM
cx_keep=$2 cx_limit=$3 cx_max=$4 cx_work=$5 cx_size=$6 cx_script=$7 cx_stdin=$8 cx_vars=$9
shift 9
cx_leader=$1 cx_output=$2 cx_kind=$3 cx_shell=$4 cx_word=$5 cx_own=''
cx_pump='' cx_tee='' cx_keeper='' cx_timer='' cx_watch=''
shift 5
[ -z "$cx_keep" ] || need tail tee

# fail ends a run that has not begun.
fail() {
	trap - EXIT
	echo "consulexec: not run: $1"
	[ -z "$cx_keep" ] || {
		note ended
		(echo "consulexec: not run: $1" >"$cx_dir/kept") && mv "$cx_dir/kept" "$cx_dir/kept-whole"
	} 2>/dev/null
	rm -f "$cx_dir/script" "$cx_dir/input"
	mkdir "$cx_dir/exit-126--ended"
	sweep
	await_copies
	exit 126
}

# abort ends a run that has not begun when this shell ends, as it can't start a
# process or open a file. What it has started would wait for the rest for ever. zsh
# does not run it. ksh93 may try for ever to start a process.
# shellcheck disable=SC2317 # the trap calls it
abort() {
	for cx_pid in $cx_watch $cx_pump $cx_tee $cx_keeper $cx_timer; do
		kill -KILL "$cx_pid"
		kill -KILL "-$cx_pid"
	done 2>/dev/null
	wait
	fail "$cx_limited"
}

# exit_ended exits with the command's status if the command has ended.
exit_ended() {
	cx_ended=$(ended)
	[ -n "$cx_ended" ] || return
	cx_code=${cx_ended%%-*}
	trap - EXIT
	exit "$cx_code"
}

# await_copies gives the agent of a copy that was turned away time to write that
# copy's end. Both agents write the same key, and the later write counts. A copy
# leaves its mark before it checks whether the command has ended. So the copy
# sees the end, or this shell sees the mark.
await_copies() {
	[ ! -d "$cx_dir/copy" ] || sleep 1
}

# A second copy of the job must end before its agent could write a heartbeat over
# the output of the first one: by a signal if there is no status yet. If there is,
# the first one's agent may still be writing, or may have failed to. With cx_keep
# the run sees that, as it waits for a note. Otherwise the copy leaves that agent
# time to write.
claim
case $? in
1)
	trap 'kill -KILL $$' EXIT # it may not be able to start a process
	mkdir "$cx_dir/copy" 2>/dev/null
	if [ -n "$(ended)" ]; then
		[ -n "$cx_keep" ] || sleep 1
		exit_ended
	fi
	kill -KILL $$
	;;
2) exit 126 ;;
esac
trap abort EXIT

# remove_old removes old guards that nobody has removed, as their sweeper was
# killed. It removes those whose command has ended, and those of this agent whose
# runner is gone. Others may belong to a container whose processes can't be seen here.
remove_old() {
	find "$cx_tmp/." ! -name . -prune -type d -user "$(id -u)" -mmin +2 \
		-name 'consulexec-????????-????-????-????-????????????-[0-9]*' | while read -r cx_old; do
		(
			cx_dir=$cx_old cx_id=${cx_old##*/consulexec-} cx_mine=''
			case $cx_id in
			*-"${cx_sum%% *}" | *-"${cx_sum%% *}"-[1-9]) cx_mine=yes cx_id=${cx_id%"-${cx_sum%% *}"*} ;;
			esac
			for cx_keep in "$cx_dir"/keep-*; do
				[ ! -e "$cx_keep" ] || [ -n "$(find "$cx_dir" -prune -mmin "+${cx_keep##*-}")" ] || exit
			done
			[ -d "$cx_dir/never" ] || [ -n "$(ended)" ] || { [ -n "$cx_mine" ] && ! runner_lives; } || exit
			rm -rf "$cx_dir"
		)
	done
} >/dev/null 2>&1
mark_keep
remove_old

# take makes the data the guard's own. It must be whole: an agent on a full disk
# leaves the rest out. If agents share the directory, each has written the same
# file, and it removes its file when its own copy of the job ends. So take brings
# all of them into this guard. The other copies look for theirs there.
take() {
	find "$cx_tmp/." ! -name . -prune -type f -user "$(id -u)" -size "${cx_size}c" -name 'rexec*' | while read -r cx_file; do
		read -r cx_first <"$cx_file" && [ "$cx_first" = "consulexec-$cx_id" ] && mv "$cx_file" "$cx_dir/spare-${cx_file##*/}"
	done
	for cx_file in "$cx_dir"/spare-* "$cx_tmp/consulexec-$cx_id-"*/spare-*; do
		own "${cx_file%/*}" && mv "$cx_file" "$cx_dir/data" && return 0
	done
	return 1
}

# cut writes the next bytes of the data to a file.
cut() { dd bs="$1" count=1 <&9 >"$2"; }

exec 7</dev/null 9</dev/null
if [ -n "$cx_size" ]; then
	# Others may take files at the same time. There is one for each copy.
	for cx_n in 1 2 3 4 5; do
		take && break
		sleep 0.2 || sleep 1
	done 2>/dev/null
	[ -f "$cx_dir/data" ] || fail "its script, input or environment is not in $cx_tmp, or not whole: is the disk full?"
	exec 9<"$cx_dir/data"
	rm -f "$cx_dir/data"
	{
		cut "$((cx_size - cx_script - cx_stdin - cx_vars))" /dev/null &&
			{ [ "$cx_script" = 0 ] || cut "$cx_script" "$cx_dir/script"; } &&
			{ [ "$cx_stdin" = 0 ] || cut "$cx_stdin" "$cx_dir/input"; }
	} 2>/dev/null || fail "its script or input can't be written to $cx_tmp: is the disk full?"
	if [ "$cx_stdin" != 0 ]; then
		exec 7<"$cx_dir/input"
		rm -f "$cx_dir/input"
	fi
fi

# bash sets $SHELL to the user's login shell if the environment has none, which
# is /bin/false for most services. So $SHELL counts only if env prints it.
if [ -z "$cx_shell" ] && [ "$cx_kind" != args ]; then
	cx_shell=/bin/sh
	if [ -n "$SHELL" ]; then
		case "
$(env)
" in
		*"
SHELL=$SHELL
"*) cx_shell=$SHELL ;;
		esac
	fi
fi
case $cx_kind in
command) set -- "$cx_shell" -c "$1" ;;
script) set -- "$cx_shell" ${cx_word:+"$cx_word"} "$cx_dir/script" "$@" ;;
esac

# keep_output starts two processes. One passes what comes from the FIFO "passed"
# on to the agent and to the keeper, which writes it to a file. tee may go on after
# a write error and leave a hole; cat does not. So the file is always the exact
# beginning of the output. If it is all of it, its name says so. Neither a dead agent
# nor a full disk stops the output. Both hold the events open.
#
# The command may remove the guard. So all FIFOs are open before it begins: pump
# and tee wait for each other, and this shell for tee. If tee can't start, the file
# no-tee says so.
keep_output() {
	(
		trap '' HUP INT TERM PIPE
		trap ': >"$cx_dir/no-tee" >"$cx_copy"' EXIT
		{
			tee "$cx_copy"
			trap - EXIT
			cat >/dev/null
		} <"$cx_dir/passed"
	) &
	cx_tee=$!
	exec 5<"$cx_copy"
	[ ! -e "$cx_dir/no-tee" ] || exit 126
	(
		trap '' HUP INT TERM
		cat <&5 >"$cx_dir/kept" && mv "$cx_dir/kept" "$cx_dir/kept-whole"
	) &
	cx_keeper=$!
	exec 5<&-
}

cx_why=$(mkfifo -m 600 "$cx_dir/events" "$cx_dir/hold" "$cx_dir/output" 2>&1) || fail "$cx_why"
exec 2>/dev/null # what the shells say, such as "Terminated", is not the command's output
if command -v setsid >/dev/null; then cx_own=setsid; elif (set -m); then set -m; fi

# The events must not end before there are any. So this shell opens them and
# hands them to the pump.
exec 4<>"$cx_dir/events"
# A command runs even if there is no room to keep its output.
if [ -n "$cx_copy" ] && mkfifo -m 600 "$cx_dir/passed"; then
	$cx_own /bin/sh -c "$cx_output" sh "$cx_max" 4>&4 >"$cx_dir/passed" <"$cx_dir/output" &
	cx_pump=$!
	keep_output
else
	$cx_own /bin/sh -c "$cx_output" sh "$cx_max" 4>&4 <"$cx_dir/output" &
	cx_pump=$!
fi
exec 4>&-
[ -z "$cx_limit" ] || start_timer
# This shell opens hold, as its name changes as soon as there is a watcher.
exec 3<>"$cx_dir/hold"
exec 6>"$cx_dir/hold"
exec 8<"$cx_dir/hold" 3>&-
watch 3>&1 >/dev/null <"$cx_dir/events" 8<&- &
cx_watch=$!
mv "$cx_dir/hold" "$cx_dir/hold-$cx_watch"
exec 6>&-
# Some shells would open the files themselves, not in the child, without exec.
(exec $cx_own /bin/sh -c "$cx_leader" sh "$cx_id" "$cx_own" "$cx_work" "$cx_vars" "$@" \
	<&7 >/dev/null 4>"$cx_dir/events" 5>"$cx_dir/output" 7<&- 8<&8 9<&9)
trap 'exit "$cx_code"' EXIT # even if this shell can't start a process any more
# A signal for this shell interrupts wait.
while :; do
	wait "$cx_watch"
	cx_code=$?
	kill -0 "$cx_watch" || break
done
sweep
await_copies
exit_ended
# The command may have removed the guard. Otherwise somebody has killed the
# watcher, and the command's status is not known.
! own "$cx_dir" || kill -KILL $$
exit "$cx_code"
