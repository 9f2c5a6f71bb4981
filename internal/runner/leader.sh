# shellcheck shell=sh
# leader.sh leads the command's process group. It runs the command and reports
# its status. Then it stays until hold ends: as long as it lives, the group's
# number can't belong to other processes. Its arguments:
#
#   $1     "setsid" if that has made the group
#   $2     the command's directory, or nothing
#   $3     how long the environment is, which is to be read
#   $4...  the program and its arguments
#
# It writes events to 4, the output is 5, and hold is 8. The environment is shell
# text at 9.
trap : HUP INT TERM
cx_own=$1 cx_work=$2 cx_vars=$3 cx_env='' cx_why='' cx_code='' cx_old=${OLDPWD+set}
shift 3

# not_run reports why the command does not run, as its output.
not_run() {
	echo "consulexec: not run: $2" >&5
	cx_code=$1
}

[ -n "$cx_own" ] || kill -0 "-$$" || not_run 126 "it could not be ended: there is no setsid, and sh has no job control"
if [ "$cx_vars" != 0 ]; then
	cx_env=$(cat <&9)
	cx_why=$( (eval "$cx_env") 2>&1) || not_run 125 "its environment can't be set: $cx_why"
fi
if [ -n "$cx_work" ]; then
	if cx_why=$(cd "$cx_work" 2>&1); then cd "$cx_work" || cx_code=125; else not_run 125 "its directory: $cx_why"; fi
	[ -n "$cx_old" ] || unset OLDPWD
fi
if [ -z "$cx_code" ]; then
	# From the leader's event on, a signal ends the command. If hold ends, it is
	# not wanted any more.
	(
		eval "$cx_env"
		echo "leader $$" >&4
		read -r _ <&8 || exit 143
		exec "$@" >&5 2>&5 4>&- 5>&- 8<&- 9<&-
	)
	cx_code=$?
	# ksh reports more than 255 for a shell that a signal ended.
	[ "$cx_code" -lt 256 ] || cx_code=$((128 + cx_code % 128))
fi
exec 5>&-
echo "exit $cx_code" >&4
exec 4>&-
read -r _ <&8
