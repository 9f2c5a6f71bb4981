# watch.sh watches the command. One process, the watcher, reads the events from a
# FIFO, one line each:
#
#   leader 123  the leader of the command's group is ready
#   exit 3      the command has ended with that status
#   timeout     the time is over
#   end         the run is cancelled
#
# The FIFO ends when leader and output are through: then nobody holds the
# command's output any more, and all that can be kept of it is kept.
watch() {
	trap '' HUP INT TERM PIPE
	IFS=' 
'
	cx_code=126 cx_exited='' cx_timed='' cx_ending='' cx_left='' cx_group=''
	while read -r cx_event cx_value; do
		case $cx_event in
		leader)
			cx_group=$cx_value cx_code=137
			# Without the word it does not run the command. The end may have given
			# up waiting before there were events.
			[ ! -d "$cx_dir/end" ] || cx_ending=yes
			if [ -n "$cx_ending" ]; then exec 6>&-; else echo go >&6; fi
			;;
		exit)
			cx_code=$cx_value cx_exited=yes
			[ -n "$cx_group" ] || cx_timed='' # it could not start
			;;
		timeout)
			[ -n "$cx_exited$cx_ending" ] || cx_timed=yes
			[ -n "$cx_ending" ] || end_command
			;;
		end) [ -n "$cx_ending" ] || end_command ;;
		esac
	done
	if [ -z "$cx_exited" ] && [ "$cx_code" = 126 ]; then
		cx_timed=''
		echo "consulexec: not run: $cx_limited" >&3
	elif [ -n "$cx_timed" ]; then
		cx_code=124 cx_timed=timed
		note 'timed out' >&3
	elif [ -n "$cx_keep" ] && [ "$cx_code" = 255 ]; then
		note ended >&3 # an agent that gives up reports 255 as well
	fi
	if [ -z "$cx_left" ]; then
		cx_left=$cx_group
		[ -n "$cx_group" ] && [ -z "$cx_ending" ] || cx_left=ended
	fi
	[ -z "$cx_limit" ] || { kill -KILL "$cx_timer"; kill -KILL "-$cx_timer"; }
	# mv needs no room on the disk. If there can't be a process for it, a file has to do.
	trap ': >"$cx_dir/exit-$cx_code-$cx_timed-$cx_left"' EXIT
	mv "$cx_dir"/hold* "$cx_dir/exit-$cx_code-$cx_timed-$cx_left"
	trap - EXIT
	exit "$cx_code"
}

# start_timer starts a process group of its own: a shell and its sleep. The shell
# may just be starting either. After the timeout it stays until it is killed, so
# that its number can't belong to another process by then. A command may kill any
# sleep, and it may remove the guard: the timer holds the events open.
start_timer() {
	# shellcheck disable=SC2016,SC2094 # the inner shell expands them, and writes
	$cx_own /bin/sh -c 'until sleep "$1"; do :; done
echo timeout 1<>"/proc/$$/fd/3" || echo timeout 1<>"$2"
sleep 60' sh "$cx_limit" "$cx_dir/events" </dev/null >/dev/null 3<"$cx_dir/events" &
	cx_timer=$!
}

# end_command ends the command's group and other processes that hold its output:
# by SIGTERM, and 5 s later by SIGKILL. If some are left 2 s after that, it says
# so and ends the output.
end_command() {
	cx_ending=yes
	[ -n "$cx_group" ] || return 0
	# It may just be making way for a fresh shell.
	if ! is_leader && ! { sleep 0.2 && is_leader; }; then
		# If there is such a group nobody knows whose it is.
		! kill -0 "-$cx_group" || cx_left=unseen
		cx_group=
	fi
	signal TERM
	exec 6>&- # the leader goes when the command has ended
	cx_tenths=0
	until gone; do
		if sleep 0.2; then cx_tenths=$((cx_tenths + 2)); else sleep 1; cx_tenths=$((cx_tenths + 10)); fi
		[ "$cx_tenths" -lt 50 ] || signal KILL
		if [ "$cx_tenths" -ge 70 ]; then
			cx_left=unseen
			! group_lives || cx_left=left
			kill -KILL "-$cx_pump"
			return 0
		fi
	done
}

# is_leader reports whether the leader's number is still its own. It is so until
# hold ends, unless the command has killed the leader.
is_leader() {
	if [ -r "/proc/$$/cmdline" ]; then
		grep -q "consulexec-$cx_id leader" "/proc/$cx_group/cmdline"
	else
		ps -o args= -p "$cx_group" | grep -q "consulexec-$cx_id leader"
	fi
}

# gone reports whether nothing is left of the command's group and nobody holds
# its output.
gone() { ! group_lives && ! kill -0 "$cx_pump"; }

# group_lives does not count zombies, which nobody may ever reap in a container.
group_lives() {
	[ -n "$cx_group" ] && kill -0 "-$cx_group" || return 1
	[ "$cx_tenths" -ge 50 ] && [ -r "/proc/$$/stat" ] || return 0
	cat /proc/[0-9]*/stat | sed -n "s/.*) \\([A-Z]\\) [0-9]* $cx_group .*/\\1/p" | grep -q '[^ZX]'
}

# signal sends a signal to the command's group and to other processes that hold
# its output. A stopped process has to go on to take it.
signal() {
	[ -z "$cx_group" ] || { kill "-$1" "-$cx_group"; kill -CONT "-$cx_group"; }
	for cx_pid in $(holders); do
		kill "-$1" "$cx_pid"
		kill -CONT "$cx_pid"
	done
}

# holders prints which processes hold the command's output and are not in its
# group, as far as /proc shows it to this user. Only the file itself proves it: the
# name of another file may look the same. ksh has the first shell hold it for a
# moment.
holders() {
	cx_line="/^l.w.*\\/${cx_dir##*/}\\/output\$/"
	for cx_file in $(ls -ln /proc/[0-9]*/fd | sed -n -e 's/^\/proc\///' -e 's/\/fd:$//' -e '/^[0-9]*$/h' \
		-e "$cx_line{s/.* \\([0-9]*\\) -> .*/\\1/;G;s/\\(.*\\)\n\\(.*\\)/\\2\\/fd\\/\\1/p;}"); do
		cx_pid=${cx_file%%/*}
		# shellcheck disable=SC3013 # all of the shells have -ef
		[ "/proc/$cx_file" -ef "$cx_dir/output" ] && read -r cx_stat <"/proc/$cx_pid/stat" || continue
		# shellcheck disable=SC2086 # into words: state, parent, group
		set -- ${cx_stat##*') '}
		[ "$3" = "$cx_group" ] || [ "$cx_pid" = $$ ] || echo "$cx_pid"
	done
}
