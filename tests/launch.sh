#!/usr/bin/env bash
# Holds the scripts of the three patterns to what they promise: right answers, who replaces whom, an
# end that leaves nothing behind. Prints how long each takes to its first answer.
#
# BIN_FOLDER=… tests programs that are there already; otherwise they are built first.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/lib.sh
. launch/lib.sh

WAIT_S_MAX=60
ANSWER_S_MAX=20
dashboard=deploy/grafana/dashboards/triptych.json
samples=models/shapes/samples
right_answer='From left to right: a yellow star, a green triangle, an orange circle, a black square.'

main() {
  need_rust
  need curl curl "to ask the servers"
  need_programs
  folder=$(mktemp -d)
  trap clean_up EXIT
  trap 'exit 143' TERM
  first_answer_of agg.sh
  first_answer_of disagg.sh
  first_answer_of epd.sh
  text_only
  death_of_one_and_of_all
  ctrl_c
  refusals
  say "launch scripts: all as promised"
}

# begin SCRIPT ARGUMENT...: in the background; sets `script` and `output`.
script='' output=''
begin() {
  output=$folder/output
  # Emptied here, or what an earlier script said might be taken for this one's.
  : >"$output"
  # A process group of its own, and Ctrl-C not ignored as it is in what scripts start in the
  # background. Every process that it starts inherits the mark.
  LAUNCH_TEST=$folder LOG_FOLDER=$folder/logs setsid env --default-signal=INT \
    "launch/$1" "${@:2}" >>"$output" 2>&1 </dev/null &
  script=$!
}

# fail WHAT: with what the script has said and the ends of its logs.
fail() {
  sed 's/^/  | /' "$output"
  tail -n 20 "$folder"/logs/*.log || true
  die "$*"
}

# ends_with STATUS: waits for the script, which must leave nothing behind.
ends_with() {
  local status=0 deadline=$((SECONDS + WAIT_S_MAX))
  while kill -0 "$script" 2>/dev/null; do
    ((SECONDS < deadline)) || fail "it did not end within $WAIT_S_MAX s"
    sleep 0.05
  done
  wait "$script" || status=$?
  script=
  [ "$status" = "$1" ] || fail "it ended with status $status instead of $1"
  [ -z "$(left_behind)" ] || fail "it left processes behind: $(left_behind)"
}

# left_behind: the ids of all processes with our mark.
left_behind() {
  grep -lzsF "LAUNCH_TEST=$folder" /proc/[0-9]*/environ | cut -d/ -f3 | tr '\n' ' '
}

# wait_for_line TEXT: until the script has said it.
wait_for_line() {
  local deadline=$((SECONDS + WAIT_S_MAX))
  until grep -qF -e "$1" "$output"; do
    kill -0 "$script" 2>/dev/null || fail "it ended before it said: $1"
    ((SECONDS < deadline)) || fail "it did not say within $WAIT_S_MAX s: $1"
    sleep 0.05
  done
}

says() { grep -qF -e "$1" "$output" || fail "it did not say: $1"; }

# first_answer_of SCRIPT: it answers rightly and goes.
first_answer_of() {
  begin "$1" --once
  ends_with 0
  says "answer:   $right_answer"
  say "launch/$1: $(grep -oE 'ready [0-9]+ ms' "$output") after its first process"
}

text_only() {
  MODALITY=text begin agg.sh --once
  ends_with 0
  says 'answer:   Hello!'
}

# pid_of NAME, port_of NAME: from the table that the script printed.
pid_of() { awk -v name="$1" '$1 == name { print $2 }' "$output"; }
port_of() { awk -v name="$1" '$1 == name { print $3 }' "$output"; }

# death_of_one_and_of_all: one of two decode workers may die, the last may not.
death_of_one_and_of_all() {
  NUM_DECODE_WORKERS=2 begin epd_disagg.sh
  wait_for_line 'Ctrl-C ends it'
  every_role_worked
  dashboard_shows_what_is_there
  kill -KILL "$(pid_of decode-1)"
  wait_for_line 'decode-1 ended with status 137; 1 with the role decode go on'
  still_answers
  kill -KILL "$(pid_of decode-2)"
  ends_with 1
  says 'decode-2 ended with status 137 and nobody replaces it'
}

# still_answers: a picture not asked about before.
still_answers() {
  local url deadline=$((SECONDS + ANSWER_S_MAX)) answer=
  url=$(grep -oE 'http://[0-9.:]+/v1/chat/completions' "$output" | head -n 1)
  until [ "$answer" = 42 ]; do
    ((SECONDS < deadline)) || fail "no right answer within $ANSWER_S_MAX s of a worker's death: $answer"
    answer=$(first_content "$(chat_request '"model": "shapes"' 'What number is written?' "$samples/forty-two.png" |
      curl --silent --noproxy '*' --max-time "$ANSWER_S_MAX" --data-binary @- \
        --header 'content-type: application/json' "$url")") || true
  done
}

# metrics_of NAME: what a process of the script says of itself.
metrics_of() { curl --silent --fail --noproxy '*' --max-time 5 "http://127.0.0.1:$(port_of "$1")/metrics"; }

# is_above_zero METRIC ROLE NAME...: whether one of these processes counts it above zero.
is_above_zero() {
  local name metric="$1{role=\"$2\"}"
  for name in "${@:3}"; do
    metrics_of "$name" | awk -v metric="$metric" '$1 == metric && $2 > 0 { found = 1 } END { exit !found }' &&
      return
  done
  fail "$metric is 0 in ${*:3}"
}

# every_role_worked: the answer was right because each did its part, and not one all of it.
every_role_worked() {
  is_above_zero triptych_encode_batch_items_count encode encode-1
  is_above_zero triptych_embedding_moved_bytes_total prefill prefill-1
  is_above_zero triptych_kv_moved_bytes_total decode decode-1 decode-2
}

# dashboard_shows_what_is_there: some process exports each metric that the dashboard names.
dashboard_shows_what_is_there() {
  local name metric
  for name in frontend encode-1 prefill-1 decode-1; do metrics_of "$name"; done >"$folder/metrics"
  while read -r metric; do
    grep -qE "^${metric}[ {]" "$folder/metrics" || fail "$dashboard shows $metric, which nobody exports"
  done < <(grep -oE '(dynamo_frontend|triptych)_[a-z_]+' "$dashboard" | sort -u)
}

ctrl_c() {
  begin disagg_multimodal.sh
  wait_for_line 'Ctrl-C ends it'
  kill -INT -- "-$script"
  ends_with 130
}

# refusals: what cannot be followed is refused before anything is started.
refusals() {
  NUM_DECODE_WORKERS=none begin epd_multimodal_image_and_embeddings.sh
  ends_with 1
  says 'NUM_DECODE_WORKERS=none: expected an integer from 1 to'
  NUM_DECODE_WORKERS=2 DECODE_CUDA_VISIBLE_DEVICES=0,1,2 begin disagg.sh
  ends_with 1
  says 'DECODE_CUDA_VISIBLE_DEVICES: 3 devices cannot be shared evenly by 2 workers'
  begin agg.sh --twice
  ends_with 1
  says 'unknown argument --twice'
}

clean_up() {
  [ -z "$script" ] || kill -TERM "$script" 2>/dev/null || true
  [ -z "$script" ] || timeout "$WAIT_S_MAX" tail --pid="$script" -f /dev/null || true
  rm -rf "$folder"
}

main
