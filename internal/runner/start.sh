# start.sh runs a command so that it can be ended, and hands its output and
# status through. Its arguments:
#
#   $1     the run's ID
#   $2     the timeout in seconds, or nothing
#   $3     how many bytes of output are passed on, or nothing
#   $4     the command's directory, or nothing
#   $5-$8  the lengths of the data: all, the script, the input, the environment
#   $9     the text of leader.sh
#   $10    the text of output.sh
#   $11    what to run: command, script or args
#   $12    its shell or interpreter; if empty, the agent's shell
#   $13    the interpreter's argument, or nothing
#   $14... the command, the script's arguments, or the program and its arguments
#
# The agent has written the data to a file. Its first line is the run's name;
# then come the script, the input and the environment.
#
# This shell waits for the leader, in the foreground: a command in the
# background would have SIGINT and SIGQUIT ignored and could not undo that. It
# survives HUP, INT and TERM. Its children get these signals' default actions.
trap : HUP INT TERM
cx_limit=$2 cx_max=$3 cx_work=$4 cx_size=$5 cx_script=$6 cx_stdin=$7 cx_vars=$8 cx_leader=$9
shift 9
cx_output=$1 cx_kind=$2 cx_shell=$3 cx_word=$4 cx_own=''
shift 4

# fail ends a run that has not begun.
fail() {
	echo "consulexec: not run: $1"
	rm -f "$cx_dir/script" "$cx_dir/input"
	mkdir "$cx_dir/exit-126-ended"
	sweep
	exit 126
}

# exit_ended exits with the command's status if the command has ended.
exit_ended() {
	cx_ended=$(ended)
	[ -z "$cx_ended" ] || exit "${cx_ended%%-*}"
}

# A second copy of the job ends with the status, if that is known, but not before
# the first one's agent has had time to write the output. Otherwise a signal ends
# it, before its agent could write a heartbeat over the output of the first one.
claim
case $? in
1)
	[ -z "$(ended)" ] || sleep 1
	exit_ended
	kill -KILL $$
	;;
2) exit 126 ;;
esac

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

cx_why=$(mkfifo -m 600 "$cx_dir/events" "$cx_dir/hold" "$cx_dir/output" 2>&1) || fail "$cx_why"
exec 2>/dev/null # what the shells say, such as "Terminated", is not the command's output
if command -v setsid >/dev/null; then cx_own=setsid; elif (set -m); then set -m; fi

# The events must not end before there are any. So this shell opens them and
# hands them to the pump.
exec 4<>"$cx_dir/events"
$cx_own /bin/sh -c "$cx_output" sh "$cx_max" 4>&4 <"$cx_dir/output" &
cx_pump=$!
exec 4>&-
[ -z "$cx_limit" ] || start_timer
watch 3>&1 >/dev/null <"$cx_dir/events" 6>"$cx_dir/hold" &
cx_watch=$!
# Some shells would open the files themselves, not in the child, without exec.
(exec $cx_own /bin/sh -c "$cx_leader" sh "$cx_id" "$cx_own" "$cx_work" "$cx_vars" "$@" \
	<&7 >/dev/null 4>"$cx_dir/events" 5>"$cx_dir/output" 7<&- 8<"$cx_dir/hold" 9<&9)
# A signal for this shell interrupts wait. The command may have removed the guard.
while :; do
	wait "$cx_watch"
	cx_code=$?
	kill -0 "$cx_watch" || break
done
sweep
exit_ended
exit "$cx_code"
