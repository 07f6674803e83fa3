#!/usr/bin/env bash
# Start Ray on this machine with a token, in the foreground: SIGTERM ends it.
#   start_ray.sh head [options of ray start]
#   start_ray.sh worker --address=HOST:PORT [--labels=role=teacher] [options of ray start]
# The token is RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token, and the same on every machine.
set -euo pipefail

role=${1:?head or worker}
shift
if [[ $role != head && $role != worker ]]; then
  echo "error: got $role, allowed are head, worker" >&2
  exit 2
fi

export RAY_AUTH_MODE=token
export RAY_USAGE_STATS_ENABLED=0
token_file=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
if [[ -z ${RAY_AUTH_TOKEN:-} && ! -s $token_file ]]; then
  echo "error: no token in RAY_AUTH_TOKEN or $token_file; make one with: ray get-auth-token --generate" >&2
  exit 2
fi
program=$(command -v ray || true)
if [[ $role == head && $program == *" "* ]]; then  # Ray starts its client server through a shell without quotes
  echo "error: ray lies at '$program', and a head cannot start from a path with a space: use another environment" >&2
  exit 2
fi
ulimit -n "$(ulimit -H -n)"

# Ray opens its folder to all users of the machine, sockets and logs included: it lies in one that only this user enters.
# A short path, because a socket's may be 107 bytes long.
private=$(mktemp -d /tmp/r.XXXXXX)

case $role in
  head)
    # what `ray job stop` waits for: longer than train.stop_grace_s, so that a checkpoint is published
    export RAY_JOB_STOP_WAIT_TIME_S=${RAY_JOB_STOP_WAIT_TIME_S:-60}
    # what the head remembers of tasks that are over, some 3 KB each
    export RAY_task_events_max_num_task_in_gcs=${RAY_task_events_max_num_task_in_gcs:-5000}
    exec ray start --head --block --dashboard-host=127.0.0.1 --temp-dir="$private/ray" "$@"
    ;;
  worker)
    exec ray start --block --temp-dir="$private/ray" "$@"
    ;;
esac
