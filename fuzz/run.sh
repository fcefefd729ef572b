#!/bin/sh
# Fuzzes every target for so many seconds each (600 unless told), or the named ones: fuzz/run.sh [SECONDS [TARGET...]]
# Needs `cargo install cargo-fuzz`; a stable compiler will do. What is found stays in fuzz/artifacts/.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-600}
[ $# -gt 0 ] && shift
export RUSTC_BOOTSTRAP=1
[ $# -gt 0 ] || set -- $(cargo fuzz list)
for target; do
    echo "== $target" >&2
    cargo fuzz run --sanitizer none "$target" "fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -rss_limit_mb=1024 -timeout=10 -print_final_stats=1
done
