# What a deployment script is told: its arguments and environment, their checks and their --help.
# Sourced after lib.sh, not run; must not know how processes are started.
# shellcheck shell=bash
# shellcheck disable=SC2034 # What is set here is read by who sources this.

WORKERS_MAX=64

# The roles of the pattern's workers.
roles=()

# parse_arguments HEADER ARGUMENT...: sets `once` and `worker_flags`.
parse_arguments() {
  local header=$1
  shift
  once=no
  worker_flags=()
  while [ $# != 0 ]; do
    case $1 in
      --once) once=yes ;;
      --help | -h) usage "$header" && exit ;;
      --) shift && worker_flags=("$@") && return ;;
      *) die "unknown argument $1; --help says what there is" ;;
    esac
    shift
  done
}

usage() {
  printf '%s\n\nusage: launch/%s [--once] [-- WORKER-FLAG...]\n' "$1" "${0##*/}"
  cat <<'END'

  --once   end with success after the first answer
  --       what follows goes to every worker; docs/options.md has the flags

Builds Triptych, starts etcd and NATS where none is given, then the workers and the frontend; waits
for an answer about a picture, says what runs where, and goes on until Ctrl-C, or until a process dies
that no other of its role replaces. Each process has a log of its own.

Environment (what holds where it is not set):
  MODEL_PATH                   a model folder, or a hub id in the local cache (models/shapes)
  SERVED_MODEL_NAME            the name clients ask for (the folder's name, or the hub id)
  MODALITY                     text or multimodal (multimodal)
END
  local role
  for role in "${roles[@]}"; do usage_of_role "$role" "${role^^}"; done
  cat <<'END'
  ENCODE_ENDPOINT              dyn://NAMESPACE.COMPONENT.ENDPOINT: encode workers serve it, and prefill
                               workers leave all encoding to it (to whoever encodes, or else themselves)
  ALLOWED_LOCAL_MEDIA_PATH     the folder whose files requests may name (/tmp)
  MAX_FILE_SIZE_MB             largest medium (50)
  HTTP_PORT                    where clients connect (8000, or the next free one)
  ETCD_ENDPOINTS               comma-separated; no etcd is started then (one is, on 127.0.0.1)
  NATS_URL                     no NATS server is started then (one is, on 127.0.0.1)
  LOG_FOLDER                   where logs go (a new folder under /tmp)
  BIN_FOLDER                   where the programs are; nothing is built (target/release, built first)
  READY_S_MAX                  longest time to the first answer, in seconds (600)
  TRIPTYCH_DEVICE              what all workers compute on: cpu, cuda, cuda:N or auto (cpu for the
                               demo model, which needs no more; auto for others)

Any flag of the programs may also be given as TRIPTYCH_<FLAG>, for all of them at once.
END
}

# usage_of_role ROLE ROLE_IN_CAPITALS
usage_of_role() {
  usage_row "$2_ENGINE_ARGS" "engine YAML of $1 workers (engine_configs/<model>/$1.yaml if it exists)"
  usage_row "NUM_$2_WORKERS" "how many $1 workers (1)"
  usage_row "$2_CUDA_VISIBLE_DEVICES" "their GPUs, shared out evenly (all that are visible)"
}

usage_row() { printf '  %-28s %s\n' "$@"; }

# read_settings: sets `model`, `name` and `modality`, and checks the rest.
read_settings() {
  local role
  model=${MODEL_PATH:-$root/models/shapes}
  [ ! -d "$model" ] || model=$(realpath "$model")
  # A folder is called by its last name; anything else is a hub id, which is the name.
  name=$model
  [ ! -d "$model" ] || name=$(basename "$model")
  name=${SERVED_MODEL_NAME:-$name}
  # It answers as fast as one reads on any processor, and a GPU's memory does not move between
  # processes yet.
  [ ! "$model" -ef "$root/models/shapes" ] || export TRIPTYCH_DEVICE=${TRIPTYCH_DEVICE:-cpu}
  modality=${MODALITY:-multimodal}
  [[ $modality =~ ^(text|multimodal)$ ]] || die "MODALITY=$modality: expected text or multimodal"
  [ -z "${HTTP_PORT:-}" ] || is_free "$HTTP_PORT" || die "HTTP_PORT=$HTTP_PORT: somebody listens there already"
  for role in "${roles[@]}"; do check_role "${role^^}"; done
}

# has_etcd, has_nats: whether the user named one, by any of the names that the programs hear.
has_etcd() { [ -n "${TRIPTYCH_ETCD_ENDPOINTS:-}${ETCD_ENDPOINTS:-}" ]; }
has_nats() { [ -n "${TRIPTYCH_NATS_URL:-}${NATS_URL:-}${NATS_SERVER:-}" ]; }

# check_role ROLE_IN_CAPITALS: whether its settings can be followed.
check_role() {
  local n_workers devices devices_name=$1_CUDA_VISIBLE_DEVICES
  n_workers=$(n_workers_of "$1")
  [[ $n_workers =~ ^[1-9][0-9]?$ && $n_workers -le $WORKERS_MAX ]] ||
    die "NUM_$1_WORKERS=$n_workers: expected an integer from 1 to $WORKERS_MAX"
  IFS=, read -ra devices <<<"${!devices_name:-}"
  ((${#devices[@]} % n_workers == 0)) ||
    die "$devices_name: ${#devices[@]} devices cannot be shared evenly by $n_workers workers (NUM_$1_WORKERS)"
}

# n_workers_of ROLE_IN_CAPITALS
n_workers_of() {
  local count_name=NUM_$1_WORKERS
  echo "${!count_name:-1}"
}

# devices_of ROLE_IN_CAPITALS IDX N_WORKERS: this worker's share of the role's devices.
devices_of() {
  local devices share devices_name=$1_CUDA_VISIBLE_DEVICES
  IFS=, read -ra devices <<<"${!devices_name:-}"
  share=$((${#devices[@]} / $3))
  devices=("${devices[@]:($2 - 1) * share:share}")
  (IFS=, && echo "${devices[*]}")
}

# engine_yaml ROLE: the file the user named, or ours for the model if we have one.
engine_yaml() {
  local args_name=${1^^}_ENGINE_ARGS folder_name ours
  folder_name=$(basename "$model")
  ours=$root/engine_configs/${folder_name,,}/$1.yaml
  [ -f "$ours" ] || ours=
  echo "${!args_name:-$ours}"
}
