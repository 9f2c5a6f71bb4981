# shellcheck shell=sh
# leader.sh leads the command's process group. It runs the command and reports
# its status. Then it stays until hold ends: as long as it lives, the group's
# number can't belong to other processes. Its arguments:
#
#   $1     the run's ID
#   $2     "setsid" if that has made the group
#   $3     the command's directory, or nothing
#   $4     the length of the environment, or 0
#   $5...  the program and its arguments
#
# It writes events to 4, the output is 5, and hold is 8. The environment is shell
# text at 9.
set +efuC
trap : HUP INT TERM
cx_id=$1 cx_own=$2 cx_work=$3 cx_vars=$4 cx_env='' cx_why='' cx_old=${OLDPWD+set}
shift 4

# not_run reports why the command does not run, as its output.
not_run() { echo "consulexec: not run: $1" >&5; }

# run runs the command in place of this shell. From the leader's event on, a
# signal ends it. If hold ends, the command is not wanted any more.
run() {
	echo "leader $$" >&4
	read -r _ <&8 || exit 143
	if [ "$cx_vars" != 0 ]; then
		cx_env=$(cat <&9)
		cx_why=$( (eval "$cx_env") 2>&1) || { not_run "its environment can't be set: $cx_why"; exit 125; }
	fi
	if [ -n "$cx_work" ]; then
		cx_why=$(cd "$cx_work" 2>&1) && cd "$cx_work" || { not_run "its directory: $cx_why"; exit 125; }
		[ -n "$cx_old" ] || unset OLDPWD
	fi
	eval "$cx_env"
	exec "$@" >&5 2>&5 4>&- 5>&- 8<&- 9<&-
}

if [ -n "$cx_own" ] || kill -0 "-$$"; then
	(run "$@")
	cx_code=$?
	# ksh reports more than 255 for a shell that a signal ended.
	[ "$cx_code" -lt 256 ] || cx_code=$((128 + cx_code % 128))
else
	not_run "it could not be ended: there is no setsid, and sh has no job control"
	cx_code=126
fi
exec 5>&-
echo "exit $cx_code" >&4
# A fresh shell waits, as mksh keeps a copy of each file that it closes.
exec /bin/sh -c ": consulexec-$cx_id leader
trap : HUP INT TERM
read -r _ <&8" 4>&-
