# What the scripts of this project share: messages, missing programs, ports, and servers that end
# with the script that started them. Sourced, not run.
# shellcheck shell=bash

HEALTH_S_MAX=60
PORTS_TRIED_MAX=100

say() { printf '==> %s\n' "$*"; }
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# need PROGRAM PACKAGE WHY: installs the package when the program is missing.
need() {
  command -v "$1" >/dev/null && return
  install_packages "$3" "$2"
}

# install_packages WHY PACKAGE...: with apt-get, as root or by sudo.
install_packages() {
  local why=$1
  shift
  say "installing $* ($why)"
  command -v apt-get >/dev/null || die "please install $* ($why): there is no apt-get here to do it"
  local as_root=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || die "please install $* ($why): neither root nor sudo here"
    as_root=(sudo)
  fi
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    "$@" >/dev/null
}

# need_rust: Rust cannot be installed behind the user's back.
need_rust() {
  command -v cargo >/dev/null || die "Rust is needed: https://rustup.rs"
  need cc build-essential "Rust links with a C compiler"
}

# built PROFILE PROGRAM: the path of what cargo built.
built() { printf '%s/%s/%s' "${CARGO_TARGET_DIR:-target}" "$1" "$2"; }

# free_port: the first port from 8000 on where nobody listens.
free_port() {
  local port
  for ((port = 8000; port < 8000 + PORTS_TRIED_MAX; port++)); do
    (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port" && return; }
  done
  die "no free port from 8000 to $((port - 1))"
}

server=

# start_server COMMAND...: in the background; it ends when the script does, however that ends.
start_server() {
  trap stop_server EXIT
  trap 'exit 130' INT TERM
  "$@" &
  server=$!
}

stop_server() {
  [ -n "$server" ] || return 0
  kill "$server" 2>/dev/null || true
  wait "$server" 2>/dev/null || true
  server=
}

# wait_for_health URL: until the server answers, fails when it ends or takes too long.
wait_for_health() {
  local deadline=$((SECONDS + HEALTH_S_MAX))
  until curl --silent --fail --noproxy '*' --output /dev/null --max-time 2 "$1/health"; do
    kill -0 "$server" 2>/dev/null || die "the server ended before it was ready"
    ((SECONDS < deadline)) || die "the server was not ready after $HEALTH_S_MAX s"
    sleep 0.1
  done
}
