#!/usr/bin/env bash
# Installs what the tests need and runs all of them: the demo model's accuracy over HTTP, then every
# test of the workspace.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/lib.sh

# Of each kind; `triptych-bench eval` asks ten times as many when nobody says otherwise.
N_QUESTIONS=50

main() {
  need_rust
  need git git "the tidy test looks at tracked files"
  need curl curl "to see when the server is ready"
  say "building"
  cargo build -p bench
  cargo build --release -p triptych
  install_typefaces
  evaluate
  run_tests
}

install_typefaces() {
  local packages
  mapfile -t packages < <("$(built debug triptych-bench)" fonts)
  [ ${#packages[@]} = 0 ] || install_packages "typefaces of the numbers the demo model must read" "${packages[@]}"
}

evaluate() {
  local port url
  port=$(free_port)
  url=http://127.0.0.1:$port
  say "asking the demo model about fresh pictures"
  start_server "$(built release triptych)" serve --model-path models/shapes --http-port "$port"
  wait_for_health "$url"
  "$(built debug triptych-bench)" eval --url "$url" --n "$N_QUESTIONS"
  stop_server
}

run_tests() {
  say "running the tests"
  cargo test --workspace --doc --quiet
  if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --workspace --no-fail-fast
  else
    cargo test --workspace --all-targets --no-fail-fast
  fi
}

main "$@"
