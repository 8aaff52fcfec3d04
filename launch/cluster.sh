# Starts the processes of a deployment pattern on this machine, waits for a first answer, and stops
# all when one dies that nobody replaces. Sourced by agg.sh, disagg.sh and epd.sh, not run; must not
# know which pattern it is.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/lib.sh
. "$root/launch/lib.sh"
# shellcheck source=launch/parts.sh
. "$root/launch/parts.sh"
# shellcheck source=launch/settings.sh
. "$root/launch/settings.sh"

START_S_MAX=20
HTTP_PORT_FIRST=8000
SYSTEM_PORT_FIRST=8081
ETCD_PORT_FIRST=2379
NATS_PORT_FIRST=4222

# run_cluster HEADER ROLES ARGUMENT...: a pattern from its build to its end; HEADER says what it is,
# ROLES are those of its workers, with spaces between them.
run_cluster() {
  local header=$1
  read -ra roles <<<"$2"
  shift 2
  parse_arguments "$header" "$@"
  read_settings
  find_programs
  trap finish EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  make_folders
  started_ms=$(now_ms)
  start_planes
  start_workers
  start_frontend
  start_first_answer
  watch
}

now_ms() { echo $((${EPOCHREALTIME/[.,]/} / 1000)); }

# find_programs: installs and builds what is missing.
find_programs() {
  need curl curl "to see when the first answer comes"
  [[ ${TRIPTYCH_TRANSPORT:-} = tcp || -n ${TRIPTYCH_UCX_LIBRARY:-} ]] ||
    need_library libucp.so.0 libucx0 "embeddings and KV blocks move between workers over UCX"
  has_etcd || need etcd etcd-server "workers and frontend find each other in etcd"
  has_nats || need nats-server nats-server "requests go to workers over NATS"
  bin=${BIN_FOLDER:-}
  [ -z "$bin" ] || return 0
  need_rust
  say "building (some minutes the first time)"
  (cd "$root" && cargo build --release -p triptych)
  bin=$(cd "$root" && realpath "$(built release .)")
}

make_folders() {
  data=$(mktemp -d)
  logs=${LOG_FOLDER:-}
  [ -n "$logs" ] || logs=$(mktemp -d "/tmp/triptych-$(date +%H%M%S)-XXXXXX")
  mkdir -p "$logs"
  say "logs are in $logs"
}

ports_taken=()

# take_port FIRST: sets `port` to one from FIRST on that nobody has and that was not taken before.
take_port() {
  port=$(free_port "$1")
  while [[ " ${ports_taken[*]} " = *" $port "* ]]; do port=$(free_port $((port + 1))); done
  ports_taken+=("$port")
}

# start_planes: etcd and NATS, where the user has none.
start_planes() {
  export TRIPTYCH_SYSTEM_HOST=${TRIPTYCH_SYSTEM_HOST:-0.0.0.0}
  has_etcd || { stay_on_this_machine && start_etcd; }
  has_nats || start_nats
}

# stay_on_this_machine: nobody from outside can find these processes, so nobody needs to reach their
# memory either.
stay_on_this_machine() {
  export TRIPTYCH_TRANSPORT_HOST=${TRIPTYCH_TRANSPORT_HOST:-127.0.0.1}
  [ -z "${TRIPTYCH_CLUSTER_KEY_FILE:-}" ] || return 0
  export TRIPTYCH_CLUSTER_KEY_FILE=$data/cluster-key
  # `mktemp` made a folder that nobody else may read.
  head -c 32 /dev/urandom | base64 >"$TRIPTYCH_CLUSTER_KEY_FILE"
}

start_etcd() {
  local peer
  take_port "$ETCD_PORT_FIRST" && export ETCD_ENDPOINTS=http://127.0.0.1:$port
  take_port "$port" && peer=http://127.0.0.1:$port
  start_part etcd etcd "${ETCD_ENDPOINTS##*:}" etcd --name triptych --data-dir "$data/etcd" \
    --listen-client-urls "$ETCD_ENDPOINTS" --advertise-client-urls "$ETCD_ENDPOINTS" \
    --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "triptych=$peer"
  wait_for etcd "$!" curl --silent --fail --noproxy '*' --max-time 2 "$ETCD_ENDPOINTS/health"
}

start_nats() {
  take_port "$NATS_PORT_FIRST" && export NATS_URL=nats://127.0.0.1:$port
  start_part nats nats "$port" nats-server --addr 127.0.0.1 --port "$port"
  wait_for nats "$!" is_taken "$port"
}

is_taken() { ! is_free "$1"; }

# wait_for NAME PID COMMAND...: until the command succeeds.
wait_for() {
  local name=$1 pid=$2 deadline=$((SECONDS + START_S_MAX))
  shift 2
  until "$@" >/dev/null 2>&1; do
    kill -0 "$pid" 2>/dev/null || { show_log "$name" && die "$name ended before it was ready"; }
    ((SECONDS < deadline)) || { show_log "$name" && die "$name was not ready after $START_S_MAX s"; }
    sleep 0.05
  done
}

