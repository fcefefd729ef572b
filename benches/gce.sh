#!/bin/bash
# Measures `ore gcloud` against a pretended Google behind 20 ms: a server that takes so many MiB/s on each connection.
# Medians of several runs; of the upload also how many times faster it is than one connection could be.
# usage: benches/gce.sh MANTLE [MIB [RUNS [RATE]]]; needs the Python environment that tests/setup.sh makes
set -euo pipefail
mantle=$(realpath "$1")
size=${2:-256}
runs=${3:-3}
rate=${4:-32}
here=$(cd "$(dirname "$0")" && pwd)
venv=${MANTLE_TEST_VENV:-$HOME/.cache/mantle/test-venv}
work=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; rm -rf "$work"' EXIT
cd "$work"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$venv/bin/python" "$here/gce_server.py" "$port" "$rate" >server.log 2>&1 &
pids+=($!)
until curl -sf "http://127.0.0.1:$port/ready" >/dev/null; do sleep 0.1; done
openssl genpkey -algorithm RSA -out key.pem 2>/dev/null
python3 - "$port" <<'PY'
import json, sys
key = {"type": "service_account", "client_email": "bench@x", "private_key": open("key.pem").read()}
key["token_uri"] = f"http://127.0.0.1:{sys.argv[1]}/token"
json.dump(key, open("key.json", "w"))
PY
export GOOGLE_APPLICATION_CREDENTIALS=$work/key.json STORAGE_EMULATOR_HOST=127.0.0.1:$port HOME=$work USER=bench
export CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE=http://127.0.0.1:$port MANTLE_CONFIG=/dev/null TMPDIR=$work
# An archive that does not shrink, so that its length is that of the disk; whole GiB are wanted of it.
truncate -s 1G disk.raw
dd if=/dev/urandom of=disk.raw bs=1M count="$size" conv=notrunc status=none
tar --format=oldgnu -Sczf image.tar.gz disk.raw
bytes=$(stat -c %s image.tar.gz)
# measure NAME COMMAND...: a row with the median of the seconds and the largest peak of memory; the seconds stay in $median
measure() {
    local name=$1 i
    shift
    for ((i = 0; i < runs; i++)); do
        curl -sf "http://127.0.0.1:$port/reset" >/dev/null
        /usr/bin/time -o times -a -f '%e %M' "$mantle" ore gcloud "$@" >out 2>>log || { tail -5 log >&2; exit 1; }
    done
    median=$(sort -n times | awk '{ t[NR] = $1 } END { print t[int((NR + 1) / 2)] }')
    awk -v name="$name" -v median="$median" '{ if ($2 > m) m = $2 } END {
        printf "| %s | %.2f s, %.1f MiB | median of %d, largest peak |\n", name, median, m / 1024, NR }' times
    rm times
}
measure "list of 1000 images" list-images
measure "upload of $((bytes >> 20)) MiB, $rate MiB/s a connection" upload --bucket=gs://b/p --name=1 --file=image.tar.gz
awk -v bytes="$bytes" -v rate="$rate" -v median="$median" 'BEGIN {
    printf "| that against one connection | %.1f times | %.1f s are needed by one |\n",
        bytes / 1048576 / rate / median, bytes / 1048576 / rate }'
