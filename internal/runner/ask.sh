# ask.sh prints the output of a run that the node keeps, also while the command
# still runs, and exits with its status. Its arguments:
#
#   $1  the run's ID
#   $2  the name of this ask, which no other ask of the run has
#   $3  the number of the first byte to print; the output begins with number 1
#   $4  how many seconds a guard is kept if the ask makes it
#
# The output ends with a note:
#
#   ended                  the status is the command's
#   timed out              the timeout ended the command
#   incomplete             like ended, but the end of the output was not kept
#   incomplete, timed out  like timed out, but the end of the output was not kept
#   no trace               the command has not started here and never will
#   killed                 the runner is gone without a status
(need tail) >/dev/null || exit 126
cx_ask=$2 cx_first=$3 cx_keep=$4 cx_ended='' cx_followed=''
exec 2>/dev/null

# finish ends the ask with a note.
finish() {
	note "$1"
	exit "$2"
}

claim >/dev/null
case $? in
0)
	mark_keep
	mkdir "$cx_dir/never"
	sweep
	finish 'no trace' 1
	;;
2) exit 126 ;;
esac

# A second copy of this ask ends before its agent could write a heartbeat over
# the output of the first one.
mkdir "$cx_dir/ask-$cx_ask" || [ ! -d "$cx_dir/ask-$cx_ask" ] || kill -KILL $$
[ ! -d "$cx_dir/never" ] || finish 'no trace' 1

# pause waits a moment. The runner may have ended with a status just now. A runner
# that was killed has removed nothing.
pause() {
	runner_lives || { sleep 1; [ -n "$(ended)" ]; } || runner_lives || { sweep; finish killed 1; }
	sleep 0.2 || sleep 1
}

# has_first reports whether the first byte is kept.
has_first() {
	[ -n "$(find "$cx_dir/kept" "$cx_dir/kept-whole" -prune ! -size "-${cx_first}c")" ]
}

# follow prints the output from the first byte on until the command has ended.
# Whatever was kept by then is kept before there is a status.
follow() {
	cx_followed=yes
	tail -c "+$cx_first" <&5 || exit
	while :; do
		cx_ended=$(ended)
		cat <&5 || exit
		[ -z "$cx_ended" ] || return 0
		pause
	done
}

until cx_ended=$(ended) && [ -n "$cx_ended" ] || has_first; do pause; done
# The file gets its other name when the output ends.
follow 5<"$cx_dir/kept"
[ -n "$cx_followed" ] || follow 5<"$cx_dir/kept-whole"
until [ -n "$cx_ended" ]; do
	pause
	cx_ended=$(ended)
done
cx_note=ended
case $cx_ended in *-timed-*) cx_note='timed out' ;; esac
[ -f "$cx_dir/kept-whole" ] || case $cx_note in
ended) cx_note=incomplete ;;
*) cx_note="incomplete, $cx_note" ;;
esac
finish "$cx_note" "${cx_ended%%-*}"
