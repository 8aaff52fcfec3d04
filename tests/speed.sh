#!/usr/bin/env bash
# Prints what serving costs where nothing is computed: requests a second of a mock engine in one process
# and over etcd and NATS, with the processor time of each process; then first tokens and tokens of the
# demo model in separate processes beside those of one, and bytes moved beside the tools of the trade.
# Figures only: nothing here passes or fails.
#
# BIN_FOLDER=… measures programs that are there already; otherwise they are built first.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/lib.sh
. launch/lib.sh

LOAD_S=${LOAD_S:-6}
N_CONNECTIONS=64
N_REQUESTS=${N_REQUESTS:-40}
WAIT_S_MAX=60
TICKS_PER_S=$(getconf CLK_TCK)
QUESTION='hello there, please tell me a story about a small red circle'
PROMPT_LENGTHS=(128 2000)
MOCK=(--engine mock --mock-step-us 0 --max-batch-size 1024 --max-num-tokens 8192)

main() {
  need_rust
  need curl curl "to see when the servers are ready"
  need wrk wrk "to send more requests a second than a script can"
  need iperf3 iperf3 "to compare transfers over TCP with"
  need ucx_perftest ucx-utils "to compare transfers over UCX with"
  need_programs
  folder=$(mktemp -d)
  trap clean_up EXIT
  trap 'exit 143' TERM
  mock_in_one_process
  mock_throughput agg.sh
  mock_throughput epd.sh
  overhead
  transfers
}

# begin SCRIPT ARGUMENT...: a pattern in the background, ready when this returns; sets `url`.
script=''
begin() {
  local deadline=$((SECONDS + WAIT_S_MAX))
  output=$folder/output
  : >"$output"
  LOG_FOLDER=$folder/logs setsid env --default-signal=INT "launch/$1" "${@:2}" >>"$output" 2>&1 </dev/null &
  script=$!
  until grep -qF 'Ctrl-C ends it' "$output"; do
    kill -0 "$script" 2>/dev/null || die "launch/$1 ended: $(cat "$output")"
    ((SECONDS < deadline)) || die "launch/$1 was not ready within $WAIT_S_MAX s"
    sleep 0.1
  done
  url=$(grep -oE 'http://[0-9.]+:[0-9]+' "$output" | tail -n 1)
}

end() {
  kill -INT "$script" 2>/dev/null || true
  wait "$script" || true
  script=
}

clean_up() {
  [ -z "$script" ] || end
  stop_server
  rm -rf "$folder"
}

# parts: name and process id of every process of the pattern, from the table that it printed.
parts() { awk '$2 ~ /^[0-9]+$/ && NF == 4 { print $1, $2 }' "$output"; }

ticks_of() { awk '{ print $14 + $15 }' "/proc/$1/stat"; }

# body MODEL QUESTION: a request of 32 tokens, streamed.
body() {
  printf '{"model":"%s","messages":[{"role":"user","content":"%s"}],"max_tokens":32,"stream":true,"ignore_eos":true}' \
    "$1" "$2"
}

