# shellcheck shell=sh
# Reads lists of what this machine must have; sourced by setup.sh and build.sh. A line of a list is
#     PACKAGE [PROGRAM or /FILE that it must give]... [# why]

# listed FILE...: the packages of these lists.
listed() { sed 's/#.*//' "$@" | awk 'NF { print $1 }' | sort -u; }

# lacking FILE...: a line "PACKAGE PROGRAM" for each program or file that is not there.
lacking() {
	sed 's/#.*//' "$@" | while read -r package programs; do
		for program in $programs; do
			found=
			case $program in
			/*) [ ! -e "$program" ] || found=1 ;;
			*) [ -z "$(PATH=$PATH:/usr/sbin:/sbin && command -v "$program")" ] || found=1 ;;
			esac
			[ "$found" ] || echo "$package $program"
		done
	done
}
