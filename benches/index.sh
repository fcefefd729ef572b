#!/bin/bash
# Measures the budget of `ore gcloud index`: 10 000 objects behind a server that takes 20 ms for each answer; medians of
# several runs on an idle machine. usage: benches/index.sh MANTLE
set -euo pipefail
mantle=$(realpath "$1")
work=$(mktemp -d)
server=
trap 'if [ -n "$server" ]; then kill "$server"; fi; rm -rf "$work"' EXIT
rustc -O --edition 2024 -o "$work/server" "$(dirname "$0")/index-server.rs"

# tree FOLDERS OBJECTS OPTION...: a row for a tree of that many folders with that many objects each
tree() {
    local folders=$1 objects=$2 times=() memory=() i start out
    shift 2
    "$work/server" "$folders" "$objects" 20 >"$work/address" &
    server=$!
    until [ -s "$work/address" ]; do sleep 0.05; done
    for ((i = 0; i < 7; i++)); do
        start=$(date +%s%N)
        out=$(STORAGE_EMULATOR_HOST=$(cat "$work/address") /usr/bin/time -f %M \
            "$mantle" ore gcloud index "$@" --log-level=ERROR gs://bucket/boards/ 2>&1 >/dev/null)
        times+=($((($(date +%s%N) - start) / 1000000)))
        memory+=("${out##*$'\n'}")
    done
    kill "$server"
    wait "$server" 2>/dev/null || true
    server=
    : >"$work/address"
    median() { printf '%s\n' "$@" | sort -n | sed -n 4p; }
    printf '| index of %d x %d objects, all pages new | %d ms, %s MiB | `ore gcloud index %s` |\n' "$folders" "$objects" \
        "$(median "${times[@]}")" "$(median "${memory[@]}" | awk '{printf "%.1f", $1 / 1024}')" "$*"
}
tree 1 10000 -r -D
tree 100 100 -r -D
tree 1000 10 -r
tree 1000 10 -r -D
