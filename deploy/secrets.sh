#!/usr/bin/env bash
# Makes the secrets of compose.yaml, once: the cluster's key, NATS's token, Grafana's password.
set -euo pipefail
cd "$(dirname "$0")"
secrets=.env
names=(CLUSTER_KEY NATS_TOKEN GRAFANA_PASSWORD)

if [ -e "$secrets" ]; then
  echo "error: deploy/$secrets exists; delete it to make new ones" >&2
  exit 1
fi
umask 077
for name in "${names[@]}"; do
  printf '%s=%s\n' "$name" "$(head -c 32 /dev/urandom | sha256sum | cut -d' ' -f1)"
done >"$secrets"
echo "==> wrote ${names[*]} into deploy/$secrets"
