"""A run that was stopped, however, ends where an uninterrupted one does."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
from ml_collections import ConfigDict
import numpy as np
import pytest

from configs import hro
from rrl_jax.errors import ConfigError, DataError, DivergedError, StoppedError
from rrl_jax.train import experiment, loop
from rrl_jax.train.workdir import Workdir
from tests.launching import Command, environment

ROOT = pathlib.Path(__file__).parent.parent


pytestmark = pytest.mark.optimized


def tiny(**changes) -> ConfigDict:
  """HRO on a handful of random images, an MLP, no evaluation."""
  config = hro.get_config()
  config.data.name = 'mock'
  config.data.kw.num_examples = 100
  config.data.kw.num_classes = 3
  config.data.kw.image_shape = (4, 4, 1)
  config.data.classes = ''
  config.data.concepts = 'class'
  config.data.augment.flip = True
  config.model.kw.widths = (8,)
  config.optim.ema_decay = 0.9
  config.objective.kw.radius = 0.05
  config.batch_size = 8
  config.total_steps = 6
  config.ckpt_steps = 2
  config.log_steps = 1
  config.mesh.data = 1
  config.evals = {}
  config.transfer = {}
  config.update_from_flattened_dict(changes)
  return config


def train(config, root, quiet=True):
  built = experiment.build(config)
  workdir = Workdir(root)
  workdir.check_owner(config)
  workdir.claim(config, {})
  return loop.train(built, workdir, quiet=quiet)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """``(state, folder)`` of `tiny`, trained to its end."""
  root = tmp_path_factory.mktemp('finished') / 'run'
  return train(tiny(), root), root


@pytest.fixture
def copied(finished, tmp_path):
  """``(state, folder)`` as `finished`, the folder to be damaged."""
  state, root = finished
  return state, shutil.copytree(root, tmp_path / 'copied')


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def steps_logged(root):
  lines = (root / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line)['step'] for line in lines]


def test_resumed_equals_uninterrupted_bit_for_bit(copied):
  straight, root = copied
  # The schedule depends on the length: stop by removing the last checkpoints.
  for step in (4, 6):
    shutil.rmtree(root / 'checkpoints' / str(step))
  resumed = train(tiny(), root)
  assert_equal(straight, resumed)
  assert steps_logged(root) == [1, 2, 3, 4, 5, 6]


def test_a_longer_run_goes_on_from_the_end(copied):
  _, root = copied
  state = train(tiny(total_steps=9), root)
  assert int(state.step) == 9
  assert steps_logged(root) == list(range(1, 10))


def test_a_shorter_run_is_done(copied):
  _, root = copied
  assert int(train(tiny(total_steps=3), root).step) == 6


def test_a_resident_set_and_a_streamed_one_train_alike(finished, tmp_path):
  straight, _ = finished
  other = train(tiny(**{'data.device_bytes': 1}), tmp_path)
  assert_equal(straight.params, other.params)


def test_a_run_goes_on_with_another_number_of_devices(copied):
  straight, root = copied
  for step in (4, 6):
    shutil.rmtree(root / 'checkpoints' / str(step))
  resumed = train(tiny(**{'mesh.data': 4}), root)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    jax.device_get(straight),
    jax.device_get(resumed),
  )


def test_the_adversary_is_saved_with_the_state(finished):
  state, root = finished
  built = experiment.build(tiny())
  with loop.open_checkpoints(built, Workdir(root)) as saved:
    restored = saved.restore(built.abstract_state())
  assert_equal(state.aux_state, restored.aux_state)
  assert not np.allclose(state.aux_state['concept_probs'], 1 / 3, atol=1e-6)


@pytest.mark.fast
def test_a_folder_is_owned_by_its_config_however_long_it_trains(tmp_path):
  workdir = Workdir(tmp_path)
  workdir.claim(tiny(), {})
  (workdir.checkpoints / '2').mkdir(parents=True)
  workdir.check_owner(tiny(total_steps=9, ckpt_steps=1))
  with pytest.raises(ConfigError, match=r'seed is 0 there, 1 here'):
    workdir.check_owner(tiny(seed=1))


def test_another_config_is_refused_before_any_work(copied):
  _, root = copied
  before = sorted(p.name for p in root.rglob('*'))
  with pytest.raises(ConfigError, match=r'optim.lr is 0.05 there, 0.5 here'):
    train(tiny(**{'optim.lr': 0.5}), root)
  assert sorted(p.name for p in root.rglob('*')) == before


def test_a_checkpoint_carried_in_from_another_run_is_refused(
  finished, tmp_path
):
  _, other = finished
  train(tiny(seed=1), tmp_path)
  shutil.rmtree(tmp_path / 'checkpoints')
  shutil.copytree(other / 'checkpoints', tmp_path / 'checkpoints')
  with pytest.raises(DataError, match='another config'):
    train(tiny(seed=1), tmp_path)


def test_a_torn_last_line_of_metrics_is_dropped(copied):
  _, root = copied
  with (root / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 7, "tim')
  train(tiny(total_steps=8), root)
  assert steps_logged(root) == list(range(1, 9))


def test_a_loss_that_is_not_finite_stops_and_keeps_what_was_good(tmp_path):
  train(tiny(total_steps=2), tmp_path)
  built = experiment.build(tiny(total_steps=4))
  healthy = built.step
  poisoned = lambda state, batch: healthy(
    state.replace(params=jax.tree.map(lambda x: x * np.nan, state.params)),
    batch,
  )
  built = dataclasses.replace(built, step=poisoned)
  with pytest.raises(DivergedError, match='loss is nan at step 3'):
    loop.train(built, Workdir(tmp_path), quiet=True)
  with loop.open_checkpoints(built, Workdir(tmp_path)) as saved:
    assert saved.steps() == [2]


def test_sigterm_saves_and_asks_to_be_resumed(finished, tmp_path):
  straight, _ = finished
  built = experiment.build(tiny(ckpt_steps=100))
  seen = []

  def interrupted(step):
    def wrapped(*args):
      seen.append(None)
      if len(seen) == 3:
        os.kill(os.getpid(), signal.SIGTERM)
      return step(*args)

    return wrapped

  batches = loop.read_batches
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      loop,
      'read_batches',
      lambda *args, **kw: map(interrupted(lambda b: b), batches(*args, **kw)),
    )
    workdir = Workdir(tmp_path / 'run')
    workdir.claim(tiny(), {})
    with pytest.raises(StoppedError, match='saved at step 3 of 6') as error:
      loop.train(built, workdir, quiet=True)
  assert error.value.exit_code == 75
  assert_equal(straight, train(tiny(), tmp_path / 'run'))


def last_step(root):
  try:
    return steps_logged(root)[-1]
  except (OSError, IndexError, ValueError):
    return 0


def wait_for(step, root, command):
  """Until that step is logged, or the command has ended."""
  while last_step(root) < step and not command.ended():
    time.sleep(0.002)


def final_state(root):
  """The last checkpoint of a run."""
  config = ConfigDict(json.loads((root / 'config.json').read_text()))
  built = experiment.build(config)
  with loop.open_checkpoints(built, Workdir(root)) as saved:
    return saved.restore(built.abstract_state())


def assert_same_run(root, straight):
  assert_equal(final_state(straight), final_state(root))
  steps = steps_logged(root)
  assert steps == sorted(set(steps))
  assert steps == steps_logged(straight)
  results = [
    json.loads((folder / 'results.json').read_text())
    for folder in (root, straight)
  ]
  assert results[0] == results[1]


@pytest.fixture
def long_config(tmp_path):
  """A config file of a run that takes some seconds."""
  path = tmp_path / 'long.py'
  path.write_text(
    'from tests import test_resume\n\n\n'
    'def get_config(arg=None):\n'
    '  return test_resume.tiny(\n'
    '    total_steps=600, ckpt_steps=20, log_steps=5,\n'
    "    evals={'accuracy': {}},\n"
    '  )\n'
  )
  return path


def test_sigterm_exits_75_and_neither_it_nor_a_kill_changes_a_bit(
  tmp_path, long_config
):
  root, straight = tmp_path / 'run', tmp_path / 'straight'
  done = Command(f'--config={long_config}', f'--workdir={straight}').wait()
  assert (done.returncode, done.stderr) == (0, '')
  command = f'--config={long_config}', f'--workdir={root}'

  first = Command(*command)
  wait_for(50, root, first)
  first.send(signal.SIGTERM)
  stopped = first.wait()
  assert stopped.returncode == 75
  assert len(stopped.stderr.splitlines()) == 1
  assert 'saved at step' in stopped.stderr

  second = Command(*command)
  wait_for(last_step(root) + 30, root, second)
  second.send(signal.SIGKILL)
  assert second.wait().returncode == -signal.SIGKILL
  assert last_step(root) < 600

  last = Command(*command).wait()
  assert last.returncode == 0
  assert_same_run(root, straight)


KILLED = {'total_steps': 3000, 'ckpt_steps': 100, 'log_steps': 10}


@pytest.mark.full
def test_ten_kills_at_random_moments_change_no_bit(tmp_path):
  root, straight = tmp_path / 'killed', tmp_path / 'straight'
  args = [
    '--config=configs/hro.py',
    *(f'--config.{name}={value}' for name, value in KILLED.items()),
  ]
  uninterrupted = Command(*args, f'--workdir={straight}')
  rng = np.random.default_rng(0)
  kills = 0
  for step in np.sort(rng.integers(10, 2800, size=10)):
    command = Command(*args, f'--workdir={root}')
    wait_for(step, root, command)
    time.sleep(rng.uniform(0, 0.1))
    if not command.ended():
      command.send(signal.SIGKILL)
      kills += 1
    command.wait()
  assert kills == 10
  last = Command(*args, f'--workdir={root}').wait(300)
  # A kill may hit the saving of a checkpoint, which the next run then names.
  said = last.stderr.splitlines()
  assert all('so its saving was cut short; using' in line for line in said)
  assert last.returncode == 0
  done = uninterrupted.wait(300)
  assert (done.returncode, done.stderr) == (0, '')
  assert_same_run(root, straight)


def test_a_run_goes_on_past_a_damaged_checkpoint(copied, capfd):
  straight, root = copied
  for step in (4, 6):
    (root / 'checkpoints' / str(step) / 'manifest.json').unlink()
  assert_equal(straight, train(tiny(ckpt_steps=3), root))
  assert 'checkpoint 6 is unreadable' in capfd.readouterr().err


def wide(**changes):
  return tiny(**{'model.kw.widths': (128, 128)} | changes)


def test_a_full_disk_ends_with_one_line_and_harms_nothing(tmp_path):
  root = tmp_path / 'run'
  train(wide(), root)
  config = tmp_path / 'longer.py'
  config.write_text(
    'from tests import test_resume\n\n\n'
    'def get_config(arg=None):\n'
    '  return test_resume.wide(total_steps=9)\n'
  )
  # No file may grow beyond 16 KiB: writing fails as it does without space.
  launch = f'launch.py --config={config} --workdir={root}'
  done = subprocess.run(
    ['bash', '-c', f'ulimit -f 16; exec {sys.executable} {launch}'],
    cwd=ROOT,
    env=environment() | {'JAX_ENABLE_COMPILATION_CACHE': 'false'},
    capture_output=True,
    text=True,
    check=False,
  )
  assert len(done.stderr.splitlines()) == 1, done.stderr
  assert f'cannot write checkpoint 8 to {root}' in done.stderr
  assert 'File too large; those before are intact' in done.stderr
  assert done.returncode == 3
  spared = tmp_path / 'spared'
  train(wide(), spared)
  straight = train(wide(total_steps=9), spared)
  assert_equal(straight, train(wide(total_steps=9), root))
  assert steps_logged(root) == list(range(1, 10))


def test_weights_that_overflow_are_not_saved(tmp_path):
  config = tiny(**{'optim.lr': 1e38, 'optim.grad_clip_norm': 0.0})
  with pytest.raises(DivergedError, match='step'):
    train(config, tmp_path)
  assert not list(tmp_path.rglob('manifest.json'))
