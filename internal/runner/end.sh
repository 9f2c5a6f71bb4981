# end.sh ends the commands of a run on this node. It writes to their watchers and
# waits for the statuses. $1 is the run's ID. Its own status is
#
#   0  nothing of the run is left
#   1  something of the command's group goes on
#   2  somebody holds the output who can't be found
#   3  a runner does not answer
#
# It makes the guard if there is none. Then the command has not started and never
# will. Other guards of the run are those of other agents, and of this one before
# it was restarted in another way.
exec 3>/dev/null
claim
case $? in
0) cx_new=$cx_dir; mkdir "$cx_dir/never"; sweep ;;
1) cx_new='' ;;
2) exit 3 ;;
esac
exec 2>/dev/null

cx_tenths=0
while :; do
	cx_code=0
	for cx_dir in "$cx_tmp/consulexec-$cx_id-"*; do
		[ "$cx_dir" != "$cx_new" ] && own "$cx_dir" && [ ! -d "$cx_dir/never" ] || continue
		cx_ended=$(ended)
		case $cx_ended in
		'')
			cx_code=3
			[ -d "$cx_dir/end" ] || mkdir "$cx_dir/end"
			[ ! -p "$cx_dir/events" ] || echo end 1<>"$cx_dir/events"
			;;
		*-ended) ;;
		*-unseen) [ "$cx_code" != 0 ] || cx_code=2 ;;
		*-left) [ "$cx_code" = 3 ] || cx_code=1 ;;
		*) ! kill -0 "-${cx_ended##*-}" || [ "$cx_code" = 3 ] || cx_code=1 ;;
		esac
	done
	# Here a process that runs the job will be turned away, but with another TMPDIR
	# it has its guard elsewhere.
	[ -z "$cx_new" ] || ! starting || cx_code=3
	# The leader of a command that has just ended may take a moment to go.
	case $cx_code in
	3) cx_most=90 ;;
	1) cx_most=10 ;;
	*) cx_most=0 ;;
	esac
	[ "$cx_tenths" -lt "$cx_most" ] || break
	if sleep 0.2; then cx_tenths=$((cx_tenths + 2)); else sleep 1; cx_tenths=$((cx_tenths + 10)); fi
done
exit "$cx_code"
