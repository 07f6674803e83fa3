#!/usr/bin/env bash
# One run as a Slurm job with a component for each role:
#   sbatch cluster/slurm.sh --config configs/cluster.yaml storage=/scratch/runs
# Submit it from the repository's root, with the environment in .venv, on a file system that all nodes see. Requeued
# (preemption, a lost node, and here the time limit), it resumes from the newest published checkpoint. The notice
# comes before the time limit; before a preemption only where the site has set PreemptParameters=send_user_signal.
#SBATCH --job-name=echodfkd
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
#SBATCH --time=24:00:00 --nodes=1 --ntasks-per-node=1 --cpus-per-task=8 --mem=32G
#SBATCH hetjob
#SBATCH --time=24:00:00 --nodes=1 --ntasks-per-node=1 --cpus-per-task=48 --gpus-per-node=4 --mem=128G
#SBATCH hetjob
#SBATCH --time=24:00:00 --nodes=2 --ntasks-per-node=1 --cpus-per-task=4 --gpus-per-node=1 --mem=16G
#SBATCH hetjob
#SBATCH --time=24:00:00 --nodes=1 --ntasks-per-node=1 --cpus-per-task=4 --gpus-per-node=1 --mem=16G
#SBATCH hetjob
#SBATCH --time=24:00:00 --nodes=1 --ntasks-per-node=1 --cpus-per-task=16 --mem=32G
set -euo pipefail

# the job runs a copy of this script: the repository is where it was submitted
cd "${SLURM_SUBMIT_DIR:?start this with sbatch}"
export PATH="$PWD/.venv/bin:$PATH"

# A token of this job's own, in a file that only its owner reads: never on a command line, where others see it.
folder="$HOME/.ray/slurm-$SLURM_JOB_ID"
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="$folder/auth_token"
(
  umask 077
  mkdir -p "$folder"
  python -c 'import secrets; print(secrets.token_hex(32), end="")' >"$RAY_AUTH_TOKEN_PATH"
)

# one Ray for each job on a shared machine: ports of its own, and a folder (start_ray.sh makes it on each machine)
port=$((20000 + SLURM_JOB_ID % 10000))
head=$(hostname -I | awk '{print $1}')
export RAY_ADDRESS="$head:$port"

steps=()
driver=
finish() {
  trap - EXIT
  [[ -z $driver ]] || kill -TERM "$driver" 2>/dev/null || true
  ((${#steps[@]} == 0)) || kill -TERM "${steps[@]}" 2>/dev/null || true
  wait || true
  rm -rf "$folder"
}
trap finish EXIT

start() { # component, then the words after start_ray.sh
  srun --het-group="$1" --kill-on-bad-exit=0 cluster/start_ray.sh "${@:2}" --dashboard-agent-listen-port=0 &
  steps+=($!)
}

start 0 head --num-cpus=0 --node-ip-address="$head" --port="$port" \
  --dashboard-port=$((port + 10000)) --ray-client-server-port=$((port + 20000))
for _ in {1..60}; do
  ray health-check --address="$RAY_ADDRESS" >/dev/null 2>&1 && break
  sleep 2
done
start 1 worker --address="$RAY_ADDRESS" --num-cpus=48 --num-gpus=4 --labels=role=student
start 2 worker --address="$RAY_ADDRESS" --num-cpus=4 --num-gpus=1 --labels=role=teacher
start 3 worker --address="$RAY_ADDRESS" --num-cpus=4 --num-gpus=1 --labels=ray-subcluster=eval
start 4 worker --address="$RAY_ADDRESS" --num-cpus=16 --labels=role=synthesis

# Slurm's notice goes to the run, which publishes a checkpoint and ends; then the job asks to be queued again
notice() {
  if [[ -n $driver ]]; then
    kill -TERM "$driver" 2>/dev/null || true
    wait "$driver" || true
  fi
  scontrol requeue "$SLURM_JOB_ID"
}
trap notice TERM

# the run itself waits until all nodes have joined, and says what is missing; a wrong option ends it at once
[[ $* == *ray.wait_for_nodes_s=* ]] || set -- "$@" ray.wait_for_nodes_s=300
python jobs/distill.py "$@" &
driver=$!
wait "$driver"
