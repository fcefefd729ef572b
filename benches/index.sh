#!/bin/bash
# Measures the budget of `ore gcloud index`: 10 000 objects behind a server that takes 20 ms for each answer; medians of
# several runs on an idle machine. usage: benches/index.sh MANTLE
set -euo pipefail
mantle=$(realpath "$1")
cd "$(dirname "$0")/.."
# The server is the tests' own fake of Google Storage, optimised.
tests=$(CARGO_PROFILE_TEST_OPT_LEVEL=2 CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/bench cargo test --quiet --locked \
    --no-run --test it --message-format=json | sed -n 's/.*"executable":"\([^"]*\/it-[^"]*\)".*/\1/p' | tail -1)
server=
trap 'if [ -n "$server" ]; then kill "$server"; fi' EXIT

# tree FOLDERS OBJECTS: a row for a tree of that many folders with that many objects each
tree() {
    local times=() peak=0 i start out
    for ((i = 0; i < 5; i++)); do
        coproc fake { MANTLE_BENCH_TREE="0 $1 $2 20" exec "$tests" --exact ore::scale::serve --nocapture; }
        server=$fake_PID
        while read -r line <&"${fake[0]}"; do
            case $line in *"serving on "*) break ;; esac
        done
        export STORAGE_EMULATOR_HOST=${line##*serving on }
        start=$(date +%s%N)
        out=$(/usr/bin/time -f %M "$mantle" ore gcloud index -r -D --log-level=ERROR gs://bucket/boards/ 2>&1 >/dev/null)
        times+=($((($(date +%s%N) - start) / 1000000)))
        if [ "${out##*$'\n'}" -gt "$peak" ]; then peak=${out##*$'\n'}; fi
        kill "$server"
        wait "$server" 2>/dev/null || true
        server=
    done
    median=$(printf '%s\n' "${times[@]}" | sort -n | sed -n 3p)
    printf '| index of %d folders with %d objects, all pages new | %d ms, %d.%d MiB | `ore gcloud index -r -D` |\n' \
        "$1" "$2" "$median" $((peak / 1024)) $((peak % 1024 * 10 / 1024))
}
tree 1 10000
tree 100 100
tree 1000 10
