#!/usr/bin/env bash
# Aggregated: a frontend, and workers that encode, prefill and decode. --help says what can be set.
set -euo pipefail
# shellcheck source=launch/cluster.sh
. "$(dirname "$0")/cluster.sh"
run_cluster "Aggregated: a frontend, and workers that encode, prefill and decode." agg "$@"