# load URL BODIES: asks what stands in the lines of a file, one after the other, over and over; prints
# requests a second, and what each of the processes cost whose names and ids come in lines.
load() {
  declare -A before=()
  local name pid n_requests processes
  processes=$(cat)
  cat >"$folder/post.lua" <<'LUA'
local requests, n = {}, 0
function init(args)
  local headers = { ["Content-Type"] = "application/json" }
  for body in io.lines(os.getenv("BODIES")) do
    requests[#requests + 1] = wrk.format("POST", nil, headers, body)
  end
end
function request()
  n = n % #requests + 1
  return requests[n]
end
LUA
  export BODIES=$2
  wrk -t1 -c16 -d2 -s "$folder/post.lua" "$1/v1/chat/completions" >/dev/null
  while read -r name pid; do before[$pid]=$(ticks_of "$pid"); done <<<"$processes"
  wrk -t1 -c"$N_CONNECTIONS" -d"$LOAD_S" --latency -s "$folder/post.lua" "$1/v1/chat/completions" \
    >"$folder/wrk"
  n_requests=$(awk '/requests in/ { print $1 }' "$folder/wrk")
  grep -E 'Requests/sec|^ +(50|99)%|Non-2xx|Socket errors' "$folder/wrk"
  while read -r name pid; do
    awk -v name="$name" -v ticks=$(($(ticks_of "$pid") - before[$pid])) -v hz="$TICKS_PER_S" \
      -v n="$n_requests" -v kib="$(awk '/VmRSS/ { print $2 }' "/proc/$pid/status")" \
      'BEGIN { printf "    %-12s %6.0f us of processor a request, %5.1f MiB\n", name, ticks / hz * 1e6 / n, kib / 1024 }'
  done <<<"$processes"
}

# n_events URL BODIES: events with text in the answer to the first of the requests.
n_events() {
  curl --silent --no-buffer --header 'Content-Type: application/json' --data "$(head -n 1 "$2")" \
    "$1/v1/chat/completions" | grep -c '"delta":{"content"'
}

# mock_in_one_process: a vocabulary as wide as published ones, the short question and longer prompts.
mock_in_one_process() {
  local wide=${CARGO_TARGET_DIR:-target}/wide-vocabulary port url length
  port=$(free_port 18000)
  url=http://127.0.0.1:$port
  [ -f "$wide/prompts-${PROMPT_LENGTHS[-1]}.txt" ] ||
    cargo run --quiet --release -p text --example wide_vocabulary -- \
      models/shapes "$wide" "${PROMPT_LENGTHS[@]}"
  TRIPTYCH_LOG=warn start_server "$BIN_FOLDER/triptych" serve --model-path "$wide" --load-format dummy "${MOCK[@]}" \
    --http-host 127.0.0.1 --http-port "$port"
  trap clean_up EXIT
  trap 'exit 143' TERM
  wait_for_health "$url"
  body wide-vocabulary "$QUESTION" >"$folder/bodies"
  echo >>"$folder/bodies"
  say "one process with a mock engine, $N_CONNECTIONS connections, 32 tokens in $(n_events "$url" "$folder/bodies") events a request"
  load "$url" "$folder/bodies" <<<"serve $server"
  for length in "${PROMPT_LENGTHS[@]}"; do
    while read -r prompt; do
      body wide-vocabulary "$prompt"
      echo
    done <"$wide/prompts-$length.txt" >"$folder/bodies"
    say "the same, $(wc -l <"$folder/bodies") prompts of $length tokens"
    load "$url" "$folder/bodies" <<<"serve $server"
  done
  stop_server
}

# mock_throughput SCRIPT: requests of 32 tokens a second through engines that compute nothing.
mock_throughput() {
  say "launch/$1 with mock engines, $N_CONNECTIONS connections, 32 tokens streamed a request"
  TRIPTYCH_LOG=warn begin "$1" -- "${MOCK[@]}"
  body shapes "$QUESTION" >"$folder/bodies"
  echo >>"$folder/bodies"
  load "$url" "$folder/bodies" < <(parts)
  end
}

# overhead: the same questions to one process and to E→P→D, in turns.
overhead() {
  local port side
  port=$(free_port 18000)
  start_server "$BIN_FOLDER/triptych" serve --model-path models/shapes --http-host 127.0.0.1 --http-port "$port"
  trap clean_up EXIT
  trap 'exit 143' TERM
  wait_for_health "http://127.0.0.1:$port"
  TRIPTYCH_LOG=warn begin epd.sh
  for side in 112 224 448; do
    for target in "one process:http://127.0.0.1:$port" "E→P→D:$url"; do
      say "${target%%:*}, a picture of $side x $side, 64 tokens, one request at a time"
      "$BIN_FOLDER/triptych" bench load --url "${target#*:}" --n "$N_REQUESTS" --warm-up 5 \
        --side "$side" --ignore-eos --max-tokens 64 2>/dev/null | grep -E 'first|further'
    done
  done
  end
  stop_server
}

# transfers: reads between two processes, and what the tools of the trade move in the same run.
transfers() {
  say "reads over TCP, and iperf3"
  cargo run --quiet --release -p transport-tcp --example time_tcp
  say "reads over UCX, and ucx_perftest"
  cargo run --quiet --release -p transport-ucx --example time_ucx
}

main "$@"
