# shellcheck shell=sh
# output.sh passes the command's output on. $1 is how many bytes, or nothing if
# all; it throws the rest away. It hands on at once what it reads, and it counts
# exactly: by reads of a page, and by bytes in the end. dd reports "0+1 records
# in", the same of records out, and how many bytes.
set +efuC
trap '' HUP INT TERM
exec 3>&1 2>/dev/null
[ -n "$1" ] || exec cat
IFS=' 
'
left=$1 page=4096
case $(LC_ALL=C dd count=0 </dev/null 2>&1) in
*bytes*) ;;
*) page=$left ;; # it does not say how many
esac
while [ "$left" -gt 0 ]; do
	size=1 count=$left
	[ "$left" -le "$page" ] || { size=$page; count=$((left / page)); }
	report=$(LC_ALL=C dd bs="$size" count="$count" 2>&1 >&3)
	# shellcheck disable=SC2086 # into words
	set -- $report
	while [ $# -gt 3 ] && [ "$2" != records ]; do shift; done # GNU's warns of partial reads
	left=$((left - ${7:-${4%+*}}))
	[ "$((${1%+*} + ${1#*+}))" -eq "$count" ] || exit # the end of the output
done
exec cat >/dev/null
