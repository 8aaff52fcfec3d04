#!/usr/bin/env bash
# All three stages apart: a frontend, and workers that encode, that prefill, and that decode.
# --help says what can be set.
set -euo pipefail
# shellcheck source=launch/cluster.sh
. "$(dirname "$0")/cluster.sh"
run_cluster "E→P→D: a frontend, and workers that encode, that prefill, and that decode." \
  "encode prefill decode" "$@"
