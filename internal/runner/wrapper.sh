# shellcheck shell=sh
# wrapper.sh runs a command in a process group of its own and hands its output
# and status through. Its arguments:
#
#   $1     the run's ID
#   $2     the timeout in seconds, or nothing
#   $3     the text of watcher.sh
#   $4     what to run: command, script or args
#   $5...  the command, the script's directory, or the program and its arguments
#
# The command is the foreground command of a pipeline, and the watcher is the
# other end. A background command would have SIGINT and SIGQUIT ignored and
# could not undo that. The pipe carries the group's ID, and then the status
# twice. It ends with the command, whatever happens to this shell.
#
# This shell survives HUP, INT and TERM, to remove the script's directory after
# the command. Its children get these signals' default actions.
#
# The variables have unusual names. To set one that is in the environment would
# change it for the command. bash sets $SHELL to the user's login shell if the environment has
# none, which is /bin/false for most services; so $SHELL counts only if env
# prints it.
trap : HUP INT TERM
cx_id=$1 cx_limit=$2 cx_watcher=$3 cx_kind=$4 cx_dir='' cx_own='' cx_shell=/bin/sh
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
# What the shells say, such as "Terminated", must not be output of the command.
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
	# ksh reports more than 255 for a shell that a signal ended.
	[ "$cx_code" -lt 256 ] || cx_code=$((128 + cx_code % 128))
	echo "exit $cx_code"
	echo "exit $cx_code"
} | /bin/sh -c "$cx_watcher" sh "$cx_id" "$cx_limit" $cx_own >/dev/null 3>&- 4>&-
cx_code=$?
[ -z "$cx_dir" ] || { rm -f "$cx_dir/script"; rmdir "$cx_dir"; }
exit "$cx_code"
