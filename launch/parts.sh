# Processes that belong together, each with a role and a log: started, watched by process id, and
# stopped. Sourced after lib.sh, not run; must not know what the processes do.
# shellcheck shell=bash

LOG_LINES_SHOWN=20
# A process that has not ended this long after it was asked is ended by force.
STOP_S_MAX=$((${TRIPTYCH_DRAIN_TIMEOUT_S:-30} + 5))

((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 501)) || die "bash 5.1 or later is needed"

# By process id. A part that ended is no longer in them.
declare -A part_name=() part_role=() part_port=()
# In the order in which they were started.
part_pids=()
# Where the logs go; set before the first part is started.
logs=
# The process id and the status of the part that `next_end` saw end.
# shellcheck disable=SC2034 # Read by who sources this.
ended='' end_status=0

# start_part ROLE NAME PORT COMMAND...: in the background, with a log of its own.
start_part() {
  local role=$1 name=$2 port=$3
  shift 3
  # A session of its own, so that Ctrl-C reaches this script alone, which stops all in order; and
  # should even this script be killed, the kernel ends what it started.
  setsid setpriv --pdeathsig TERM -- "$@" </dev/null >"$(log_of "$name")" 2>&1 &
  part_role[$!]=$role
  part_name[$!]=$name
  part_port[$!]=$port
  part_pids+=("$!")
}

log_of() { printf '%s/%s.log' "$logs" "$1"; }

# next_end: waits until a part ends; then `ended` is its process id and `end_status` its status.
next_end() {
  end_status=0
  for ended in "${!part_name[@]}"; do
    kill -0 "$ended" 2>/dev/null && continue
    # `wait -n` need not tell of a process that ended while something else was waited for.
    wait "$ended" || end_status=$?
    return 0
  done
  # shellcheck disable=SC2034 # As above. Bash's own words about a killed process are not shown.
  wait -n -p ended "${!part_name[@]}" 2>/dev/null || end_status=$?
}

# forget_part PID: it has ended.
forget_part() { unset "part_name[$1]" "part_role[$1]" "part_port[$1]"; }

# pids_of ROLE...: the process ids of all parts with one of these roles.
pids_of() {
  local pid
  for pid in "${part_pids[@]}"; do
    [[ -z ${part_role[$pid]:-} || " $* " != *" ${part_role[$pid]} "* ]] || echo "$pid"
  done
}

# show_log NAME: its last lines.
show_log() {
  say "the last lines of $(log_of "$1"):"
  tail -n "$LOG_LINES_SHOWN" "$(log_of "$1")" | sed 's/^/    /'
}

# stop_parts ROLE...: asks all parts with these roles to end, waits, and ends by force who stays.
stop_parts() {
  local pids pid deadline=$((SECONDS + STOP_S_MAX))
  mapfile -t pids < <(pids_of "$@")
  [ ${#pids[@]} != 0 ] || return 0
  for pid in "${pids[@]}"; do signal_part TERM "$pid"; done
  for pid in "${pids[@]}"; do
    while kill -0 "$pid" 2>/dev/null && ((SECONDS < deadline)); do sleep 0.05; done
    if kill -0 "$pid" 2>/dev/null; then
      say "${part_name[$pid]} did not end within $STOP_S_MAX s and is killed"
      signal_part KILL "$pid"
    fi
    wait "$pid" 2>/dev/null || true
    forget_part "$pid"
  done
}

# signal_part SIGNAL PID: to the process and those it started; to it alone where it is so young that
# its session does not exist yet.
signal_part() { kill -"$1" -- "-$2" 2>/dev/null || kill -"$1" "$2" 2>/dev/null || true; }

# table_of_parts: what runs where.
table_of_parts() {
  local pid
  row_of_table process pid port log
  for pid in "${part_pids[@]}"; do
    [ -z "${part_name[$pid]:-}" ] ||
      row_of_table "${part_name[$pid]}" "$pid" "${part_port[$pid]}" "$(log_of "${part_name[$pid]}")"
  done
}

row_of_table() { printf '    %-12s %8s %6s  %s\n' "$@"; }
