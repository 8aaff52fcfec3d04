#!/usr/bin/env bash
# Prints what separate processes cost: requests a second of a mock engine over etcd and NATS with the
# processor time of each process, first tokens and tokens of the demo model beside those of one
# process, and bytes moved beside the tools of the trade. Figures only: nothing here passes or fails.
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
  printf 'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\nwrk.body = [[%s]]\n' \
    '{"model":"shapes","messages":[{"role":"user","content":"hello there, please tell me a story about a small red circle"}],"max_tokens":32,"stream":true,"ignore_eos":true}' \
    >"$folder/post.lua"
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

# mock_throughput SCRIPT: requests of 32 tokens a second through engines that compute nothing.
mock_throughput() {
  declare -A before=()
  local name pid n_requests
  say "launch/$1 with mock engines, $N_CONNECTIONS connections, 32 tokens streamed a request"
  TRIPTYCH_LOG=warn begin "$1" -- --engine mock --mock-step-us 0 --max-batch-size 1024 --max-num-tokens 8192
  wrk -t1 -c16 -d2 -s "$folder/post.lua" "$url/v1/chat/completions" >/dev/null
  while read -r name pid; do before[$pid]=$(ticks_of "$pid"); done < <(parts)
  wrk -t1 -c"$N_CONNECTIONS" -d"$LOAD_S" --latency -s "$folder/post.lua" "$url/v1/chat/completions" \
    >"$folder/wrk"
  n_requests=$(awk '/requests in/ { print $1 }' "$folder/wrk")
  grep -E 'Requests/sec|50%|99%|Non-2xx|Socket errors' "$folder/wrk"
  while read -r name pid; do
    awk -v name="$name" -v ticks=$(($(ticks_of "$pid") - before[$pid])) -v hz="$TICKS_PER_S" \
      -v n="$n_requests" -v kib="$(awk '/VmRSS/ { print $2 }' "/proc/$pid/status")" \
      'BEGIN { printf "    %-12s %6.0f us of processor a request, %5.1f MiB\n", name, ticks / hz * 1e6 / n, kib / 1024 }'
  done < <(parts)
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
