"""Runs a command again when it was stopped but can go on.

Imports nothing that is slow or that a crash could take along.
"""

from collections.abc import Sequence
import contextlib
import ctypes
import signal
import subprocess
import sys
import time

RESUMABLE = 75


def run(command: Sequence[str], *, restarts: int, pause: float) -> int:
  """Runs a command, and again after exit code 75 or a crash by a signal.

  Any other exit code is the end: what is wrong with a command, a config or
  data, and a run that diverged, come out the same a second time. SIGTERM is
  passed on to the command and is the end too.

  Args:
    command: The program and its arguments.
    restarts: How often to start it again, at most.
    pause: Seconds before that, for other machines to notice a loss.

  Returns:
    The exit code of the last start; 128 + n after a crash by signal n.
  """
  stopped = False
  process = None

  def stop(signum, frame):
    nonlocal stopped
    stopped = True
    # A terminal sends SIGINT to both.
    if signum == signal.SIGTERM and process and process.poll() is None:
      process.terminate()

  for signum in (signal.SIGTERM, signal.SIGINT):
    signal.signal(signum, stop)
  for start in range(restarts + 1):
    process = subprocess.Popen(command, preexec_fn=_end_with_parent)
    if stopped:
      process.terminate()  # It came while there was nobody to pass it on to.
    code = process.wait()
    if code != RESUMABLE and code >= 0:
      return code
    ended = f'exit code {code}' if code > 0 else signal.Signals(-code).name
    if stopped or start == restarts:
      break
    _say(f'{ended}; restart {start + 1} of {restarts} in {pause:.0f} s')
    until = time.monotonic() + pause
    while time.monotonic() < until and not stopped:
      time.sleep(0.1)
    if stopped:
      return RESUMABLE
  if not stopped:
    _say(f'{ended} after {restarts} restarts; the same command goes on')
  return code if code > 0 else 128 - code


def _end_with_parent():
  """Kills the command when this process is killed (on Linux)."""
  with contextlib.suppress(AttributeError, OSError):
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG.


def _say(line):
  print(f'rrl_jax: {line}', file=sys.stderr, flush=True)
