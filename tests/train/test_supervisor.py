"""What was stopped but can go on is started again, and nothing else."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent


def child(*ends):
  """A command whose n-th start ends in the n-th of these ways, then waits."""
  return [
    sys.executable,
    '-c',
    'import os, pathlib, signal, sys, time\n'
    'seen = pathlib.Path("starts")\n'
    'number = len(seen.read_text()) if seen.exists() else 0\n'
    'seen.write_text("x" * (number + 1))\n'
    f'end = {ends!r}[number]\n'
    'if end == "wait":\n'
    '  signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n'
    '  pathlib.Path("waits").touch()\n'
    '  time.sleep(60)\n'
    'os.kill(os.getpid(), -end) if end < 0 else sys.exit(end)\n',
  ]


def supervise(folder, command, restarts):
  return subprocess.Popen(
    [
      sys.executable,
      '-c',
      'import sys\n'
      'from rrl_jax.train import supervisor\n'
      f'sys.exit(supervisor.run({command!r}, restarts={restarts}, pause=0.1))',
    ],
    cwd=folder,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    stderr=subprocess.PIPE,
    text=True,
  )


@pytest.mark.parametrize(
  ('ends', 'restarts', 'code', 'starts'),
  [
    ((0,), 3, 0, 1),
    ((2,), 3, 2, 1),
    ((3,), 3, 3, 1),
    ((1,), 3, 1, 1),
    ((75, -signal.SIGKILL, -signal.SIGABRT, 0), 3, 0, 4),
    ((75, 75, 75), 2, 75, 3),
    ((75, -signal.SIGKILL), 1, 137, 2),
  ],
)
def test_what_can_go_on_is_started_again(
  tmp_path, ends, restarts, code, starts
):
  process = supervise(tmp_path, child(*map(int, ends)), restarts)
  said = process.communicate(timeout=60)[1].splitlines()
  assert process.returncode == code
  assert len((tmp_path / 'starts').read_text()) == starts
  again = [line for line in said if f'of {restarts} in' in line]
  assert len(again) == starts - 1


def waiting(folder, process):
  deadline = time.monotonic() + 60
  while not (folder / 'waits').exists():
    assert time.monotonic() < deadline
    assert process.poll() is None
    time.sleep(0.01)


def test_sigterm_is_passed_on_and_is_the_end(tmp_path):
  process = supervise(tmp_path, child('wait', 0), 3)
  waiting(tmp_path, process)
  process.terminate()
  assert process.communicate(timeout=60)[1] == ''
  assert process.returncode == 75
  assert (tmp_path / 'starts').read_text() == 'x'


@pytest.mark.skipif(sys.platform != 'linux', reason='needs prctl')
def test_a_killed_supervisor_takes_its_command_along(tmp_path):
  process = supervise(tmp_path, child('wait'), 3)
  waiting(tmp_path, process)
  children = pathlib.Path(f'/proc/{process.pid}/task/{process.pid}/children')
  (pid,) = map(int, children.read_text().split())
  process.kill()
  process.communicate()
  deadline = time.monotonic() + 10
  while (
    pathlib.Path(f'/proc/{pid}/stat').exists()
    and 'Z' not in (pathlib.Path(f'/proc/{pid}/stat').read_text().split()[2])
  ):
    assert time.monotonic() < deadline
    time.sleep(0.01)


@pytest.mark.fast
def test_the_supervisor_starts_without_jax():
  done = subprocess.run(
    [
      sys.executable,
      '-c',
      'import sys\nfrom rrl_jax.train import supervisor\n'
      'sys.exit("jax" in sys.modules)',
    ],
    cwd=ROOT,
    check=False,
  )
  assert done.returncode == 0
