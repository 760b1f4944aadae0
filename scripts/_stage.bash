# Read by each script: takes --dry-run and the stage off its arguments.
# Sets `dry` and `stage`; the caller has set `self`, the path of the script.

# The comment at the script's head, and exit code 2.
usage() {
  sed -n '2,/^set/p' "$self" | grep '^#' | cut -c3- >&2
  exit 2
}

# Runs a command, or prints it as one could paste it.
do_() {
  if [ "$dry" = 1 ]; then
    printf '%q ' "$@" | sed 's/ $//'
    echo
  else
    "$@"
  fi
}

dry=0
if [ "${1:-}" = --dry-run ]; then
  dry=1
  shift
fi
stage=${1:-}
[ -n "$stage" ] || usage
shift
