# Runs one of the user's commands for a machine, in a session of its own whose number is written down: so another call
# can end it, from another connection, and after the death of whoever made the first one.
#
# usage: sh -c "$(cat run.sh)" run.sh STEP MACHINE COMMANDS MOST [IPADDR]
#
# STEP is provision (with the userdata on stdin), console or deprovision, which ends the commands of the others. Userdata
# of up to MOST bytes goes into the environment, too. What provision and deprovision write is passed on at their end, so
# that nobody waits for what they leave running.
set -u
step=$1 MACHINE=$2 commands=$3 most=$4
unset IPADDR USERDATA
export MACHINE
if [ $# -gt 4 ]; then export IPADDR="$5"; fi
mask=$(umask)
umask 077
dir=${TMPDIR:-/tmp}/mantle-external-$MACHINE
mkdir -p "$dir" || exit

# Ends what a step has running, if it is still that and not another process of the same number.
end() {
    leader=$(cat "$dir/$1.pid" 2>/dev/null) || return 0
    tr '\0' '\n' 2>/dev/null <"/proc/$leader/environ" | grep -qx "MACHINE=$MACHINE" || return 0
    kill -s TERM -- "-$leader" 2>/dev/null
    tries=0
    while kill -s 0 -- "-$leader" 2>/dev/null && [ $tries -lt 150 ]; do
        tries=$((tries + 1))
        if [ $tries -ge 100 ]; then kill -s KILL -- "-$leader" 2>/dev/null; fi
        sleep 0.1
    done
}

case $step in
provision)
    cat >"$dir/user-data" || exit
    # An earlier call was given up before it came this far.
    if [ -e "$dir/ended" ]; then exit 1; fi ;;
deprovision)
    : >"$dir/ended"
    end provision
    end deprovision ;;
esac
export USERDATA_FILE="$dir/user-data"
if [ -f "$USERDATA_FILE" ] && [ "$(wc -c <"$USERDATA_FILE")" -le "$most" ]; then
    USERDATA=$(cat "$USERDATA_FILE")
    export USERDATA
fi

started() {
    # The leader says who it is before it becomes the command.
    exec setsid sh -c 'echo $$ >"$0"; umask "$1"; exec sh -c "$2"' "$dir/$step.pid" "$mask" "$commands" </dev/null
}
if [ "$step" = console ]; then
    started &
    wait $!
    status=$?
else
    started >"$dir/$step.out" 2>"$dir/$step.err" &
    wait $!
    status=$?
    cat "$dir/$step.out"
    tail -c 65536 "$dir/$step.err" >&2
fi
rm -f "$dir/$step.pid"
if [ "$step" = deprovision ]; then
    end console
    if [ $status = 0 ]; then rm -rf "$dir"; fi
fi
exit $status
