#!/bin/sh
# Installs the Debian packages that building mantle, its guest and its tests need; nothing if all are there.
set -eu
here=$(dirname "$0")
packages=$(cat "$here/packages.txt" "$here/guest/packages-host.txt" | sed 's/#.*//' | xargs)

missing() { for p in $packages; do dpkg -s "$p" 2>/dev/null | grep -q '^Status: install ok installed' || echo "$p"; done; }

if [ -n "$(missing)" ]; then
    echo "installing: $(missing | xargs)" >&2
    sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
    export DEBIAN_FRONTEND=noninteractive
    $sudo apt-get update -qq
    # shellcheck disable=SC2046 # a list of words
    if ! $sudo apt-get install -y -qq --no-install-recommends $(missing) >/dev/null 2>&1; then
        # A qemu-utils newer than the release's own QEMU (from backports, say) stands in the way: take the matching one.
        v=$(apt-cache policy qemu-system-x86 | sed -n 's/^ *Candidate: //p')
        $sudo apt-get install -y -qq --no-install-recommends --allow-downgrades "qemu-system-x86=$v" "qemu-utils=$v"
        $sudo apt-get install -y -qq --no-install-recommends $(missing)
    fi
fi
venv=${MANTLE_TEST_VENV:-$HOME/.cache/mantle/test-venv}
wanted=$(cat "$here/support/emulators.txt" "$here/support/moto.txt")
if [ "$wanted" != "$(cat "$venv/installed.txt" 2>/dev/null)" ]; then
    echo "installing emulators of Google Storage and of AWS into $venv" >&2
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check \
        -r "$here/support/emulators.txt" -r "$here/support/moto.txt"
    echo "$wanted" > "$venv/installed.txt"
fi
cargo nextest --version >/dev/null 2>&1 || cargo install --locked cargo-nextest