start_workers() {
  local role idx n_workers
  for role in "${roles[@]}"; do
    n_workers=$(n_workers_of "${role^^}")
    for ((idx = 1; idx <= n_workers; idx++)); do start_worker "$role" "$idx" "$n_workers"; done
  done
}

# start_worker ROLE IDX N_WORKERS
start_worker() {
  local flags program=$1-worker devices
  [ "$1" != agg ] || program=worker
  set_flags "$1"
  devices=$(devices_of "${1^^}" "$2" "$3")
  take_port "$SYSTEM_PORT_FIRST"
  start_part "$1" "$1-$2" "$port" env ${devices:+"CUDA_VISIBLE_DEVICES=$devices"} "$bin/$program" \
    "${flags[@]}" --system-port "$port" "${worker_flags[@]}"
}

# set_flags ROLE: sets the caller's `flags` to those of every worker of the role.
set_flags() {
  local yaml
  yaml=$(engine_yaml "$1")
  flags=(--model-path "$model" --served-model-name "$name" --modality "$modality"
    --allowed-local-media-path "${ALLOWED_LOCAL_MEDIA_PATH:-/tmp}"
    ${yaml:+--extra-engine-args "$yaml"} ${MAX_FILE_SIZE_MB:+--max-file-size-mb "$MAX_FILE_SIZE_MB"})
  case $1 in
    encode) flags+=(${ENCODE_ENDPOINT:+--endpoint "$ENCODE_ENDPOINT"}) ;;
    prefill) flags+=(${ENCODE_ENDPOINT:+--encode-endpoint "$ENCODE_ENDPOINT"}) ;;
  esac
}

start_frontend() {
  local http_port
  take_port "${HTTP_PORT:-$HTTP_PORT_FIRST}" && http_port=$port
  take_port "$SYSTEM_PORT_FIRST"
  url=http://$(reached "${TRIPTYCH_HTTP_HOST:-}"):$http_port
  start_part frontend frontend "$port" "$bin/frontend" --http-port "$http_port" --system-port "$port" \
    ${MAX_FILE_SIZE_MB:+--max-file-size-mb "$MAX_FILE_SIZE_MB"}
}

# reached ADDRESS: where one that is listened on is reached from here.
reached() {
  case $1 in
    '' | 0.0.0.0) echo 127.0.0.1 ;;
    *:*) echo "[$1]" ;;
    *) echo "$1" ;;
  esac
}

# start_first_answer: a part that ends with success once all processes are ready and one question has
# been answered.
start_first_answer() {
  local pid health=()
  for pid in $(pids_of frontend "${roles[@]}"); do
    health+=("http://$(reached "$TRIPTYCH_SYSTEM_HOST"):${part_port[$pid]}/health")
  done
  say "waiting for ${#health[@]} processes and a first answer"
  start_part first-answer first-answer - env MODALITY="$modality" \
    "$root/launch/first-answer.sh" "$url" "$name" "${health[@]}"
}

# watch: until a part ends without which the rest is of no use.
watch() {
  local role part
  is_ready=no
  while next_end; do
    role=${part_role[$ended]} part=${part_name[$ended]}
    forget_part "$ended"
    if [ "$role" = first-answer ] && [ "$end_status" = 0 ]; then
      ready
    else
      go_on_without "$role" "$part"
    fi
  done
}

# ready: the first answer has come.
ready() {
  is_ready=yes
  say "ready $(($(now_ms) - started_ms)) ms after the first process was started; the first answer:"
  sed 's/^/    /' "$(log_of first-answer)"
  say "what runs where"
  table_of_parts
  [ "$once" = no ] || exit 0
  say "serving $name; Ctrl-C ends it. In another terminal:"
  example
}

example() {
  local picture=$root/models/shapes/samples/two-shapes.png question='What is in the picture?'
  printf "\ncurl %s/v1/chat/completions -H 'content-type: application/json' -d '{\n" "$url"
  printf '  "model": "%s", "messages": [{"role": "user", "content": [\n' "$name"
  [ "$modality" = text ] && question='Hello!' || printf '%s\n' \
    "    {\"type\": \"image_url\", \"image_url\": {\"url\": \"data:image/png;base64,'\$(base64 -w0 $picture)'\"}},"
  printf '    {"type": "text", "text": "%s"}]}]}'\''\n\n' "$question"
}

# go_on_without ROLE NAME: ends everything unless somebody else has the role. Before the first answer
# everybody is needed: who cannot even start was given a setting that does not work.
go_on_without() {
  local others
  others=$(pids_of "$1" | wc -l)
  show_log "$2"
  if [ "$is_ready" = yes ] && [ "$others" != 0 ]; then
    say "$2 ended with status $end_status; $others with the role $1 go on"
    return
  fi
  [ "$1" != first-answer ] || die "there was no first answer; the logs are in $logs"
  die "$2 ended with status $end_status and nobody replaces it; the logs are in $logs"
}

# finish: whatever the reason for the end, nothing stays behind.
finish() {
  # A second Ctrl-C must not leave half of them running.
  trap '' HUP INT TERM
  say "stopping"
  stop_parts first-answer
  stop_parts frontend
  stop_parts "${roles[@]}"
  stop_parts nats
  stop_parts etcd
  rm -rf "$data"
}
