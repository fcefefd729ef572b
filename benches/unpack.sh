#!/bin/bash
# Measures decompression: rate and peak of memory of each format, and bzip2 on all processors against one.
# usage: benches/unpack.sh UNPACK [MIB [RUNS]], where UNPACK is `cargo build --release --example unpack`; needs python3
set -euo pipefail
unpack=$(realpath "$1")
size=${2:-256}
runs=${3:-3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# Something like an image: text of few words, noise, repetition.
python3 - "$size" <<'PY'
import bz2, gzip, lzma, random, sys
r = random.Random(1)
words = [bytes(r.choices(range(97, 123), k=r.randint(2, 9))) for _ in range(3000)]
def piece():
    kind = r.random()
    if kind < 0.6:
        return b" ".join(r.choices(words, k=9000))
    if kind < 0.8:
        return r.randbytes(50000)
    return bytes([r.randrange(256)]) * 60000
out, length = [], 0
while length < min(int(sys.argv[1]), 32) << 20:
    out.append(piece())
    length += len(out[-1])
data = b"".join(out)
for name, packed in (("x.gz", gzip.compress(data, 6)), ("x.bz2", bz2.compress(data)), ("x.xz", lzma.compress(data, preset=1))):
    with open(name, "wb") as f:
        for _ in range(max(1, int(sys.argv[1]) // 32)):
            f.write(packed)
PY
! command -v zstd >/dev/null || python3 -c 'import gzip,sys,shutil; shutil.copyfileobj(gzip.open("x.gz"), sys.stdout.buffer)' | zstd -q -o x.zst

median() { # NAME WORKERS: median of seconds, bytes, largest peak in KiB
    for ((i = 0; i < runs; i++)); do
        /usr/bin/time -f %M -o peak "$unpack" "$1" "$2" <"$1" >one
        echo "$(cat one) $(cat peak)"
    done | sort -k2n | awk '{ b = $1; t[NR] = $2; if ($3 > m) m = $3 } END { print t[int((NR + 1) / 2)], b, m }'
}
for file in x.*; do
    read -r one bytes peak <<<"$(median "$file" 1)"
    awk -v f="${file#x}" -v t="$one" -v b="$bytes" -v m="$peak" \
        'BEGIN { printf "| %s, 1 thread | %.0f MB/s, %.1f MiB |\n", f, b / t / 1e6, m / 1024 }'
    if [ "$file" = x.bz2 ]; then
        n=$(nproc)
        read -r more bytes peak <<<"$(median "$file" "$n")"
        awk -v n="$n" -v o="$one" -v t="$more" -v b="$bytes" -v m="$peak" \
            'BEGIN { printf "| .bz2, %d threads | %.0f MB/s, %.1f MiB, %.2f times one |\n", n, b / t / 1e6, m / 1024, o / t }'
    fi
done
