# What the scripts of this project share: messages, missing programs, ports, questions to a server,
# and servers that end with the script that started them. Sourced, not run.
# shellcheck shell=bash

HEALTH_S_MAX=60
PORTS_TRIED_MAX=100
# The newest CUDA that the drivers in use serve.
NVCC_PACKAGES='cuda-toolkit[nvcc,cudart,cccl,crt]==13.0.*'

# Debian keeps nats-server and ldconfig where only root looks.
PATH=$PATH:/usr/sbin:/sbin

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

# need_library NAME PACKAGE WHY: installs the package when no library has that name.
need_library() {
  # All of the list is read: a reader that leaves early makes ldconfig fail.
  [ "$(ldconfig -p | grep -cF "$1")" != 0 ] && return
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
  need_protoc
}

# need_protoc: and the .proto files that belong to it, which Debian keeps in a package of their own.
need_protoc() {
  "${PROTOC:-protoc}" --descriptor_set_out=/dev/null google/protobuf/descriptor.proto 2>/dev/null ||
    install_packages "the build of etcd's client reads etcd's .proto files" protobuf-compiler libprotobuf-dev
}

# need_nvcc: exports NVCC, so that the build has the kernels of GPUs in it, and no part of it has others
# than the rest. Where CUDA's compiler is not installed it comes as Python packages into the target folder.
need_nvcc() {
  local found=${NVCC:-} folder
  [ -n "$found" ] || found=$(find_nvcc "${CUDA_HOME:-}") || found=$(command -v nvcc) || true
  if [ -z "$found" ]; then
    need g++ g++ "CUDA's compiler has it compile what is not for the GPU"
    need python3 python3 "CUDA's compiler is a Python package"
    python3 -c 'import ensurepip' 2>/dev/null ||
      install_packages "a folder of Python packages for CUDA's compiler" python3-venv
    folder=$(mkdir -p "$(built nvcc .)" && cd "$(built nvcc .)" && pwd)
    if ! found=$(find_nvcc "$folder"); then
      say "installing CUDA's compiler into $folder (it compiles the kernels of GPUs)"
      python3 -m venv "$folder" || return
      "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$NVCC_PACKAGES" || return
      found=$(find_nvcc "$folder")
    fi
  fi
  export NVCC=$found
}

# find_nvcc FOLDER: the compiler somewhere under it.
find_nvcc() {
  local found
  [ -n "$1" ] && found=$(find "$1" -path '*/bin/nvcc' \( -type f -o -type l \) -print -quit) && [ -n "$found" ] && echo "$found"
}

# compile_kernels PROFILE_FLAG...: those that are not in the target folder yet, and how long that took.
compile_kernels() {
  local began=$SECONDS
  cargo build -p kernels "$@"
  say "compiled $(find crates/kernels/cu -maxdepth 1 -name '*.cu' | wc -l) files of GPU kernels in $((SECONDS - began)) s"
}

# built PROFILE PROGRAM: the path of what cargo built.
built() { printf '%s/%s/%s' "${CARGO_TARGET_DIR:-target}" "$1" "$2"; }

# need_programs: sets BIN_FOLDER, unless somebody did, to where the programs are that this builds.
need_programs() {
  if [ -z "${BIN_FOLDER:-}" ]; then
    say "building"
    cargo build --release -p triptych
    BIN_FOLDER=$(built release .)
  fi
  export BIN_FOLDER
}

# is_free PORT: whether nobody listens on it on this machine.
is_free() { ! (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# free_port [FIRST]: the first port from FIRST (8000) on where nobody listens.
free_port() {
  local first=${1:-8000} port
  for ((port = first; port < first + PORTS_TRIED_MAX; port++)); do
    is_free "$port" && echo "$port" && return
  done
  die "no free port from $first to $((port - 1))"
}

# chat_request FIELDS QUESTION [PICTURE]: the body of a chat completion; FIELDS are JSON, such as
# `"model": "shapes"`, and the picture is a file that travels inside the request.
chat_request() {
  printf '{%s, "messages": [{"role": "user", "content": [' "$1"
  [ -z "${3:-}" ] ||
    printf '{"type": "image_url", "image_url": {"url": "data:image/%s;base64,%s"}},' \
      "$(media_subtype "$3")" "$(base64 -w0 "$3")"
  printf '{"type": "text", "text": "%s"}]}]}' "$2"
}

media_subtype() {
  case $1 in
    *.jpg | *.jpeg) echo jpeg ;;
    *) echo "${1##*.}" ;;
  esac
}

# first_content JSON: the first text that a chat completion, or an event of one, carries.
first_content() {
  local text content='"content": ?"(([^"\\]|\\.)*)"'
  [[ $1 =~ $content ]] || return
  text=${BASH_REMATCH[1]//\\\"/\"}
  printf '%b' "$text"
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
