#!/bin/bash
# Measures `ore aws` against moto behind a proxy that holds every answer back for 20 ms. Medians of several runs.
# usage: benches/aws.sh MANTLE [MIB [RUNS]]; needs the Python environment that tests/setup.sh makes
set -euo pipefail
mantle=$(realpath "$1")
size=${2:-256}
runs=${3:-3}
here=$(cd "$(dirname "$0")" && pwd)
venv=${MANTLE_TEST_VENV:-$HOME/.cache/mantle/test-venv}
work=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; rm -rf "$work"' EXIT
cd "$work"
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
moto=$(port) slow=$(port)
"$venv/bin/python" "$here/../tests/support/moto_server.py" -H 127.0.0.1 -p "$moto" >moto.log 2>&1 &
pids+=($!)
python3 - "$slow" "$moto" >proxy.log 2>&1 <<'PY' &
import asyncio, sys
async def pump(reader, writer, delay):
    while data := await reader.read(1 << 18):
        if delay:
            await asyncio.sleep(0.02)
        writer.write(data)
        await writer.drain()
    writer.close()
async def serve(reader, writer):
    there, to = await asyncio.open_connection("127.0.0.1", int(sys.argv[2]))
    await asyncio.gather(pump(reader, to, False), pump(there, writer, True), return_exceptions=True)
async def main():
    async with await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1])) as server:
        await server.serve_forever()
asyncio.run(main())
PY
pids+=($!)
until curl -sf "http://127.0.0.1:$slow/moto-api/" >/dev/null; do sleep 0.1; done
export AWS_ACCESS_KEY_ID=bench AWS_SECRET_ACCESS_KEY=bench AWS_REGION=us-west-2 HOME=$work USER=bench
export AWS_ENDPOINT_URL=http://127.0.0.1:$slow MANTLE_POLL_SCALE=0.01 MANTLE_CONFIG=/dev/null
# Half of it empty, as images are.
{ head -c "$((size / 2))M" /dev/urandom; head -c "$((size - size / 2))M" /dev/zero; } >image.bin
reset() { curl -sf -X POST "http://127.0.0.1:$slow/moto-api/reset" >/dev/null; "$mantle" ore aws initialize 2>>log; }
# measure NAME COMMAND...: a row with the median of the seconds and the largest peak of memory
measure() {
    local name=$1 i
    shift
    for ((i = 0; i < runs; i++)); do
        "$before"
        /usr/bin/time -o times -a -f '%e %M' "$mantle" ore aws "$@" >out 2>>log || { tail -5 log >&2; exit 1; }
    done
    sort -n times | awk -v name="$name" '{ t[NR] = $1; if ($2 > m) m = $2 } END {
        printf "| %s | %.2f s, %.1f MiB | median of %d, largest peak |\n", name, t[int((NR + 1) / 2)], m / 1024, NR }'
    rm times
}
upload=(upload --file=image.bin --object-format=RAW --name=bench --ami-name=bench --quiet)
before=reset
measure "upload of $size MiB through S3" "${upload[@]}"
measure "upload of $size MiB in blocks" "${upload[@]}" --direct
ami=$(sed -n 's/.*"HVM":"\([^"]*\)".*/\1/p' out)
copies() { :; }
before=copies
measure "copy-image to 5 regions" copy-image --image "$ami" us-east-1 us-east-2 eu-west-1 eu-central-1 ap-south-1
measure "gc that finds nothing" gc
