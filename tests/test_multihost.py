"""Several processes are one run: same numbers, one end, nothing lost.

The default tier has two processes that train, evaluate, stop and are lost. Four
of them, studies, restarts, full disks and kills while saving are in the full
tier.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import resource
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from configs import hro
from rrl_jax.errors import DataError
from rrl_jax.train import experiment, loop, multihost
from rrl_jax.train.checkpoint import Checkpoints
from rrl_jax.train.workdir import Workdir
from tests import processes, together
from tests.launching import Command, environment

ROOT = pathlib.Path(__file__).parent.parent
GIVE_UP = 900  # Seconds after which something hangs, on any machine.
_STARTED = []


def start(*args, **env):
  """Starts launch.py, until the end of the test at most."""
  _STARTED.append(Command(*args, **env))
  return _STARTED[-1]


def finish(*started):
  """Waits for the ends of started ones; returns what `Command.wait` does."""
  for command in started:
    _STARTED.remove(command)
  return [command.wait(GIVE_UP) for command in started]


@pytest.fixture(autouse=True)
def no_process_is_left():
  """Ends what a failed test leaves behind."""
  yield
  while _STARTED:
    command = _STARTED.pop()
    command.send(signal.SIGKILL)
    command.wait()


def do_together(num_processes, root, *jobs):
  """Does jobs in so many processes; what each says is kept in the folder."""
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'tests.together', str(num_processes), root),
      jobs[0].__module__,
      *(job.__name__ for job in jobs),
    ],
    cwd=ROOT,
    env=environment() | {'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'},
    stdout=subprocess.PIPE,
    check=True,
    timeout=GIVE_UP,
  )
  assert_ended(
    [0] * num_processes,
    json.loads(done.stdout),
    [(root / f'process{i}.log').read_text() for i in range(num_processes)],
  )


def assert_ended(expected, codes, logs):
  """Fails with what all processes said, if not all ended as expected."""
  if codes != expected:
    ends = zip(codes, logs, strict=True)
    lines = [f'process {i}: {end(c)}\n{log}' for i, (c, log) in enumerate(ends)]
    pytest.fail('\n'.join(lines), pytrace=False)


def end(code):
  """The exit code, or the name of the signal that ended a process."""
  return signal.Signals(-code).name if code < 0 else f'exit code {code}'


def errors_of(expected, *started):
  """What processes say on stderr, which must end with these codes."""
  done = finish(*started)
  codes = [process.returncode for process in done]
  assert_ended(expected, codes, [p.stdout + p.stderr for p in done])
  return [process.stderr for process in done]


def error_lines(expected, *started):
  """The same where each says one line."""
  said = errors_of(expected, *started)
  assert [len(text.splitlines()) for text in said] == [1] * len(said), said
  return said


def metrics_of(root):
  return (root / 'metrics.jsonl').read_text().splitlines()


def losses_of(root):
  return [json.loads(line)['train/loss'] for line in metrics_of(root)]


def final_state(config, root):
  built = experiment.build(config)
  with loop.open_checkpoints(built, Workdir(root)) as saved:
    return jax.device_get(saved.restore(built.abstract_state()))


def assert_close(a, b, rtol=1e-5):
  """Equal up to the order in which devices are summed."""
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6), a, b
  )


def launched(num_processes, root, *args):
  """The processes of a long run in a folder."""
  config = root.with_name('long_run.py')
  config.write_text(
    'from tests import processes\n\n\n'
    'def get_config(arg=None):\n  return processes.long_run()\n'
  )
  command = (f'--config={config}', f'--workdir={root}', *args)
  if num_processes == 1:
    return [start(*command)]
  port = together.free_port()
  return [
    start(
      *command,
      '--multihost',
      f'--coordinator=127.0.0.1:{port}',
      f'--num_processes={num_processes}',
      f'--process_id={i}',
    )
    for i in range(num_processes)
  ]


def wait_for(step, root, started):
  """Until that step is logged."""
  deadline = time.monotonic() + GIVE_UP
  while last_step(root) < step:
    assert time.monotonic() < deadline
    if any(process.ended() for process in started):
      errors_of(['still running'] * len(started), *started)
    time.sleep(0.01)


def last_step(root):
  try:
    return json.loads(metrics_of(root)[-1])['step']
  except (OSError, IndexError, ValueError):
    return 0


def assert_notice_the_loss(started):
  """All end with 75 within 15 seconds, and say why on one line.

  Seconds in which they could have run and had no core do not count: what else
  a machine does is not theirs to promise.
  """
  begun, before = time.monotonic(), seconds_without_core(started)
  without = dict(before)
  while not all(process.ended() for process in started):
    assert time.monotonic() - begun < GIVE_UP
    time.sleep(0.05)
    without |= seconds_without_core(started)
  took = time.monotonic() - begun
  waited = sum(seconds - before.get(i, 0) for i, seconds in without.items())
  for line in error_lines([75] * len(started), *started):
    assert 'another process was lost' in line
  assert took - waited < 15


def seconds_without_core(started):
  """By thread, how long it waited for a core so far, as Linux counts it."""
  found = {}
  for process in started:
    for path in pathlib.Path(f'/proc/{process.pid}/task').glob('*/schedstat'):
      with contextlib.suppress(OSError):  # It has ended.
        found[path.parent.name] = int(path.read_text().split()[1]) / 1e9
  return found


def test_a_process_that_dies_leaves_its_log(tmp_path):
  with pytest.raises(pytest.fail.Exception) as error:
    do_together(2, tmp_path, together.die)
  message = str(error.value)
  assert re.search(
    'process 0: exit code 75\n(.*\n)*.*process was lost', message
  )
  assert 'process 1: SIGSEGV\nlast words' in message
  assert 'Fatal Python error: Segmentation fault' in message
  assert 'in die\n' in message
  assert 'last words' in (tmp_path / 'process1.log').read_text()


def test_no_process_dies_of_listening_at_its_end(tmp_path):
  do_together(4, tmp_path, together.listen_without_pause)


@pytest.fixture(
  scope='module',
  params=[2, pytest.param(4, marks=pytest.mark.full)],
)
def folders(request, tmp_path_factory, worker_id):
  """``(number, folder of so many processes, folder of one)``."""
  everyones = tmp_path_factory.getbasetemp()
  if worker_id != 'master':
    everyones = everyones.parent
  root = everyones / f'together{request.param}'
  alone = everyones / f'alone{request.param}'
  # The first of pytest's workers makes them, for all.
  with (everyones / f'lock{request.param}').open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not root.exists():
      root.mkdir()
      alone.mkdir()
      chosen = (
        processes.ALL if request.config.getoption('--full') else processes.QUICK
      )
      do_together(request.param, root, *chosen)
      for job in chosen:
        job(alone, request.param)
      (root / 'done').touch()
    if not (root / 'done').exists():
      pytest.fail('the worker that came first says what is wrong')
  return request.param, root, alone


def test_processes_train_the_same_weights_and_save_them(folders):
  number, root, alone = folders
  config = processes.classifier(number)
  assert_close(losses_of(root / 'run'), losses_of(alone / 'run'))
  assert_close(
    final_state(config, root / 'run'), final_state(config, alone / 'run')
  )


@pytest.mark.parametrize('file', ['trained.json', 'run/results.json'])
def test_processes_measure_the_same(folders, file):
  _, root, alone = folders
  found, expected = (
    json.loads((folder / file).read_text()) for folder in (root, alone)
  )
  assert found.keys() == expected.keys()
  assert 'transfer/linear_probe_accuracy' in found
  assert_close(found, expected)


@pytest.mark.full
@pytest.mark.parametrize('name', ['simclr', 'thanos'])
def test_processes_contrast_the_images_of_all(folders, name):
  _, root, alone = folders
  assert_close(losses_of(root / name), losses_of(alone / name))


def test_a_ring_of_processes_gives_the_loss_of_one(folders):
  _, root, alone = folders
  with np.load(root / 'ring.npz') as a, np.load(alone / 'ring.npz') as b:
    assert_close(dict(a), dict(b))
    assert np.abs(a['gradient']).max() > 1e-3


def test_sigterm_stops_all_at_one_step_and_a_kill_is_noticed(tmp_path):
  root = tmp_path / 'run'
  endless = '--config.total_steps=1000000', '--config.ckpt_steps=1000000'
  started = launched(2, root, *endless)
  wait_for(20, root, started)
  started[1].send(signal.SIGTERM)
  a, b = error_lines([75, 75], *started)
  assert a == b
  step = int(re.search(r'SIGTERM, saved at step (\d+) of 1000000', a)[1])
  assert (root / 'checkpoints' / str(step) / 'manifest.json').exists()

  started = launched(2, root, *endless)
  wait_for(step + 20, root, started)
  started[1].send(signal.SIGKILL)
  assert_notice_the_loss(started[:1])
  assert finish(started[1])[0].returncode == -signal.SIGKILL
  steps = [json.loads(line)['step'] for line in metrics_of(root)]
  assert steps == [1, *range(5, steps[-1] + 1, 5)]


@pytest.mark.fast
def test_who_stops_last_says_that_all_have_saved(monkeypatch):
  """The first to leave may take the coordinator with it."""

  class Said(BaseException):
    pass

  def gone(*args):
    raise jax.errors.JaxRuntimeError('UNAVAILABLE: connection closed')

  def abandon(line):
    raise Said(line)

  monkeypatch.setattr(multihost, 'abandon', abandon)
  process = multihost._Together.__new__(multihost._Together)
  process._ending, process._last_words = False, 'saved at step 40'
  process._all_idle, process._meet = lambda number: True, gone
  with pytest.raises(Said, match='saved at step 40'):
    process._stop_together()


@pytest.mark.full
def test_a_run_goes_on_after_sigterm_a_kill_and_with_fewer_devices(tmp_path):
  root = tmp_path / 'run'
  started = launched(2, root)
  wait_for(20, root, started)
  started[1].send(signal.SIGTERM)
  line, _ = error_lines([75, 75], *started)
  step = int(re.search(r'saved at step (\d+) of 600', line)[1])

  started = launched(2, root)
  wait_for(step + 60, root, started)
  started[1].send(signal.SIGKILL)
  assert_notice_the_loss(started[:1])
  finish(started[1])

  (said,) = errors_of([0], *launched(1, root))
  assert 'cut short' not in said
  assert_as_uninterrupted(root)


def assert_as_uninterrupted(root, num_devices=1):
  straight = root.with_name('straight')
  devices = f'--xla_force_host_platform_device_count={num_devices}'
  errors_of(
    [0],
    start(
      f'--config={root.with_name("long_run.py")}',
      f'--workdir={straight}',
      XLA_FLAGS=devices,
    ),
  )
  config = processes.long_run()
  config.mesh.data = num_devices
  # A batch in another place of the data would show at once.
  assert_close(losses_of(root), losses_of(straight), rtol=1e-3)
  assert_close(
    final_state(config, root), final_state(config, straight), rtol=1e-3
  )


GLOO = (
  'UNKNOWN: Gloo AllGather failed: Read error [127.0.0.1]:1: Connection reset'
)


@pytest.mark.fast
def test_a_part_of_a_checkpoint_that_never_comes_means_a_lost_process():
  error = TimeoutError('completed 2/3 futures but timed out after 8 seconds')
  assert 'another process was lost' in multihost.lost(error)


@pytest.mark.fast
@pytest.mark.parametrize('kind', [ValueError, jax.errors.JaxRuntimeError])
def test_a_collective_that_fails_means_a_lost_process(kind):
  assert 'another process was lost' in multihost.lost(kind(GLOO))
  wrapped = RuntimeError('saving failed')
  wrapped.__cause__ = kind(GLOO)
  assert 'another process was lost' in multihost.lost(wrapped)


@pytest.mark.parametrize(
  'error',
  [
    ValueError('connection=gloo; known: tcp'),
    DataError('UNKNOWN: Gloo in a file of ours'),
    OSError(28, 'No space left on device'),
    TimeoutError(110, 'Connection timed out'),  # Of a network file system.
    jax.errors.JaxRuntimeError('INTERNAL: bad program'),
  ],
)
@pytest.mark.fast
def test_other_errors_do_not(error):
  assert multihost.lost(error) is None


def test_a_save_that_another_process_breaks_is_no_full_disk(
  tmp_path, monkeypatch
):
  config = processes.small(hro.get_config('erm'), 1)
  built = experiment.build(config)
  state = built.init(jax.random.key(0))

  def fails(*args, **kwargs):
    raise ValueError(GLOO)

  with Checkpoints(tmp_path, 'a', 1) as saved:
    monkeypatch.setattr(saved._orbax, 'save_checkpointables', fails)
    with pytest.raises(ValueError, match='Gloo') as caught:
      saved.save(state)
  assert multihost.lost(caught.value)


@pytest.mark.full
@pytest.mark.parametrize('victim', [0, 2])
def test_all_others_hear_of_the_loss_of_one(tmp_path, victim):
  root = tmp_path / 'run'
  started = launched(4, root)
  wait_for(20, root, started)
  lost = started.pop(victim)
  lost.send(signal.SIGKILL)
  assert_notice_the_loss(started)


@pytest.mark.full
def test_each_process_starts_again_by_itself(tmp_path):
  root = tmp_path / 'run'
  started = launched(2, root, '--restarts=3')
  wait_for(100, root, started)
  pid = started[1].pid
  children = pathlib.Path(f'/proc/{pid}/task/{pid}/children').read_text()
  os.kill(int(children), signal.SIGKILL)
  said = errors_of([0, 0], *started)
  assert 'restart 1 of 3' in said[0]
  assert 'SIGKILL; restart 1 of 3' in said[1]
  assert_as_uninterrupted(root, num_devices=2)


@pytest.mark.full
def test_kills_while_saving_lose_nothing_that_was_saved(tmp_path):
  root = tmp_path / 'run'
  rng = np.random.default_rng(0)
  often = '--config.ckpt_steps=3'
  for kill in range(6):
    started = launched(2, root, often)
    wait_for(last_step(root) // 5 * 5 + 20, root, started)
    time.sleep(rng.uniform(0, 0.3))
    started[kill % 2].send(signal.SIGKILL)
    assert_notice_the_loss([started[1 - kill % 2]])
    finish(started[kill % 2])
  errors_of([0, 0], *launched(2, root))
  assert_as_uninterrupted(root, num_devices=2)


@pytest.mark.full
def test_processes_do_a_study_as_one_does(folders):
  _, root, alone = folders
  found, expected = (
    json.loads((folder / 'study' / 'table.json').read_text())
    for folder in (root, alone)
  )
  assert found['chosen'] == expected['chosen']
  assert_close(found['results'], expected['results'])


@pytest.mark.full
def test_processes_split_the_weights_as_devices_do(folders):
  _, root, alone = folders
  assert_close(losses_of(root / 'split'), losses_of(alone / 'split'))
  found, expected = (
    json.loads((folder / 'split' / 'results.json').read_text())
    for folder in (root, alone)
  )
  assert_close(found, expected)


@pytest.mark.full
def test_processes_do_a_pool_as_one_does(folders):
  _, root, alone = folders
  found, expected = (
    json.loads((folder / 'pool' / 'table.json').read_text())['models']
    for folder in (root, alone)
  )
  assert found.keys() == expected.keys()
  for name, model in expected.items():
    results = found[name]['results']
    assert results.keys() == model['results'].keys()
    assert 'indicators/kmeans_accuracy' in results
    assert_close(results, model['results'], rtol=1e-4)


@pytest.mark.full
@pytest.mark.parametrize('full', [0, 1])
def test_a_disk_that_is_full_for_one_ends_all_and_harms_nothing(tmp_path, full):
  root = tmp_path / 'run'
  started = launched(2, root, '--config.model.kw.widths=(256,256)')
  wait_for(60, root, started)
  # No file of that process may grow beyond 16 KiB.
  pid = started[full].pid
  _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
  resource.prlimit(pid, resource.RLIMIT_FSIZE, (16_384, hard))
  line = r'cannot write checkpoint \d+ to .*: File too large; those before are'
  for i, text in enumerate(error_lines([3, 3], *started)):
    assert re.search(line, text)
    assert (f'process {full}: ' in text) == (i != full)
  assert (root / 'checkpoints' / '50' / 'manifest.json').exists()
