# shellcheck shell=sh
# watcher.sh runs beside a command. It ends the command's process group at the
# timeout, or when it gets a SIGTERM. Its status is the command's. Its
# arguments:
#
#   $1  the run's ID
#   $2  the timeout in seconds, or nothing
#   $3  "setsid" if the node has that program
#
# It waits for the command's end and for signals at once. So a child, the
# reader, waits for the command's end: it reads the first of the two statuses.
# The reader carries the marker in its command line, so the killer finds a
# watcher only when it is ready for the SIGTERM. The watcher reads the second
# status after the reader has ended, as two readers would tear a line apart.
#
# Every process that does not need the command's output closes it, as the agent
# waits until nobody holds it.
exec 3<&0 </dev/null
ending='' pid=''
end() {
	trap "" HUP INT TERM
	ending=1
	[ -n "$pid" ] || return 0
	# The group may not exist yet, but its leader does. Others may outlive the leader.
	kill -TERM "-$pid" || kill -TERM "$pid"
	tenths=0
	while [ "$tenths" -lt 50 ]; do
		kill -0 "-$pid" || kill -0 "$pid" || return 0
		if sleep 0.1; then tenths=$((tenths + 1)); else sleep 1; tenths=$((tenths + 10)); fi
	done
	kill -KILL "-$pid"
}
trap end HUP INT TERM
read -r kind pid <&3 || read -r kind pid <&3
[ "$kind" = pid ] || exit "${pid:-255}"
[ -z "$ending" ] || end
# The timer has a group of its own: a shell and its sleep, and the shell may
# just be starting either. After the timeout it stays until it is killed, so
# that its number can't belong to another process by then.
timer=
if [ -n "$2" ]; then
	[ -n "$3" ] || set -m
	# shellcheck disable=SC2016 # the inner shell expands them
	$3 /bin/sh -c 'sleep "$1"; kill -TERM "$2"; sleep 60' sh "$2" $$ 3<&- &
	timer=$!
	set +m
fi
/bin/sh -c ": consulexec-$1 watcher $$
read first" <&3 3<&- &
reader=$!
wait "$reader"
[ -z "$ending" ] || wait "$reader"
trap "" HUP INT TERM
[ -z "$timer" ] || { kill -KILL "$timer"; kill -KILL "-$timer"; }
read -r kind code <&3 || code=255
exit "$code"
