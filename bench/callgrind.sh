#!/usr/bin/env bash
# Instructions per call of the core's hot paths, by callgrind: the same on every run and machine with the
# same compiler, unlike nanoseconds. Each path runs N and 2 N times; the difference, divided by N, has no
# start-up in it. Needs valgrind (apt-get install valgrind).
set -euo pipefail
cd "$(dirname "$0")/.."

command -v valgrind >/dev/null || { echo "callgrind.sh: no valgrind: apt-get install valgrind" >&2; exit 1; }
cargo build --quiet --release --locked -p turnpike-bench
program="${CARGO_TARGET_DIR:-target}/release/turnpike-bench"
times=10000
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT

instructions() {
  valgrind --tool=callgrind --callgrind-out-file="$folder/out" "$program" hot "$1" --times "$2" \
    >/dev/null 2>"$folder/log" || { cat "$folder/log" >&2; exit 1; }
  sed -n 's/^==.*Collected : \([0-9]*\)$/\1/p' "$folder/log"
}

printf '| path | instructions per call |\n| --- | ---: |\n'
for path in client-to-peer peer-to-client send-to-peer authenticate challenge binding lifecycle; do
  once="$(instructions "$path" "$times")"
  twice="$(instructions "$path" "$((2 * times))")"
  printf '| %s | %d |\n' "$path" "$(((twice - once) / times))"
done
