#!/bin/bash
# Measures `gangue get` of a signed file from a server on this machine: median of the time, highest peak of memory.
# usage: benches/gangue.sh MANTLE [MIB [RUNS]]; needs gpg, python3 and room for twice the file in $TMPDIR
set -euo pipefail
mantle=$(realpath "$1")
size=${2:-1024}
runs=${3:-5}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; GNUPGHOME="$work/gpg" gpgconf --kill all 2>/dev/null || true; rm -rf "$work"' EXIT
cd "$work"
mkdir -m 700 gpg
mkdir files out
export GNUPGHOME="$work/gpg"
gpg --batch --quiet --passphrase '' --quick-generate-key 'Bench <bench@localhost>' rsa3072 sign never 2>/dev/null
gpg --batch --quiet --armor --export >key.asc
head -c "${size}M" /dev/zero | openssl enc -aes-128-ctr -nosalt -K 00 -iv 00 >files/image.bin 2>/dev/null
gpg --batch --quiet --digest-algo SHA256 --detach-sign files/image.bin
python3 "$here/serve.py" files >port &
server=$!
while [ ! -s port ]; do sleep 0.05; done
url=http://127.0.0.1:$(cat port)/image.bin

# measure NAME COMMAND-BEFORE-EACH OPTIONS...: a row with the median of seconds and the largest peak of memory
measure() {
    local name=$1 before=$2 i
    shift 2
    for ((i = 0; i < runs; i++)); do
        $before
        /usr/bin/time -o times -a -f '%e %M' "$mantle" gangue get "$@" "$url" out 2>log || { cat log >&2; exit 1; }
    done
    sort -n times | awk -v name="$name" -v size="$size" \
        '{ t[NR] = $1; if ($2 > m) m = $2 } END {
            printf "| %s, %d MiB | %.2f s, %.1f MiB | median of %d, largest peak |\n", name, size, t[int((NR + 1) / 2)], m / 1024, NR }'
    rm times
}
fresh() { rm -rf out; mkdir out; }
# as a killed one leaves it: half of the file with its note
half() {
    fresh
    "$mantle" gangue get --verify=false "$url" out 2>/dev/null &
    while [ "$(stat -c %s out/image.bin.part 2>/dev/null || echo 0)" -lt $((size << 19)) ]; do :; done
    kill -9 $!
    wait $! 2>/dev/null || true
}
measure "get, verified" fresh --verify-key=key.asc
measure "get of what is there, verified" true --verify-key=key.asc
measure "get, not verified" fresh --verify=false
measure "get of what is there, not verified" true --verify=false
measure "get, the second half, verified" half --verify-key=key.asc
measure "get, the second half, not verified" half --verify=false
