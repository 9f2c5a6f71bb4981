# shellcheck shell=sh
# keep.sh is the part of start and ask that end does not need.

# mark_keep notes in the guard how long it is kept: the FIFO keep-3 says that it
# may go when nothing in it has changed for three minutes. A FIFO needs no room
# for data on the disk.
mark_keep() {
	cx_copy=
	[ -z "$cx_keep" ] || { cx_copy=$cx_dir/keep-$((cx_keep / 60 + 2)) && mkfifo -m 600 "$cx_copy" 2>/dev/null; } || cx_copy=
}

# has_role reports whether the process $1 belongs to this user and to the run, and
# has the role $2 there, such as start.
has_role() {
	if [ -r "/proc/$$/cmdline" ]; then
		own "/proc/$1" && grep -q "consulexec-$cx_id $2" "/proc/$1/cmdline"
	else
		# shellcheck disable=SC2009 # pgrep is not in POSIX
		kill -0 "$1" && ps -o args= -p "$1" | grep -q "consulexec-$cx_id $2"
	fi
} 2>/dev/null

# runner_lives reports whether the guard's runner lives. The FIFO hold has the
# watcher's number in its name. Before there is a watcher, whoever runs the job
# counts.
runner_lives() {
	for cx_hold in "$cx_dir"/hold-*; do
		if [ -p "$cx_hold" ]; then has_role "${cx_hold##*-}" start; else starting; fi
	done
}

# note writes a note for the library, which is the end of the output.
note() { printf '\000consulexec-%s %s' "$cx_id" "$1"; }
