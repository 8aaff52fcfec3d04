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
  secured
  every_variable
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
  computes_on_the_processor
  say "launch/$1: $(grep -oE 'ready [0-9]+ ms' "$output") after its first process"
}

# computes_on_the_processor: every worker, wherever there may be a GPU: the demo model asks for none.
computes_on_the_processor() {
  local log
  for log in "$folder"/logs/*-[0-9].log; do
    grep -qF 'computing on the CPU in f32 (as --device says)' "$log" || fail "$log names another device"
  done
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

# secured: etcd that wants a certificate, a user and a password, and NATS that wants a certificate and
# a token. Who lacks one of them is not let in; with all of them there is an answer.
secured() {
  need openssl openssl "to make certificates"
  need etcdctl etcd-client "to tell etcd who may use it"
  local -x TRIPTYCH_ETCD_CA_FILE=$folder/ca.pem TRIPTYCH_NATS_CA_FILE=$folder/ca.pem
  local -x TRIPTYCH_ETCD_CERT_FILE=$folder/worker.pem TRIPTYCH_ETCD_KEY_FILE=$folder/worker.key
  local -x TRIPTYCH_NATS_CERT_FILE=$folder/worker.pem TRIPTYCH_NATS_KEY_FILE=$folder/worker.key
  local -x TRIPTYCH_ETCD_USER=triptych TRIPTYCH_ETCD_PASSWORD_FILE=$folder/password
  local -x TRIPTYCH_NATS_TOKEN_FILE=$folder/token TRIPTYCH_CLUSTER_KEY_FILE=$folder/cluster-key
  local -x TRIPTYCH_TRANSPORT_HOST=127.0.0.1 ETCD_ENDPOINTS NATS_URL
  local secret
  for secret in password token cluster-key; do openssl rand -hex 32 >"$folder/$secret"; done
  make_certificates
  ETCD_ENDPOINTS=https://127.0.0.1:$(free_port 12379)
  NATS_URL=tls://127.0.0.1:$(free_port 14222)
  start_secured_servers
  lets_in
  TRIPTYCH_ETCD_PASSWORD_FILE=$folder/token keeps_out etcd
  TRIPTYCH_ETCD_CA_FILE=$folder/worker.pem keeps_out etcd
  TRIPTYCH_NATS_TOKEN_FILE=$folder/password keeps_out nats
  TRIPTYCH_NATS_CA_FILE=$folder/worker.pem keeps_out nats
  begin epd.sh --once
  ends_with 0
  says "answer:   $right_answer"
  stop_servers
}

# make_certificates: an authority's, and those that it gives to servers and workers.
make_certificates() {
  local name new=(openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
  {
    "${new[@]}" -x509 -days 2 -subj '/CN=authority' -keyout "$folder/ca.key" -out "$folder/ca.pem"
    for name in server worker; do
      "${new[@]}" -subj "/CN=$name" -keyout "$folder/$name.key" -out "$folder/$name.csr"
      openssl x509 -req -days 2 -in "$folder/$name.csr" -out "$folder/$name.pem" \
        -CA "$folder/ca.pem" -CAkey "$folder/ca.key" -CAcreateserial \
        -extfile <(echo 'subjectAltName = IP:127.0.0.1')
    done
  } 2>"$folder/openssl.log" || fail "openssl: $(<"$folder/openssl.log")"
}

# start_secured_servers: as docs/deploy.md says.
start_secured_servers() {
  local peer
  peer=http://127.0.0.1:$(free_port $((${ETCD_ENDPOINTS##*:} + 1)))
  mkdir -p "$folder/logs"
  etcd --name secured --data-dir "$folder/etcd" --bcrypt-cost 4 --client-cert-auth \
    --cert-file "$folder/server.pem" --key-file "$folder/server.key" --trusted-ca-file "$folder/ca.pem" \
    --listen-client-urls "$ETCD_ENDPOINTS" --advertise-client-urls "$ETCD_ENDPOINTS" \
    --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "secured=$peer" \
    >"$folder/logs/secured-etcd.log" 2>&1 &
  servers+=("$!")
  nats-server --addr 127.0.0.1 --port "${NATS_URL##*:}" --auth "$(<"$folder/token")" --tlsverify \
    --tlscert "$folder/server.pem" --tlskey "$folder/server.key" --tlscacert "$folder/ca.pem" \
    >"$folder/logs/secured-nats.log" 2>&1 &
  servers+=("$!")
  local deadline=$((SECONDS + WAIT_S_MAX))
  until as_root endpoint health; do
    kill -0 "${servers[0]}" || fail "etcd ended before it was ready"
    ((SECONDS < deadline)) || fail "etcd was not ready after $WAIT_S_MAX s"
    sleep 0.05
  done
  as_root role add triptych
  as_root role grant-permission triptych --prefix=true readwrite /triptych/
  as_root user add "triptych:$(<"$folder/password")"
  as_root user grant-role triptych triptych
  as_root user add "root:$(<"$folder/password")"
  as_root user grant-role root root
  as_root auth enable
}

as_root() {
  ETCDCTL_API=3 etcdctl --endpoints "$ETCD_ENDPOINTS" --cacert "$folder/ca.pem" \
    --cert "$folder/worker.pem" --key "$folder/worker.key" "$@" >>"$folder/logs/etcdctl.log" 2>&1
}

# checked: what `triptych check` finds of a worker's surroundings.
checked() { "$BIN_FOLDER/triptych" check --for decode-worker --model-path models/shapes; }

lets_in() { checked >"$output" || fail "a check of servers that should let us in failed"; }

# keeps_out SERVER: the check fails because of it.
keeps_out() {
  ! checked >"$output" || fail "$1 let somebody in who should not be"
  says "FAIL  $1"
}

# every_variable: one launch that sets all of them; each shows somewhere.
every_variable() {
  local port media=$folder/media name
  port=$(free_port 18000)
  mkdir -p "$media"
  cp "$samples/forty-two.png" "$media"
  cp "$samples/forty-two.png" "$folder/outside.png"
  # What follows the end of a picture is ignored, but counts.
  cp "$samples/forty-two.png" "$media/large.png" && truncate --size 2M "$media/large.png"
  echo 'encoder_max_batch_size: 3' >"$folder/encode.yaml"
  echo 'kv_cache_config: { max_tokens: 4096 }' >"$folder/prefill.yaml"
  echo 'kv_cache_config: { max_tokens: 8192 }' >"$folder/decode.yaml"
  MODEL_PATH=models/shapes SERVED_MODEL_NAME=figures MODALITY=multimodal HTTP_PORT=$port READY_S_MAX=$WAIT_S_MAX \
    NUM_ENCODE_WORKERS=2 NUM_PREFILL_WORKERS=2 NUM_DECODE_WORKERS=1 ENCODE_ENDPOINT=dyn://dynamo.tower.look \
    ENCODE_CUDA_VISIBLE_DEVICES=3,5 PREFILL_CUDA_VISIBLE_DEVICES=4,6 DECODE_CUDA_VISIBLE_DEVICES=7 \
    ENCODE_ENGINE_ARGS=$folder/encode.yaml PREFILL_ENGINE_ARGS=$folder/prefill.yaml \
    DECODE_ENGINE_ARGS=$folder/decode.yaml ALLOWED_LOCAL_MEDIA_PATH=$media MAX_FILE_SIZE_MB=1 \
    begin epd.sh
  wait_for_line 'serving figures; Ctrl-C ends it'
  says "curl http://127.0.0.1:$port/v1/chat/completions"
  for name in encode-1 encode-2; do
    grep -qF 'is ready at dynamo.tower.look.' "$folder/logs/$name.log" || fail "$name is not where it should be"
  done
  is_above_zero triptych_encode_batch_items_count encode encode-1 encode-2
  runs_with encode-2 cmdline "$folder/encode.yaml"
  has_blocks prefill-2 128
  has_blocks decode-1 256
  runs_with encode-1 environ CUDA_VISIBLE_DEVICES=3
  runs_with prefill-2 environ CUDA_VISIBLE_DEVICES=6
  runs_with decode-1 environ CUDA_VISIBLE_DEVICES=7
  status_of_question_about "$media/forty-two.png" 200
  [ "$(first_content "$(<"$folder/reply")")" = 42 ] || fail "no right answer: $(<"$folder/reply")"
  status_of_question_about "$folder/outside.png" 403
  status_of_question_about "$media/large.png" 413
  kill -INT -- "-$script"
  ends_with 130
}

# runs_with NAME FILE WORD: a process of the script has this word in a file of /proc about it.
runs_with() {
  grep -qzxF -e "$3" "/proc/$(pid_of "$1")/$2" || fail "$1 has no $3 in its $2"
}

# has_blocks NAME N: a process of the script has so many KV blocks of 32 tokens.
has_blocks() {
  metrics_of "$1" | grep -q "^triptych_kv_blocks{.*state=\"total\".*} $2\$" || fail "$1 has not $2 KV blocks"
}

# status_of_question_about PATH STATUS: of `every_variable`; the answer goes into a file.
status_of_question_about() {
  local status picture question='{"type": "text", "text": "What number is written?"}'
  picture="{\"type\": \"image_url\", \"image_url\": {\"url\": \"file://$1\"}}"
  status=$(curl --silent --noproxy '*' --max-time "$ANSWER_S_MAX" --output "$folder/reply" --write-out '%{http_code}' \
    --header 'content-type: application/json' --data-binary "{\"model\": \"figures\", \"temperature\": 0, \"messages\":
      [{\"role\": \"user\", \"content\": [$picture, $question]}]}" "http://127.0.0.1:$port/v1/chat/completions")
  [ "$status" = "$2" ] || fail "a question about $1 has status $status: $(<"$folder/reply")"
}

servers=()

stop_servers() {
  [ ${#servers[@]} = 0 ] || kill "${servers[@]}" 2>/dev/null || true
  servers=()
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
  stop_servers
  [ -z "$script" ] || kill -TERM "$script" 2>/dev/null || true
  [ -z "$script" ] || timeout "$WAIT_S_MAX" tail --pid="$script" -f /dev/null || true
  rm -rf "$folder"
}

main
