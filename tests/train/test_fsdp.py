"""Weights that are split over the devices are trained like copies of them."""

import shutil

import jax
import numpy as np
import pytest

from configs import erm
from rrl_jax import train
from rrl_jax.errors import ConfigError
from rrl_jax.train import aot, experiment, loop, metrics, sharding
from rrl_jax.train import workdir as workdir_lib


def config_of(fsdp, **changes):
  """A few steps on two devices; matrices of ``fsdp`` numbers are split."""
  config = erm.get_config('digits')
  config.mesh.data = 2
  config.model.kw.widths = (32, 64)
  config.data.imbalance = ''
  config.optim.ema_decay = 0.9
  config.optim.momentum = 0.9
  config.optim.lr = 0.01
  config.optim.schedule = 'constant'  # Whatever the number of steps.
  config.batch_size = 16
  config.total_steps = 6
  config.ckpt_steps = 3
  config.evals = {'accuracy': {'train_examples': 0}}
  config.transfer = {}
  config.mesh.fsdp = fsdp
  config.update(changes)
  return config


@pytest.fixture(scope='module')
def copied(tmp_path_factory):
  return run(config_of(0), tmp_path_factory.mktemp('copied'))


def run(config, root):
  """The folder and the state after the last step."""
  built = experiment.build(config)
  state = loop.train(built, workdir_lib.Workdir(root), quiet=True)
  return root, built, state


@pytest.fixture(scope='module')
def split(tmp_path_factory):
  return run(config_of(1024), tmp_path_factory.mktemp('split'))


def assert_close(state, other):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5),
    jax.device_get(state),
    jax.device_get(other),
  )


def test_devices_with_parts_take_the_same_steps(copied, split):
  assert_close(copied[2], split[2])
  kernels = [p for p in jax.tree.leaves(split[2].params) if p.size >= 1024]
  assert kernels
  for kernel in kernels:
    assert kernel.addressable_shards[0].data.size == kernel.size // 2
  copies = train.evaluate_last(config_of(0), copied[0], {})
  found = train.evaluate_last(config_of(1024), split[0], {})
  key = 'test/accuracy'
  assert found[key].value == pytest.approx(copies[key].value, abs=0.01)


@pytest.mark.full
def test_eight_devices_take_the_same_steps(copied, tmp_path):
  config = config_of(1024)
  config.mesh.data = 8
  _, _, state = run(config, tmp_path)
  assert_close(copied[2], state)
  for kernel in jax.tree.leaves(state.params):
    if kernel.size >= 1024:
      assert kernel.addressable_shards[0].data.size == kernel.size // 8


@pytest.mark.parametrize('fsdp', [0, 1024])
def test_checkpoints_move_between_both(copied, split, tmp_path, fsdp):
  begun, _, _ = split if fsdp == 0 else copied
  shutil.copytree(begun / 'checkpoints' / '3', tmp_path / 'checkpoints' / '3')
  _, _, state = run(config_of(fsdp), tmp_path)
  assert_close(copied[2], state)
  assert int(state.step) == 6
  # It did go on, instead of beginning anew.
  steps = [line['step'] for line in metrics.read(tmp_path / 'metrics.jsonl')]
  assert min(steps) > 3


def test_a_device_holds_less():
  held = {}
  for fsdp in (0, 1024):
    built = experiment.build(config_of(fsdp))
    args = aot.arguments(built)
    compiled = loop.jit_step(built).lower(*args).compile()
    held[fsdp] = compiled.memory_analysis().argument_size_in_bytes
    if not fsdp:
      size = sum(
        leaf.size * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(args[0])
        if leaf.size >= 1024
      )
  assert held[1024] == held[0] - size // 2


@pytest.mark.fast
def test_an_array_is_split_along_its_longest_even_axis(mesh):
  shape = lambda *dims: tuple(sharding._split_evenly(mesh, dims, 64).spec)
  assert shape(16, 64) == (None, 'data')
  assert shape(64, 9) == ('data',)
  assert shape(3, 3, 16, 8) == (None, None, 'data')
  assert shape(9, 9) == ()
  assert shape(8) == ()


@pytest.mark.fast
def test_a_negative_size_is_refused():
  with pytest.raises(ConfigError, match=r'mesh\.fsdp=-1'):
    experiment.check(config_of(-1))
