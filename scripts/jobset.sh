#!/usr/bin/env bash
# A run on a Kubernetes cluster with the JobSet controller: TPU or GPU nodes.
#
#   scripts/jobset.sh [--dry-run] run --config=configs/hro.py:imagenet ...
#   scripts/jobset.sh [--dry-run] log
#   scripts/jobset.sh [--dry-run] stop
#   scripts/jobset.sh [--dry-run] delete
#
# --dry-run prints the commands and the filled-in scripts/jobset.yaml instead.
#   NAME         of the job                          (rrl)
#   IMAGE        container with the library in /rrl_jax (required for run)
#   HOSTS        nodes, one process each             (4)
#   CHIPS        chips a node                        (4)
#   RESOURCE     what a chip is called               (google.com/tpu)
#   ACCELERATOR  node label's value                  (tpu-v5-lite-podslice)
#   TOPOLOGY     of the slice                        (4x4)
#   CLAIM        volume claim all nodes may write    (rrl-runs)
#   RESTARTS     of the whole set after a loss       (20)
set -euo pipefail
self=$(realpath "$0")
cd "$(dirname "$self")"

export NAME=${NAME:-rrl}
export IMAGE=${IMAGE:-}
export HOSTS=${HOSTS:-4}
export CHIPS=${CHIPS:-4}
export RESOURCE=${RESOURCE:-google.com/tpu}
export ACCELERATOR=${ACCELERATOR:-tpu-v5-lite-podslice}
export TOPOLOGY=${TOPOLOGY:-4x4}
export CLAIM=${CLAIM:-rrl-runs}
export RESTARTS=${RESTARTS:-20}

. "$(dirname "$self")/_stage.bash"

# The yaml with its $NAMES replaced; a list of arguments as quoted items.
filled() {
  local text item arguments=
  for item in "$@"; do
    item=${item//\\/\\\\}
    item=${item//\"/\\\"}
    arguments+=", \"$item\""
  done
  text=$(grep -v '^#' jobset.yaml)
  text=${text//'$ARGUMENTS'/$arguments}
  for item in NAME IMAGE HOSTS CHIPS RESOURCE ACCELERATOR TOPOLOGY CLAIM \
    RESTARTS; do
    text=${text//"\$$item"/${!item}}
  done
  printf '%s\n' "$text"
}

case $stage in
  run)
    [ $# -gt 0 ] || usage
    [ -n "$IMAGE" ] || { echo 'IMAGE is not set' >&2; exit 2; }
    if [ "$dry" = 1 ]; then
      echo "kubectl apply -f - <<'EOF'"
      filled "$@"
      echo EOF
    else
      filled "$@" | kubectl apply -f -
    fi
    ;;
  log) do_ kubectl logs --follow --tail=50 "job/$NAME-workers-0" ;;
  stop) # SIGTERM on all nodes; they save. `run` with the same goes on.
    do_ kubectl patch jobset "$NAME" --type=merge \
      --patch='{"spec":{"suspend":true}}'
    ;;
  delete) do_ kubectl delete jobset "$NAME" ;;
  *) usage ;;
esac
