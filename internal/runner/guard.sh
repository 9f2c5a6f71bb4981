# shellcheck shell=sh
# guard.sh makes and finds the guard: the directory of a run on its node. Whoever
# makes it is the first to act for the run there. Start and end begin with it.
#
# Several agents may share a machine or a /tmp. So the name has a checksum of
# TMPDIR, the agent's command line, its directory and the host's name, which a
# restart of the agent does not change. If somebody else has taken the name, the
# next of ten counts.
#
# The variables have unusual names. To set one that is in the environment would
# change it for the command.
set +efuC # the agent's environment may set them
for cx_n in cat cksum dd env find grep id ls mkdir mkfifo mv printf rm sed sleep uname; do
	command -v "$cx_n" >/dev/null || {
		echo "consulexec: not run: there is no $cx_n"
		exit 126
	}
done
cx_tmp=${TMPDIR:-/tmp}
case $cx_tmp in /*) ;; *) cx_tmp=$PWD/$cx_tmp ;; esac
cx_sum=$({ echo "$cx_tmp"; cat "/proc/$PPID/cmdline" || ps -o args= -p "$PPID"; pwd; uname -n; } 2>/dev/null | cksum)
cx_guard=$cx_tmp/consulexec-$cx_id-${cx_sum%% *}

# own reports whether a directory is there and belongs to this user.
own() {
	[ -d "$1" ] && [ ! -h "$1" ] && [ -n "$(find "$1" -prune -user "$(id -u)" 2>/dev/null)" ]
}

# claim sets cx_dir to the guard. It returns 0 if it has made it, 1 if the guard
# was there, and 2 if it can't make one and has said why. Copies that start at
# once must come to the same name: only when mkdir has failed is a name
# somebody else's.
claim() {
	for cx_n in '' -1 -2 -3 -4 -5 -6 -7 -8 -9; do
		cx_dir=$cx_guard$cx_n
		! own "$cx_dir" || return 1
	done
	for cx_n in '' -1 -2 -3 -4 -5 -6 -7 -8 -9; do
		cx_dir=$cx_guard$cx_n
		cx_why=$(mkdir -m 700 "$cx_dir" 2>&1) && return 0
		! own "$cx_dir" || return 1
		[ -e "$cx_dir" ] || [ -h "$cx_dir" ] || break
	done
	echo "consulexec: not run: $cx_why"
	return 2
}

# ended prints the command's status if the command has ended, and after it
#
#   -ended   if nothing of it is left, as the watcher has ended it
#   -left    if something of its group goes on after SIGKILL
#   -unseen  if somebody holds the output who can't be found
#   -123     the number of its group, if it ended by itself
ended() {
	for cx_exit in "$cx_dir"/exit-*; do
		[ ! -e "$cx_exit" ] || echo "${cx_exit##*/exit-}"
	done
}

# sweep returns at once and has the guard removed 50 s later: until then a late
# copy of the job finds it. A SIGTERM, as when a service manager stops the agent,
# removes it sooner. If the end of the run has just written to it, rm fails once.
sweep() {
	/bin/sh -c 'trap "rm -rf \"\$1\"; exit" HUP TERM; sleep 50 & wait; rm -rf "$1" || { sleep 1; rm -rf "$1"; }' consulexec-sweep "$cx_dir" </dev/null >/dev/null 2>&1 3>&- 6>&- &
}
