#!/usr/bin/env bash
# A run on a Cloud TPU slice: one command a stage, the same on every host.
#
#   scripts/tpu_vm.sh [--dry-run] create
#   scripts/tpu_vm.sh [--dry-run] copy
#   scripts/tpu_vm.sh [--dry-run] run --config=configs/hro.py:imagenet ...
#   scripts/tpu_vm.sh [--dry-run] log
#   scripts/tpu_vm.sh [--dry-run] stop
#   scripts/tpu_vm.sh [--dry-run] delete
#
# --dry-run prints the commands instead. The environment says what and where:
#   NAME      of the slice            (rrl)
#   ZONE      zone                    (us-west4-a)
#   TYPE      accelerator type        (v5litepod-16)
#   VERSION   of the VM's software    (v2-alpha-tpuv5-lite)
#   SPOT      1 for a preemptible one (0)
#   WORKDIR   a folder that every host sees, say a mounted bucket
#             (/mnt/runs/$NAME)
#   RESTARTS  how often to start again after a loss (20)
set -euo pipefail
self=$(realpath "$0")
cd "$(dirname "$self")/.."

NAME=${NAME:-rrl}
ZONE=${ZONE:-us-west4-a}
TYPE=${TYPE:-v5litepod-16}
VERSION=${VERSION:-v2-alpha-tpuv5-lite}
SPOT=${SPOT:-0}
WORKDIR=${WORKDIR:-/mnt/runs/$NAME}
RESTARTS=${RESTARTS:-20}

. "$(dirname "$self")/_stage.bash"

tpu() {
  local verb=$1
  shift
  do_ gcloud compute tpus tpu-vm "$verb" "$NAME" --zone="$ZONE" "$@"
}

on() { # which workers, command
  tpu ssh --worker="$1" --command="$2"
}

case $stage in
  create)
    spot=()
    [ "$SPOT" = 1 ] && spot=(--spot)
    tpu create --accelerator-type="$TYPE" --version="$VERSION" \
      ${spot[@]+"${spot[@]}"}
    ;;
  copy)
    archive=${TMPDIR:-/tmp}/rrl_jax.tar.gz
    do_ git archive --format=tar.gz --output="$archive" HEAD
    do_ gcloud compute tpus tpu-vm scp "$archive" "$NAME:rrl_jax.tar.gz" \
      --zone="$ZONE" --worker=all
    on all 'mkdir -p rrl_jax && tar xzf rrl_jax.tar.gz -C rrl_jax &&
cd rrl_jax && python3 -m venv .venv && .venv/bin/pip install -q ".[tpu]"'
    ;;
  run)
    [ $# -gt 0 ] || usage
    # On TPUs every process finds the others by itself.
    arguments=$(printf '%q ' --multihost --restarts="$RESTARTS" \
      --workdir="$WORKDIR" "$@")
    on all "cd rrl_jax && { setsid nohup .venv/bin/python launch.py $arguments\
> run.log 2>&1 < /dev/null & echo \$! > pid; }"
    ;;
  log) on 0 'tail -n 50 -f rrl_jax/run.log' ;;
  stop) # One host would do, but the others would start again and wait for it.
    on all 'kill -TERM $(cat rrl_jax/pid)'
    ;;
  delete) tpu delete --quiet ;;
  *) usage ;;
esac
