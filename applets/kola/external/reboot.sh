#!/bin/sh
# Asks kola for a reboot in the middle of a test: under the names that tests know from Debian's autopkgtest, from tmt
# (and Restraint) and from spread.
set -u
state=/run/kola-runext
name=${0##*/}
mark= command="systemctl reboot" kind=reboot
usage() { echo "usage: $name $1" >&2; exit 2; }
case $name in
autopkgtest-*)
    [ $# -eq 1 ] && [ -n "$1" ] || usage MARK
    mark=$1
    case $name in *soft*) kind=soft-reboot command="systemctl soft-reboot" ;; esac
    ;;
REBOOT)
    [ $# -le 1 ] || usage "[KEY]"
    mark=${1-}
    ;;
*)
    # How long to wait, and how UEFI goes on, is kola's business.
    while getopts c:t:es option; do
        case $option in
        c) command=$OPTARG ;;
        s) kind=soft-reboot command="systemctl soft-reboot" ;;
        t | e) ;;
        *) usage "[-c COMMAND] [-t SECONDS] [-s]" ;;
        esac
    done
    ;;
esac
case $mark in
*"
"*) echo "$name: a mark is one line" >&2; exit 2 ;;
esac
if [ ! -e $state/allowed ]; then
    echo "$name: a test that shares its machine cannot reboot it" >&2
    exit 1
fi
if [ $kind = soft-reboot ] && [ -z "$(systemctl show -p SoftRebootsCount | cut -d= -f2)" ]; then
    echo "$name: the systemd of this machine does not count soft reboots" >&2
    exit 1
fi
printf '%s\n%s\n' $kind "$mark" >$state/request.new
mv -f $state/request.new $state/request
while [ ! -e $state/granted ]; do sleep 0.2 2>/dev/null || sleep 1; done
rm -f $state/granted $state/request
case $name in *-prepare) exit 0 ;; esac
sh -c "$command"
# The test begins anew after the reboot; until then it gets no further.
while :; do sleep 60; done
