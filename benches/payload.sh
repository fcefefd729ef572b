#!/bin/bash
# Measures how fast `cork build update` makes a payload on all processors, against one: rate and peak of memory.
# usage: benches/payload.sh MANTLE [MIB [RUNS]]; needs python3, openssl, taskset
set -euo pipefail
mantle=$(realpath "$1")
size=${2:-128}
runs=${3:-3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# Something like a /usr partition: text of few words, noise, repetition.
mkdir -p src/build/images/bench/latest src/scripts
echo bench >src/scripts/.default_board
images=src/build/images/bench/latest
python3 - "$size" >$images/coreos_production_update.bin <<'PY'
import random, sys
r = random.Random(1)
words = [bytes(r.choices(range(97, 123), k=r.randint(2, 9))) for _ in range(3000)]
def piece():
    kind = r.random()
    if kind < 0.6:
        return b" ".join(r.choices(words, k=9000))
    return r.randbytes(50000) if kind < 0.8 else bytes([r.randrange(256)]) * 60000
once = b"".join(piece() for _ in range(400))[:16 << 20]
left = int(sys.argv[1]) << 20
while left:
    sys.stdout.buffer.write(once[:left])
    left -= len(once[:left])
PY
printf 'COREOS_VERSION=1.0.0\nCOREOS_VERSION_ID=1.0.0\nCOREOS_BUILD_ID=""\nCOREOS_SDK_VERSION=1.0.0\n' >$images/version.txt
openssl genrsa -out key.pem 2048 2>/dev/null

median() { # WORDS BEFORE: median of seconds, largest peak in KiB
    for ((i = 0; i < runs; i++)); do
        rm -f $images/coreos_production_update.{gz,xml}
        REPO_ROOT=$work /usr/bin/time -f '%e %M' -o one "$@" "$mantle" cork build update \
            --generator=builtin --private-key=key.pem >/dev/null 2>&1
        cat one
    done | sort -n | awk '{ t[NR] = $1; if ($2 > m) m = $2 } END { print t[int((NR + 1) / 2)], m }'
}
read -r one _ <<<"$(median taskset -c 0)"
read -r all peak <<<"$(median env)"
awk -v s="$size" -v o="$one" -v a="$all" -v m="$peak" -v n="$(nproc)" 'BEGIN {
    printf "| update payload on %d cores | %.0f MB/s, %.2f times one, %.0f MiB |\n", n, s * 1.048576 / a, o / a, m / 1024 }'
