# What kola does for an external test on the machine, as root: `sh -c THIS sh COMMAND ARGUMENT...`.
set -eu
state=/run/kola-runext

fail() { echo "$*" >&2; exit 1; }

# The first folder for programs that can be written: /usr is read-only on many systems.
programs() {
    for dir in /usr/local/bin /opt/bin /var/opt/kola/bin; do
        mkdir -p "$dir" 2>/dev/null || continue
        if (: >"$dir/.kola-runext.$$") 2>/dev/null; then rm -f "$dir/.kola-runext.$$"; return; fi
    done
    fail "no folder for programs can be written on this machine"
}

# Puts stdin into a program, whole before it bears its name.
put() {
    cat >"$1.partial"
    chmod 0755 "$1.partial"
    [ ! -e /sys/fs/selinux/enforce ] || chcon -t bin_t "$1.partial"
    mv -f "$1.partial" "$1"
}

case $1 in
install) # FILE SIZE UNIT TEXT: the program is stdin, @programs@ in the unit's text is where it is
    programs
    put "$dir/$2"
    # A lost connection looks like the end of the file.
    [ "$(wc -c <"$dir/$2")" -eq "$3" ] || fail "$2 has not arrived whole"
    printf '%s' "$5" | sed "s|@programs@|$dir|g" >"/etc/systemd/system/$4"
    printf '%s' "$6" | put "$dir/kola-runext-reboot"
    for name in tmt-reboot rstrnt-reboot rhts-reboot REBOOT; do ln -sf kola-runext-reboot "$dir/$name"; done
    systemctl daemon-reload
    ;;
data) # DIR: a packed tar archive is stdin
    rm -rf "$2"
    mkdir -p "$2"
    tar -xzf - -C "$2" --no-same-owner
    ;;
run) # UNIT allow|deny ENVIRONMENT: prints `passed`, `failed: …`, or a kind of reboot and, in the next line, its mark
    programs
    mkdir -p $state
    rm -f $state/request $state/granted $state/allowed
    [ "$3" != allow ] || : >$state/allowed
    for name in reboot reboot-prepare soft-reboot soft-reboot-prepare; do
        ln -sf "$dir/kola-runext-reboot" "/tmp/autopkgtest-$name"
    done
    printf '%s' "$4" >/run/kola-runext-env
    systemctl reset-failed "$2" 2>/dev/null || :
    systemctl start "$2" || :
    pause=0.1
    while :; do
        if [ -e $state/request ]; then cat $state/request; exit 0; fi
        shown=$(systemctl show -p ActiveState -p SubState -p Result -p ExecMainCode -p ExecMainStatus "$2")
        field() { printf '%s\n' "$shown" | sed -n "s/^$1=//p"; }
        how="$(field ExecMainCode)/$(field ExecMainStatus)"
        case "$(field ActiveState)/$(field SubState)/$how" in
        active/exited/1/0) echo passed; exit 0 ;;
        active/exited/1/* | failed/*/1/*) echo "failed: exited with status ${how#*/}"; exit 0 ;;
        active/exited/2/* | failed/*/2/*) echo "failed: was ended by signal ${how#*/}"; exit 0 ;;
        active/exited/3/* | failed/*/3/*) echo "failed: was ended by signal ${how#*/} and dumped its core"; exit 0 ;;
        active/* | activating/* | deactivating/* | reloading/*) ;;
        inactive/*) echo "failed: somebody stopped its unit"; exit 0 ;;
        *) echo "failed: its unit is $(field ActiveState) ($(field Result))"; exit 0 ;;
        esac
        sleep $pause 2>/dev/null || sleep 1
        case $pause in 0.1) pause=0.2 ;; 0.2) pause=0.5 ;; *) pause=1 ;; esac
    done
    ;;
grant) # the test may reboot now
    sync
    : >$state/granted
    ;;
esac
