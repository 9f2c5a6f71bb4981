# shellcheck shell=sh
# killer.sh ends the commands of a run on this node: it sends each watcher of
# the run one SIGTERM and waits until all are gone. $1 is the run's ID. Its
# status is
#
#   0  no shell of the run is left
#   1  one is left after 9 s
#   2  it can't see processes, not even itself
#
# If it finds none it looks again a second later: an agent that has just
# acknowledged the job may be about to start the command.
exec 2>/dev/null
signalled=" " tenths=0 retry=yes
while :; do
	if [ -r "/proc/$$/cmdline" ]; then
		found=$(cat /proc/[0-9]*/cmdline | tr "\\000" "\\n" | sed -n "s/^: consulexec-$1 //p")
	else
		found=$(ps -A -o args= | sed -n "s/^.* -c : [c]onsulexec-$1 \\([a-z]*\\) *\\([0-9]*\\).*/\\1 \\2/p")
	fi
	self='' left=''
	for word in $found; do
		case $word in
		killer) self=yes ;;
		*[!0-9]*) left=yes ;;
		*)
			case $signalled in
			*" $word "*) ;;
			*) kill -TERM "$word"; signalled="$signalled$word " ;;
			esac
			;;
		esac
	done
	[ -n "$self" ] || exit 2
	if [ -n "$left" ]; then
		retry=
		[ "$tenths" -lt 90 ] || exit 1
		if sleep 0.2; then tenths=$((tenths + 2)); else sleep 1; tenths=$((tenths + 10)); fi
	else
		[ -n "$retry" ] || exit 0
		retry=
		sleep 1
	fi
done
