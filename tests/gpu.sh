#!/usr/bin/env bash
# The tests of GPUs, on a machine that has a GPU but no compiler.
#
#   tests/gpu.sh pack FOLDER     where Rust is: builds them and puts all that they need into FOLDER
#   FOLDER/gpu.sh run [NAME...]  where the GPU is: runs those with NAME (cuda) in their names
#
# FOLDER can be carried anywhere; the machine with the GPU needs bash, xz, NVIDIA's driver and
# libcublasLt.
# TRIPTYCH_KERNELS_DIR there names a folder of kernels, compiled by nvcc alone, to use instead.
# TRIPTYCH_TEST_REPEATS says how often an operation runs, whose bits must not change (2).
set -euo pipefail
called_from=$PWD
cd "$(dirname "$0")"
here=$PWD

# Package and kind of test, one for each program that has tests of GPUs.
PROGRAMS=('tensor --lib' 'engine --test engine' 'models --test laws' 'triptych --test cuda_answers')
# What they read of the tree, and from where.
DATA=(tests/goldens models/shapes)
SOURCES=(crates/models crates/triptych crates/engine)

# build PACKAGE KIND...: prints the path of the test program.
build() {
  cargo test --quiet --no-run --message-format=json -p "$@" |
    sed -n 's/.*"profile":{[^}]*"test":true}.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1
}

pack() {
  local folder program built
  folder=$(cd "$called_from" && mkdir -p "$1" && cd "$1" && pwd)
  cd "$here/.."
  . launch/lib.sh
  need_rust
  need_nvcc
  need xz xz-utils "the programs are carried compressed"
  mkdir -p "$folder/bin" "$folder/tree"
  for program in "${PROGRAMS[@]}"; do
    say "building the tests of ${program%% *}"
    # shellcheck disable=SC2086
    built=$(build $program)
    [ -n "$built" ] || die "cargo built no test program of $program"
    strip -o "$folder/bin/${program%% *}" "$built"
    # A quarter of the size, for whoever carries it far.
    xz --force --threads 0 -1 "$folder/bin/${program%% *}"
  done
  for data in "${DATA[@]}"; do
    mkdir -p "$folder/tree/$(dirname "$data")" && cp -r "$data" "$folder/tree/$(dirname "$data")"
  done
  for source in "${SOURCES[@]}"; do mkdir -p "$folder/tree/$source"; done
  # The programs look for their data where they were built.
  pwd >"$folder/root"
  cp tests/gpu.sh "$folder/gpu.sh"
  say "packed $(du -sh "$folder" | cut -f1) into $folder"
}

run() {
  local root names=("${@:-cuda}") failed=()
  root=$(cat root)
  [ -e "$root" ] || { mkdir -p "$(dirname "$root")" && ln -s "$here/tree" "$root"; }
  export TRIPTYCH_REQUIRE_CUDA=1
  shopt -s nullglob
  for program in bin/*.xz; do
    xz --decompress --force "$program"
  done
  for program in bin/*; do
    printf '==> %s\n' "${program#bin/}"
    # One at a time: they share one GPU and its memory.
    "$program" --test-threads 1 "${names[@]}" || failed+=("${program#bin/}")
  done
  [ ${#failed[@]} = 0 ] || { echo "failed: ${failed[*]}" >&2 && exit 1; }
}

case ${1:-} in
  pack) pack "${2:?the folder to fill}" ;;
  run) shift && run "$@" ;;
  *) echo 'usage: tests/gpu.sh pack FOLDER, or FOLDER/gpu.sh run [NAME...]' >&2 && exit 2 ;;
esac
