#!/usr/bin/env bash
# Installs what the tests need and runs all of them: how soon the demo model's server is ready and how
# often it is right, in one process and in many, the launch scripts, then every test of the workspace.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/lib.sh

# Of each kind; `triptych bench eval` asks ten times as many when nobody says otherwise.
N_QUESTIONS=50
OPENAI_PYTHON=3.54.0
OPENAI_JAVASCRIPT=6.30.1

main() {
  need_rust
  need git git "the tidy test looks at tracked files"
  need curl curl "to see when the server is ready"
  need etcd etcd-server "tests of separate processes meet in it"
  need nats-server nats-server "tests of separate processes talk over it"
  need_openai_clients
  need_library libucp.so.0 libucx0 "tests of separate processes move bytes over it"
  need_nvcc || say "without CUDA's compiler nothing for GPUs is built or tested"
  say "building"
  [ -z "${NVCC:-}" ] || compile_kernels --release
  cargo build --release -p triptych
  install_typefaces
  evaluate
  evaluate --roles e,p,d
  BIN_FOLDER=$(built release .) tests/launch.sh
  run_tests
}

# need_openai_clients: OpenAI's own clients, into the target folder, for tests that ask as users do.
need_openai_clients() {
  local folder
  folder=$(built openai-client .)
  need python3 python3 "one of OpenAI's clients is in Python"
  python3 -c 'import ensurepip' 2>/dev/null || install_packages "a folder of Python packages for OpenAI's client" python3-venv
  need node nodejs "one of OpenAI's clients is in JavaScript"
  need npm npm "OpenAI's JavaScript client is a package"
  if [ ! -d "$folder/node_modules/openai" ]; then
    say "installing OpenAI's clients into $folder"
    python3 -m venv "$folder"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "openai==$OPENAI_PYTHON"
    npm install --silent --prefix "$folder" --no-save --no-audit --no-fund --omit=optional --omit=peer \
      --ignore-scripts "openai@$OPENAI_JAVASCRIPT"
  fi
}

install_typefaces() {
  local packages
  mapfile -t packages < <("$(built release triptych)" bench fonts)
  [ ${#packages[@]} = 0 ] || install_packages "typefaces of the numbers the demo model must read" "${packages[@]}"
}

# serve_demo COMMAND...: the beginning of a command line, then the demo model's server behind it.
serve_demo() {
  "$@" "$(built release triptych)" serve --model-path models/shapes --http-host 127.0.0.1 \
    --http-port "$port" "${roles[@]}"
}

# evaluate ROLES...: the demo model's answers, from stages together or in separate roles.
evaluate() {
  roles=("$@")
  port=$(free_port)
  url=http://127.0.0.1:$port
  say "timing the start of the demo model's server ${roles[*]}"
  serve_demo "$(built release triptych)" bench ready --url "$url" --
  say "asking it about fresh pictures"
  serve_demo start_server
  wait_for_health "$url"
  "$(built release triptych)" bench eval --url "$url" --n "$N_QUESTIONS"
  stop_server
}

run_tests() {
  say "running the tests"
  cargo test --workspace --doc --quiet
  if cargo nextest --version >/dev/null 2>&1; then
    local outcome=0
    cargo nextest run --workspace --no-fail-fast || outcome=$?
    gpu_tests target/nextest/default/junit.xml
    return $outcome
  else
    cargo test --workspace --exclude messaging-nats --no-fail-fast
    # These count what is left in the process, so they need one to themselves.
    cargo test -p messaging-nats --no-fail-fast -- --test-threads 1
  fi
}

# gpu_tests REPORT: how many tests of GPUs there were, and how many found none to run on.
gpu_tests() {
  local n n_skipped
  n=$(grep -c '<testcase name="[^"]*cuda' "$1") || true
  n_skipped=$(grep -c 'skipped: no CUDA device' "$1") || true
  say "tests of GPUs: $n, of which $n_skipped were skipped, because there is no CUDA device"
}

main "$@"
