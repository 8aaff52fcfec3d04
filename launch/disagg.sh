#!/usr/bin/env bash
# Prefill apart from decode: a frontend, workers that encode and prefill, and workers that decode.
# --help says what can be set.
set -euo pipefail
# shellcheck source=launch/cluster.sh
. "$(dirname "$0")/cluster.sh"
run_cluster "P→D: a frontend, workers that encode and prefill, and workers that decode." \
  "prefill decode" "$@"
