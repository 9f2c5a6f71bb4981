# shellcheck shell=sh
# guard.sh makes and finds the guard: the directory of a run on its node. Whoever
# makes it is the first to act for the run there. Start and end begin with it.
#
# Several agents may share a machine or a /tmp. So the name has a checksum of
# TMPDIR, the agent's command line, its directory and the host's name, which a
# restart of the agent does not change. If somebody else has taken the name, the
# next of ten counts.
#
# The directory "never" in a guard says that the command has not started and never
# will.
#
# The variables have unusual names. To set one that is in the environment would
# change it for the command.
set +efuC # the agent's environment may set them
# A shell that can't start a process ends. Without the trap its status would look
# like the command's. zsh does not run it.
trap 'exit 126' EXIT
cx_limited="the runner can't start its processes: is there a limit?"
cx_keep='' # how many seconds the guard is kept after the command's end
need() {
	for cx_n in "$@"; do
		command -v "$cx_n" >/dev/null || {
			echo "consulexec: not run: there is no $cx_n"
			exit 126
		}
	done
}
need cat cksum dd env find grep id ls mkdir mkfifo mv printf rm sed sleep uname
cx_tmp=${TMPDIR:-/tmp}
case $cx_tmp in /*) ;; *) cx_tmp=$PWD/$cx_tmp ;; esac
args() { cat "/proc/$1/cmdline" || ps -o args= -p "$1"; } 2>/dev/null
cx_sum=$({ { echo "$cx_tmp"; args "$PPID"; pwd; uname -n && echo whole >&3; } | cksum; } 3>&1)
case $cx_sum in
whole*' '*) cx_sum=${cx_sum#whole?} ;;
*) echo "consulexec: not run: $cx_limited"; exit 126 ;;
esac
# An agent that has just died has no command line, so the name would be another
# one. Nobody would read what this program does.
case $(args "$PPID" | cksum) in
*' 0') case $(args $$ | cksum) in *' 0') ;; *) exit 1 ;; esac ;;
esac
cx_guard=$cx_tmp/consulexec-$cx_id-${cx_sum%% *}
trap - EXIT

# own reports whether a directory is there and belongs to this user.
own() {
	# shellcheck disable=SC3067 # all of the shells have -O
	[ -d "$1" ] && [ ! -h "$1" ] && [ -O "$1" ]
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

# ended prints how the command has ended, if it has. First comes its status, then
# "-timed" if the timeout ended it, else "-". After it comes
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

# starting reports whether some process of this user runs the job.
starting() {
	if [ -r "/proc/$$/cmdline" ]; then
		for cx_process in $(grep -l "consulexec-$cx_id [s]tart" /proc/[0-9]*/cmdline); do
			! own "${cx_process%/cmdline}" || return 0
		done
		return 1
	fi
	# shellcheck disable=SC2009 # pgrep is not in POSIX
	ps -U "$(id -u)" -o args= | grep -q "consulexec-$cx_id [s]tart"
} 2>/dev/null

# sweep returns at once and has the guard removed later: until then a late copy
# of the job finds it. It is cx_keep seconds later, when no ask of the run is under
# way, and nothing but SIGKILL makes it sooner: a restart of the agent must not
# take away what is kept. Without cx_keep it is 50 s, or the SIGTERM of a service
# manager that stops the agent. If the end of the run has just written to the
# guard, rm fails once.
sweep() {
	# The inner shell ignores them from its first moment on, as this one does. zsh
	# must be told again, or its sleep does not.
	[ -z "$cx_keep" ] || trap '' HUP TERM
	# shellcheck disable=SC2016,SC3067 # the inner shell expands them; all of the shells have -O
	/bin/sh -c 'if [ -n "$2" ]; then trap "" HUP TERM; else trap "rm -rf \"\$1\"; exit" HUP TERM; fi
asked() {
	[ -n "$2" ] || return 1
	[ -r "/proc/$$/cmdline" ] || { ps -U "$(id -u)" -o args= | grep -q "consulexec-$3 [a]sk"; return; }
	for p in $(grep -l "consulexec-$3 [a]sk" /proc/[0-9]*/cmdline); do [ ! -O "$p" ] || return 0; done
	return 1
}
sleep "${2:-50}" & wait; while asked "$@"; do sleep 1; done; rm -rf "$1" || { sleep 1; rm -rf "$1"; }' consulexec-sweep "$cx_dir" "$cx_keep" "$cx_id" </dev/null >/dev/null 2>&1 3>&- 6>&- 8<&- &
}
