#!/usr/bin/env bash
# Slurm: one experiment on Ray, on the machines of one allocation. From the root of the repository:
# RAYBD_STORE=/shared/results RAYBD_DATA=/shared/data sbatch --nodes=4 cluster/slurm.sh CONFIG
#SBATCH --job-name=raybd
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --output=raybd-%j.log
set -euo pipefail

config=${1:?usage: sbatch cluster/slurm.sh CONFIG [options of raybd run]}
shift
case ${RAYBD_STORE:?set RAYBD_STORE to a folder that every machine mounts, or to s3://bucket/folder} in
  /* | *://*) export RAYBD_STORE ;;
  *)
    echo "RAYBD_STORE=$RAYBD_STORE is relative:" \
      "give a folder that every machine mounts, or s3://bucket/folder" >&2
    exit 2
    ;;
esac

cd "${SLURM_SUBMIT_DIR:?start this with sbatch}"
# shellcheck disable=SC1091
. "${RAYBD_VENV:-.venv}/bin/activate"   # on a file system that every machine mounts

# The token stays in a file that only you can read; srun passes on its path, not the token.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$HOME/.ray/auth_token" RAY_USAGE_STATS_ENABLED=0
if [ ! -s "$RAY_AUTH_TOKEN_PATH" ]; then
  (unset RAY_AUTH_TOKEN_PATH; umask 077; ray get-auth-token --generate > /dev/null)
fi
chmod 600 "$RAY_AUTH_TOKEN_PATH"

# This script runs on the first machine of the allocation. The head runs stages, too, because its
# cores and its GPU belong to the allocation.
mapfile -t machines < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${machines[0]}
address=$(python -c 'import ray; print(ray.util.get_node_ip_address())'):6379
trap 'kill $(jobs -p) 2> /dev/null || true' EXIT

wait_for() { # waits until $1 machines have joined
  local joined=0
  for _ in $(seq "${RAYBD_JOIN_TRIES:-60}"); do
    joined=$(ray status --address="$address" 2> /dev/null | grep -c ' node_' || true)
    [ "$joined" -ge "$1" ] && return
    sleep "${RAYBD_JOIN_SECONDS:-2}"
  done
  echo "only $joined of ${#machines[@]} machines joined $address: see the output of srun above" >&2
  exit 3
}

srun --nodes=1 --ntasks=1 --nodelist="$head" \
  ray start --head --block --node-ip-address="${address%:*}" --port=6379 --dashboard-host=127.0.0.1 &
wait_for 1

others=$((${#machines[@]} - 1))
if [ "$others" -gt 0 ]; then
  srun --nodes="$others" --ntasks="$others" --ntasks-per-node=1 --exclude="$head" \
    ray start --block --address="$address" &
  wait_for "${#machines[@]}"
fi

raybd run "$config" --store "$RAYBD_STORE" --address "$address" "$@"
