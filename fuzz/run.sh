#!/usr/bin/env bash
# Lets the fuzzer try each target (or those named) for some seconds, and prints what it did.
#
#   fuzz/run.sh [SECONDS [TARGET...]]   tries; what it meets on its way is kept in the target folder
#   fuzz/run.sh keep [TARGET...]        adds to fuzz/corpus what covers more than is there already
#
# A finding ends its target, and lies in fuzz/artifacts; mend it, and move the file to fuzz/corpus.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/lib.sh

CARGO_FUZZ_VERSION=0.13.2
ALL=(request data_url picture template tokenizer wire)
# No longer input than this, so that many are tried.
BYTES_MAX=8192
# Larger files are not kept.
KEPT_BYTES_MAX=1024

main() {
  # The flags of fuzzing are unstable ones, and any compiler takes them with this.
  export RUSTC_BOOTSTRAP=1
  cargo fuzz --version 2>/dev/null | grep -qF "$CARGO_FUZZ_VERSION" ||
    cargo install --quiet --locked cargo-fuzz --version "$CARGO_FUZZ_VERSION"
  work=${CARGO_TARGET_DIR:-$PWD/target}/fuzz
  seconds=${1:-600}
  shift || true
  [ $# != 0 ] || set -- "${ALL[@]}"
  cargo fuzz build --target-dir "$work"
  for target; do
    if [ "$seconds" = keep ]; then keep "$target"; else try "$target"; fi
  done
}

# corpora TARGET: the folders that it begins with.
corpora() {
  folders=("$work/corpus/$1" "fuzz/corpus/$1")
  mkdir -p "${folders[@]}"
  [ "$1" != picture ] || folders+=(tests/goldens/media/{formats,jpeg,refused})
}

# fuzzer TARGET ARGUMENT...: runs its program.
fuzzer() {
  local target=$1
  shift
  cargo fuzz run --target-dir "$work" "$target" "$@"
}

try() {
  local log=$work/$1.log patience=5
  # Watched by the fuzzer, a search through a text takes some hundred times as long.
  [ "$1" != template ] || patience=25
  corpora "$1"
  fuzzer "$1" "${folders[@]}" -- "-max_total_time=$seconds" "-max_len=$BYTES_MAX" \
    -rss_limit_mb=2048 "-timeout=$patience" -print_final_stats=1 >"$log" 2>&1 && outcome=nothing || outcome="a finding, see $log"
  local n covered
  n=$(awk '/^stat::number_of_executed_units/ { print $2 }' "$log")
  covered=$(grep -oE 'cov: [0-9]+ ft: [0-9]+' "$log" | tail -1)
  say "$1: ${n:-?} executions, ${covered:-nothing covered}; found $outcome"
}

keep() {
  corpora "$1"
  find "$work/corpus/$1" -type f -size "+${KEPT_BYTES_MAX}c" -delete
  fuzzer "$1" "fuzz/corpus/$1" "$work/corpus/$1" -- -merge=1 -use_counters=0 >"$work/$1-merge.log" 2>&1
  say "$1: $(find "fuzz/corpus/$1" -type f | wc -l) files, $(du -sb "fuzz/corpus/$1" | cut -f1) bytes"
}

main "$@"
