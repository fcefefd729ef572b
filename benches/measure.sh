#!/bin/bash
# Measures the budgets that a user feels, on an idle machine: medians of several runs. usage: benches/measure.sh MANTLE
# The last part needs root and mantle's own guest (make guest-full).
set -euo pipefail
mantle=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# median N COMMAND...: milliseconds
median() {
    local n=$1 start i
    shift
    for ((i = 0; i < n; i++)); do
        start=$(date +%s%N)
        "$@" >/dev/null 2>&1 || true
        echo $((($(date +%s%N) - start) / 1000))
    done | sort -n | sed -n "$(((n + 1) / 2))p" | awk '{printf "%.1f", $1 / 1000}'
}
memory() { /usr/bin/time -f %M "$@" 2>&1 >/dev/null | tail -1 | awk '{printf "%.1f", $1 / 1024}'; }
row() { printf '| %s | %s | `%s` |\n' "$1" "$2" "$3"; }

row "start: help" "$(median 21 "$mantle" kola --help) ms, $(memory "$mantle" kola --help) MiB" "kola --help"
row "start: version" "$(median 21 "$mantle" kola version) ms, $(memory "$mantle" kola version) MiB" "kola version"
row "list of tests" "$(median 21 "$mantle" kola list) ms" "kola list"

# A plausible console: kernel and systemd lines, 126 MB, nothing bad in it.
for ((i = 0; i < 2000; i++)); do
    echo "[    $i.123456] systemd[1]: Started unit-$i.service - A service that does nothing much, quite well."
    echo "[    $i.234567] audit: type=1130 audit(1795314326.435:$i): pid=1 uid=0 msg='unit=unit-$i comm=systemd res=success'"
done >part
for ((i = 0; i < 315; i++)); do cat part; done >console.txt
# check NAME: rate and memory. On one core, whatever else this machine has; what it finds is not what is measured.
check() {
    local size took
    size=$(stat -c %s console.txt)
    took=$(median 5 taskset -c 0 "$mantle" kola check-console console.txt)
    took=$(awk -v s="$size" -v t="$took" 'BEGIN { printf "%.0f MB in %.0f ms: %.0f MB/s", s / 1e6, t, s / t / 1000 }')
    row "$1" "$took, $(memory "$mantle" kola check-console console.txt || true) MiB" "kola check-console"
}
check "console check"
# The same as terminals get it: coloured, with carriage returns, and every tenth line begins as trouble does.
esc=$(printf '\033')
sed -i "s/Started /${esc}[0;1;39mStarted${esc}[0m /; s/\$/\r/; 0~10s/audit:/Failed to start WARNING: BUG: audit:/" part
for ((i = 0; i < 315; i++)); do cat part; done >console.txt
check "console check, coloured and troubled"
rm console.txt

if [ "$(id -u)" = 0 ]; then
    run() { "$mantle" kola run -p nspawn --output-dir "$work/_bench_temp" "$@"; }
    row "one test in a container, boot and all" "$(median 5 run coreos.auth.verify) ms" "kola run -p nspawn coreos.auth.verify"
    row "the same with kolet sent" "$(median 5 run fcos.basic) ms" "kola run -p nspawn fcos.basic"
fi
row "size of the binary" "$(($(stat -c %s "$mantle") / 1000000)) MB" "make release"
