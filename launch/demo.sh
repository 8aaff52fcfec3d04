#!/usr/bin/env bash
# Builds Triptych, serves the demo model from this machine's CPU, and asks it about a picture.
#
#   launch/demo.sh          goes on serving until Ctrl-C
#   launch/demo.sh --once   ends after the answer; the exit code says whether all went well
#
# PORT=… serves on that port; otherwise the first free one from 8000 on is taken.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/lib.sh
. launch/lib.sh

model=models/shapes
samples=$PWD/$model/samples
picture=$model/samples/four-shapes.jpg
question='What is in the picture?'
right_answer='From left to right: a yellow star, a green triangle, an orange circle, a black square.'

main() {
  case "${1:-}" in
    '' | --once) ;;
    *) die "usage: launch/demo.sh [--once]" ;;
  esac
  need_rust
  need curl curl "to ask the server over HTTP"
  say "building (some minutes the first time)"
  cargo build --release -p triptych
  local url
  url=http://127.0.0.1:${PORT:=$(free_port 8000)}
  say "serving $model at $url"
  start_server "$(built release triptych)" serve --model-path "$model" --http-host 127.0.0.1 --http-port "$PORT" \
    --allowed-local-media-path "$samples"
  wait_for_health "$url"
  ask "$url"
  [ "${1:-}" = --once ] || go_on "$url"
}

# ask URL: puts the question with the picture inside the request, prints the answer as it comes.
ask() {
  local answer
  say "asking about $picture"
  printf '\n  question: %s\n  answer:   ' "$question"
  answer=$(request | curl --silent --show-error --no-buffer --fail-with-body --noproxy '*' \
    --header 'content-type: application/json' --data-binary @- "$1/v1/chat/completions" |
    streamed_text)
  printf '\n\n'
  [ "$answer" = "$right_answer" ] || die "wrong; the right answer is: $right_answer"
}

request() {
  chat_request "\"model\": \"$(basename "$model")\", \"stream\": true" "$question" "$picture"
}

# streamed_text: the text inside server-sent events, piece by piece, and to the screen as it comes;
# fails when the stream breaks off.
streamed_text() {
  local line text piece='"content": ?"(([^"\\]|\\.)*)"'
  while IFS= read -r line || [ -n "$line" ]; do
    case $line in
      'data: [DONE]'*) return ;;
      *'"error"'*) die "the server says: $line" ;;
    esac
    [[ $line =~ $piece ]] || continue
    text=${BASH_REMATCH[1]//\\\"/\"}
    printf '%b' "$text" >&3
    printf '%b' "$text"
  done
  die "the answer broke off"
}

go_on() {
  say "still serving; Ctrl-C ends it. In another terminal:"
  cat <<END

curl $1/v1/chat/completions -H 'content-type: application/json' -d '{
  "model": "$(basename "$model")", "messages": [{"role": "user", "content": [
    {"type": "image_url", "image_url": {"url": "$samples/forty-two.png"}},
    {"type": "text", "text": "What number is written?"}]}]}'

END
  wait "$server"
}

exec 3>&1
main "$@"
