#!/bin/sh
# Installs the Debian packages that building mantle, its guest and its tests need; nothing if all are there.
# Arguments: more lists of packages. Ends well only when all of them, and the programs that they are wanted for, are there.
set -eu
here=$(dirname "$0")
# shellcheck source=guest/host.sh
. "$here/guest/host.sh"
lists="$here/packages.txt $here/guest/packages-host.txt $here/guest/packages-run.txt $*"

say() { echo "setup: $*" >&2; }
die() {
    say "$@"
    exit 1
}

command -v cargo >/dev/null || die "cargo is missing: install Rust first, as https://rustup.rs says"

# shellcheck disable=SC2086 # lists of words, here and below
packages=$(listed $lists | xargs)
# Asked again after every step: installing one package can remove another.
# shellcheck disable=SC2086
missing() {
    have=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' $packages 2>/dev/null | sed -n 's/^installed //p')
    for p in $packages; do echo "$have" | grep -qxF "$p" || echo "$p"; done | xargs
}

sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt="apt-get -o DPkg::Lock::Timeout=300 -y -qq --no-install-recommends" # waits for others' apt

# What apt would do: "removes a (1), replaces b (2 by 1)"; nothing if it only adds. Fails if apt would.
plan() {
    apt-get -s -y --no-install-recommends install "$@" >"$log" 2>&1 || return 1
    sed -n -e 's/^Remv \([^ ]*\) \[\([^]]*\)\].*/removes \1 (\2)/p' \
        -e 's/^Inst \([^ ]*\) \[\([^]]*\)\] (\([^ ]*\).*/replaces \1 (\2 by \3)/p' "$log" | sed '$!s/$/,/' | xargs
}

# Installs these packages, if it can be without removing any.
install() {
    # QEMU's parts must be of one version, and a newer qemu-utils (from backports, say) stands in the way of the
    # release's own QEMU: take the matching one.
    v=$(apt-cache policy qemu-system-x86 | sed -n 's/^ *Candidate: //p')
    matching="--allow-downgrades $* qemu-system-x86=$v qemu-utils=$v"
    case " $* " in *" qemu-"*) ;; *) matching= ;; esac
    # shellcheck disable=SC2086
    if changes=$(plan --no-remove "$@"); then
        set -- --no-remove "$@"
    elif [ "$matching" ] && changes=$(plan --no-remove $matching); then
        set -- --no-remove $matching
    else
        changes=$(plan "$@") || return 1
    fi
    [ -z "$changes" ] || say "apt-get $changes"
    # shellcheck disable=SC2086
    $sudo $apt install "$@" >"$log" 2>&1
}

want=$(missing)
if [ "$want" ]; then
    # shellcheck disable=SC2086
    $sudo $apt update >"$log" 2>&1 || say "apt-get update failed; going on with what is known: $(tail -n 1 "$log")"
fi
rounds=0
while [ "$want" ]; do
    say "installing: $want"
    ended=0
    # shellcheck disable=SC2086
    install $want || ended=$?
    before=$want want=$(missing) rounds=$((rounds + 1))
    [ "$want" ] || break
    if [ "$want" = "$before" ] || [ "$rounds" = 5 ]; then
        [ "$ended" = 0 ] || sed 's/^/    /' "$log" | tail -n 20 >&2
        die "not installed: $want; see what this says: apt-get install --no-install-recommends $want"
    fi
done

# shellcheck disable=SC2086
lacks=$(lacking $lists)
[ -z "$lacks" ] || die "packages are installed, but what they are for is missing (package, program):
$lacks
repeat after: apt-get install --reinstall $(echo "$lacks" | cut -d' ' -f1 | sort -u | xargs)"

venv=${MANTLE_TEST_VENV:-$HOME/.cache/mantle/test-venv}
wanted=$(cat "$here/support/emulators.txt" "$here/support/moto.txt")
if [ "$wanted" != "$(cat "$venv/installed.txt" 2>/dev/null)" ]; then
    say "installing emulators and clients of clouds into $venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check \
        -r "$here/support/emulators.txt" -r "$here/support/moto.txt"
    echo "$wanted" > "$venv/installed.txt"
fi
node=${MANTLE_TEST_NODE:-$HOME/.cache/mantle/test-node}
wanted=$(cat "$here/support/azurite.txt")
if [ "$wanted" != "$(cat "$node/installed.txt" 2>/dev/null)" ]; then
    command -v npm >/dev/null || die "npm is missing: install Node.js 20 or newer with npm first (Debian: apt-get install npm)"
    say "installing an emulator of Azure's storage into $node"
    mkdir -p "$node"
    # shellcheck disable=SC2046 # a list of words
    npm install --prefix "$node" --no-audit --no-fund --loglevel=error \
        $(echo "$wanted" | grep -v '^#') >"$log" 2>&1 || {
        tail -n 20 "$log" | sed 's/^/    /' >&2
        die "npm could not install it"
    }
    echo "$wanted" > "$node/installed.txt"
fi
"$here/support/vcsim/build" || die "vcsim, a simulated vCenter, could not be built"
cargo nextest --version >/dev/null 2>&1 || cargo install --locked cargo-nextest
