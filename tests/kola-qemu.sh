#!/bin/sh
# The kola tests that need a machine, and full boots by both firmwares. usage: MANTLE=... kola-qemu.sh OUTPUT_DIR
set -eu
out=$1
kola() { name=$1; shift; "$MANTLE" kola run --platform qemu --output-dir "$out/$name" "$@"; }
mkdir -p "$out"
echo "dummy" >/dev/null
