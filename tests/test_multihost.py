"""Several processes are one run: same numbers, one end, nothing lost.

Kills, full disks, restarts and four processes belong to the full tier.
"""

import fcntl
import json
import os
import pathlib
import re
import resource
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from configs import hro
from rrl_jax import train
from rrl_jax.errors import DataError
from rrl_jax.train import experiment, loop, multihost
from rrl_jax.train.checkpoint import Checkpoints
from rrl_jax.train.workdir import Workdir
from tests import processes
from tests.launching import environment

pytestmark = pytest.mark.optimized
ROOT = pathlib.Path(__file__).parent.parent
_SPAWNED = []


def free_port():
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]


def spawn(*command):
  """A process with one CPU device."""
  process = subprocess.Popen(
    [sys.executable, *map(str, command)],
    cwd=ROOT,
    # A process that a signal ends says where it was.
    env=environment() | {'PYTHONFAULTHANDLER': '1'},
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )
  _SPAWNED.append(process)
  return process


@pytest.fixture(autouse=True)
def no_process_is_left():
  """Ends what a failed test leaves behind."""
  yield
  while _SPAWNED:
    process = _SPAWNED.pop()
    process.kill()
    if not process.stderr.closed:
      process.communicate()


def together(num_processes, root, *jobs):
  """Does jobs in so many processes; what each says is kept in the folder."""
  where = f'127.0.0.1:{free_port()}'
  started = [
    spawn('-m', 'tests.processes', where, num_processes, i, root, *jobs)
    for i in range(num_processes)
  ]
  assert_ended_well(started, root)


def assert_ended_well(started, root):
  """Fails with the last words of every process unless all return 0."""
  said = [process.communicate()[1] for process in started]
  words = []
  for i, (process, text) in enumerate(zip(started, said, strict=True)):
    (root / f'process{i}.log').write_text(text)
    words.append(f'process {i}: {ending(process.returncode)}\n{text}')
  if any(process.returncode for process in started):
    pytest.fail('\n'.join(words), pytrace=False)


def ending(code):
  """The exit code, or the name of the signal that ended a process."""
  return signal.Signals(-code).name if code < 0 else f'exit code {code}'


def losses_of(root):
  lines = (root / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line)['train/loss'] for line in lines]


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
  command = ('launch.py', f'--config={config}', f'--workdir={root}', *args)
  if num_processes == 1:
    return [spawn(*command)]
  port = free_port()
  return [
    spawn(
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
  deadline = time.monotonic() + 300
  while last_step(root) < step:
    assert time.monotonic() < deadline
    assert all(process.poll() is None for process in started)
    time.sleep(0.01)


def last_step(root):
  try:
    lines = (root / 'metrics.jsonl').read_text().splitlines()
    return json.loads(lines[-1])['step']
  except (OSError, IndexError, ValueError):
    return 0


def lost_lines(started, within):
  """What processes say that must end with 75, within seconds."""
  deadline = time.monotonic() + within
  said = [
    process.communicate(timeout=max(deadline - time.monotonic(), 0.01))[1]
    for process in started
  ]
  assert [process.returncode for process in started] == [75] * len(started)
  assert [len(text.splitlines()) for text in said] == [1] * len(started), said
  return said


def test_a_process_that_dies_leaves_its_log(tmp_path):
  dies = 'import os, sys; print("last words", file=sys.stderr, flush=True);'
  started = [
    spawn('-c', 'pass'),
    spawn('-c', dies + 'os.kill(os.getpid(), 11)'),
  ]
  with pytest.raises(pytest.fail.Exception) as error:
    assert_ended_well(started, tmp_path)
  assert 'process 0: exit code 0' in str(error.value)
  assert 'process 1: SIGSEGV\nlast words' in str(error.value)
  assert 'Fatal Python error: Segmentation fault' in str(error.value)
  assert 'last words' in (tmp_path / 'process1.log').read_text()


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
      full = request.config.getoption('--full')
      jobs = (
        tuple(processes.JOBS)
        if full
        else ('fit_and_judge', 'contrast_in_a_ring')
      )
      together(request.param, root, *jobs)
      for job in jobs:
        processes.JOBS[job](alone, request.param)
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


@pytest.mark.full
def test_a_run_goes_on_after_sigterm_a_kill_and_with_fewer_devices(tmp_path):
  root = tmp_path / 'run'
  started = launched(2, root)
  wait_for(20, root, started)
  started[1].terminate()
  said = lost_lines(started, within=60)
  assert said[0] == said[1]
  step = int(re.search(r'SIGTERM, saved at step (\d+) of 600', said[0])[1])
  assert (root / 'checkpoints' / str(step) / 'manifest.json').exists()

  started = launched(2, root)
  wait_for(step + 60, root, started)
  started[1].kill()
  (line,) = lost_lines(started[:1], within=15)
  assert 'another process was lost' in line
  started[1].communicate()

  (last,) = launched(1, root)
  assert 'cut short' not in last.communicate(timeout=300)[1]
  assert last.returncode == 0

  assert_as_uninterrupted(root)


def assert_as_uninterrupted(root, num_devices=1):
  straight = root.with_name('straight')
  config = processes.long_run()
  config.mesh.data = num_devices
  train.train_and_evaluate(config, straight, {}, quiet=True)
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
  lost.kill()
  for line in lost_lines(started, within=15):
    assert 'another process was lost' in line
  lost.communicate()


@pytest.mark.full
def test_each_process_starts_again_by_itself(tmp_path):
  root = tmp_path / 'run'
  started = launched(2, root, '--restarts=3')
  wait_for(100, root, started)
  pid = started[1].pid
  children = pathlib.Path(f'/proc/{pid}/task/{pid}/children').read_text()
  os.kill(int(children), signal.SIGKILL)
  said = [process.communicate(timeout=600)[1] for process in started]
  assert [process.returncode for process in started] == [0, 0], said
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
    started[kill % 2].kill()
    started[kill % 2].communicate()
    (line,) = lost_lines(started[1 - kill % 2 :][:1], within=15)
    assert 'another process was lost' in line
  for process in launched(2, root):
    process.communicate(timeout=600)
    assert process.returncode == 0
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
  said = [process.communicate(timeout=60)[1] for process in started]
  assert [process.returncode for process in started] == [3, 3], said
  line = r'cannot write checkpoint \d+ to .*: File too large; those before are'
  for i, text in enumerate(said):
    assert len(text.splitlines()) == 1
    found = re.search(line, text)
    assert found
    assert (f'process {full}: ' in text) == (i != full)
  assert (root / 'checkpoints' / '50' / 'manifest.json').exists()
