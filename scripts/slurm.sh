#!/usr/bin/env bash
# A run on GPUs under Slurm, one process a GPU.
#
#   scripts/slurm.sh [--dry-run] run --config=configs/hro.py:imagenet ...
#   scripts/slurm.sh [--dry-run] log
#   scripts/slurm.sh [--dry-run] stop
#
# --dry-run prints the command and the batch script instead.
#   NAME       of the job                              (rrl)
#   NODES      machines                                (2)
#   GPUS       GPUs, and processes, a machine          (8)
#   TIME       limit; a minute before it all save      (24:00:00)
#   WORKDIR    a folder that every machine sees        ($PWD/runs/$NAME)
#   PYTHON     the interpreter                         (.venv/bin/python)
#   RESTARTS   how often Slurm is asked to start again (20)
set -euo pipefail
self=$(realpath "$0")
cd "$(dirname "$self")/.."

NAME=${NAME:-rrl}
NODES=${NODES:-2}
GPUS=${GPUS:-8}
TIME=${TIME:-24:00:00}
WORKDIR=${WORKDIR:-$PWD/runs/$NAME}
PYTHON=${PYTHON:-.venv/bin/python}
RESTARTS=${RESTARTS:-20}

. "$(dirname "$self")/_stage.bash"

# Code 75, or a process killed by a signal, puts the job back into the queue:
# the same command goes on. When a machine fails, Slurm does so by itself.
batch() {
  local arguments
  arguments=$(printf ' %q' --multihost --workdir="$WORKDIR" "$@")
  cat << EOF
#!/usr/bin/env bash
#SBATCH --job-name=$NAME
#SBATCH --nodes=$NODES
#SBATCH --ntasks-per-node=$GPUS
#SBATCH --gpus-per-node=$GPUS
#SBATCH --time=$TIME
#SBATCH --signal=TERM@60
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=$NAME.log
cd $(printf '%q' "$PWD")
# JAX reads the processes and the coordinator from Slurm's variables.
srun --kill-on-bad-exit=0 $PYTHON launch.py$arguments
code=\$?
if { [ \$code = 75 ] || [ \$code -gt 128 ]; } &&
  [ "\${SLURM_RESTART_COUNT:-0}" -lt $RESTARTS ]; then
  scontrol requeue "\$SLURM_JOB_ID"
fi
exit \$code
EOF
}

case $stage in
  run)
    [ $# -gt 0 ] || usage
    if [ "$dry" = 1 ]; then
      echo "sbatch <<'END'"
      batch "$@"
      echo END
    else
      batch "$@" | sbatch
    fi
    ;;
  log) do_ tail -n 50 -F "$NAME.log" ;;
  stop) # All save within Slurm's KillWait (30 s); nothing is queued again.
    do_ scancel --name="$NAME"
    ;;
  *) usage ;;
esac
