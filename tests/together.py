"""Several processes that do the same jobs together.

  python -m tests.together NUM_PROCESSES FOLDER MODULE JOB ...

imports the module, which takes longest, and then forks them. Each does the
module's jobs of these names and ends as a launched one does; what it says is
in FOLDER/process0.log and so on. Their return codes are printed as JSON.
"""

from collections.abc import Callable
import importlib
import json
import os
import pathlib
import signal
import socket
import sys
import time

import jax
from jax.experimental import multihost_utils

import launch
from rrl_jax.train import multihost, supervisor


def free_port() -> int:
  """A port of this machine that nobody listens to."""
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]


def die(root: pathlib.Path, num_processes: int) -> None:
  """A job in which the last process crashes."""
  if jax.process_index() == num_processes - 1:
    print('last words', file=sys.stderr)
    os.kill(os.getpid(), signal.SIGSEGV)
  multihost_utils.sync_global_devices('all live')


def listen_without_pause(root: pathlib.Path, num_processes: int) -> None:
  """A job after which the others are listened to all the time."""
  multihost._TICK = 0
  time.sleep(0.6)  # The last pause ends.


def main(num_processes: str, root: str, module: str, *jobs: str) -> None:
  """Starts the processes and waits for them; in each, does the jobs."""
  where = f'127.0.0.1:{free_port()}'
  number = int(num_processes)
  root = pathlib.Path(root)
  found = [getattr(importlib.import_module(module), job) for job in jobs]
  pids = []
  for i in range(number):
    pids.append(os.fork())
    if not pids[i]:
      supervisor._end_with_parent()
      return _take_part(where, number, i, root, found)
  ends = [os.waitpid(pid, 0)[1] for pid in pids]
  print(json.dumps([os.waitstatus_to_exitcode(end) for end in ends]))
  return None


def _take_part(
  where: str, number: int, i: int, root: pathlib.Path, jobs: list[Callable]
) -> None:
  """Is one of the processes from here on."""
  log = os.open(root / f'process{i}.log', os.O_WRONLY | os.O_CREAT)
  for stream in (1, 2):
    os.dup2(log, stream)
  multihost.join(where, number, i)
  try:
    for job in jobs:
      job(root, number)
  except Exception as error:
    launch._leave(error, *launch._verdict(error))


if __name__ == '__main__':
  main(*sys.argv[1:])
