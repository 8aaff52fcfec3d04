#!/usr/bin/env bash
# Waits until a server has answered a question about a picture, and prints the answer.
#
#   launch/first-answer.sh URL MODEL [HEALTH-URL...]
#
# Before it asks, each HEALTH-URL must say that its process is ready. MODALITY=text asks without a
# picture. READY_S_MAX is the longest wait, in seconds (600).
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=launch/lib.sh
. "$root/launch/lib.sh"

HEALTH_S_MAX=5
PAUSE_S=0.1
ANSWER_TOKENS_MAX=64

picture=$root/models/shapes/samples/four-shapes.jpg
question='What is in the picture?'

main() {
  [ $# -ge 2 ] || die "usage: launch/first-answer.sh URL MODEL [HEALTH-URL...]"
  local url=$1 model=$2 reply
  shift 2
  ready_s_max=${READY_S_MAX:-600}
  reply=$(mktemp)
  # shellcheck disable=SC2064 # The name is meant as it is now.
  trap "rm -f '$reply'" EXIT
  trap 'exit 143' TERM
  if [ "${MODALITY:-multimodal}" = text ]; then
    picture=
    question='Hello!'
  fi
  while [ $# != 0 ]; do
    try "$1" "$reply" is_ready "$1" "$reply"
    shift
  done
  try "$url" "$reply" ask "$url" "$model" "$reply"
  printf 'question: %s\n' "$question${picture:+ ($picture)}"
  printf 'answer:   %s\n' "$(first_content "$(<"$reply")")"
}

# try WHO REPLY COMMAND...: until the command succeeds.
try() {
  local who=$1 reply=$2
  shift 2
  until "$@"; do
    ((SECONDS < ready_s_max)) || die "$who was not ready after $ready_s_max s, and last said: $(<"$reply")"
    sleep "$PAUSE_S"
  done
}

# is_ready HEALTH-URL REPLY: whether it says so.
is_ready() {
  [ "$(http_status "$2" "$HEALTH_S_MAX" "$1")" = 200 ]
}

# ask URL MODEL REPLY: whether the question was answered; dies when asking again cannot help.
ask() {
  local status fields
  fields="\"model\": \"$2\", \"temperature\": 0, \"max_tokens\": $ANSWER_TOKENS_MAX"
  status=$(chat_request "$fields" "$question" "$picture" |
    http_status "$3" "$((ready_s_max - SECONDS + 1))" --data-binary @- \
      --header 'content-type: application/json' "$1/v1/chat/completions")
  case $status in
    200) ;;
    # Nobody listens yet, or nobody has said yet that the model or a role is there.
    000 | 404 | 503) return 1 ;;
    *) die "the first question got status $status: $(<"$3")" ;;
  esac
}

# http_status REPLY SECONDS CURL-ARGUMENT...: the status of the response, whose body goes into REPLY.
http_status() {
  local reply=$1 seconds=$2
  shift 2
  : >"$reply"
  # shellcheck disable=SC2094 # What curl itself has to say stands in for a body where there is none.
  curl --silent --show-error --noproxy '*' --max-time "$seconds" --output "$reply" \
    --write-out '%{http_code}' "$@" 2>>"$reply" || true
}

main "$@"
