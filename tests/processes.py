"""What several processes do together, and a test alone.

Processes (`tests.together`) have one device each; the test has as many of its
own. A job takes the folder and the number of devices.
"""

import pathlib

import jax
from jax.sharding import Mesh, PartitionSpec
from ml_collections import ConfigDict
import numpy as np

from configs import common, hro, indicators, simclr, thanos
from rrl_jax import losses, studies, train
from rrl_jax.studies import pool
from rrl_jax.train import sharding

STEPS = 4
POOL_EVALS = {
  'accuracy': {'train_examples': 0},
  'indicators': {
    'num_examples': 60,
    'num_train': 60,
    'max_examples': 40,
    'num_restarts': 1,
    'sweep': (0.5,),
  },
  'corruption': {
    'names': ('brightness',),
    'severities': (3,),
    'num_examples': 60,
    'resamples': 5,
  },
}


def small(config: ConfigDict, num_devices: int, **changes) -> ConfigDict:
  """A few steps of a small network on real digits."""
  config.model.kw.widths = (16,)
  config.batch_size = 16
  config.total_steps = STEPS
  config.ckpt_steps = 2
  config.log_steps = 1
  config.mesh.data = num_devices
  config.update_from_flattened_dict(changes)
  return config


def classifier(num_devices: int) -> ConfigDict:
  """Images read by each process for itself, half of them flipped."""
  config = small(hro.get_config(), num_devices)
  config.data.device_bytes = 1
  config.data.num_threads = 1
  config.data.augment.flip = True
  config.evals = {
    'accuracy': {'train_examples': 50},
    'pgd': {'epsilon': 0.1, 'num_steps': 3, 'num_examples': 30},
    'transfer': {'probes': ('linear_probe', 'knn'), 'num_train': 0},
  }
  return config


def long_run() -> ConfigDict:
  """A run that takes seconds, over all devices; for launch.py."""
  config = small(hro.get_config('erm'), -1)
  config.total_steps = 600
  config.ckpt_steps = 50
  config.log_steps = 5
  config.optim.lr = 0.01
  config.data.augment.flip = True
  config.evals = {'accuracy': {}}
  config.transfer = {}
  return config


def fit_and_judge(root: pathlib.Path, num_devices: int) -> None:
  """Jobs train and evaluate."""
  config = classifier(num_devices)
  train.train_and_evaluate(config, root / 'run', {}, quiet=True)
  if jax.process_index() == 0:
    (root / 'run' / 'results.json').rename(root / 'trained.json')
  config.job = 'evaluate'
  train.evaluate_last(config, root / 'run', {})


def contrast(root: pathlib.Path, num_devices: int) -> None:
  """Losses that compare all images of a batch, trained."""
  for name, config in (
    ('simclr', simclr.get_config()),
    ('thanos', thanos.get_config('one')),
  ):
    config = small(config, num_devices)
    config.evals = {}
    config.transfer = {}
    # Those that are slow to compile.
    for field in ('jitter', 'grayscale', 'blur', 'solarize'):
      config.data.augment[field] = 0.0
    train.train_and_evaluate(config, root / name, {}, quiet=True)


def contrast_in_a_ring(root: pathlib.Path, num_devices: int) -> None:
  """A loss that compares all images of a batch, as a ring."""
  rng = np.random.default_rng(0)
  rows = rng.normal(size=(32, 8)).astype(np.float32)
  rows /= np.linalg.norm(rows, axis=1, keepdims=True)
  labels = rng.integers(0, 4, 32)
  ids = np.arange(32) // 2
  mesh = sharding.make_mesh(num_devices)
  found = ring(mesh, rows, labels, ids)
  if jax.process_index() == 0:
    np.savez(root / 'ring.npz', **found)


def ring(mesh: Mesh, rows, labels, ids) -> dict[str, np.ndarray]:
  """A loss over the mesh and its gradient."""

  def loss(rows, labels, ids):
    return losses.supervised_contrastive(
      rows, labels, ids, temperature=0.5, axis_name='data'
    )

  split = PartitionSpec('data')
  over = jax.shard_map(loss, mesh=mesh, in_specs=split, out_specs=split)
  args = [
    sharding.put_rows(mesh, array[sharding.local_rows(mesh, 32)], 32)
    for array in (rows, labels, ids)
  ]

  def both(rows, labels, ids):
    value, pull = jax.vjp(lambda rows: over(rows, labels, ids), rows)
    return value, pull(jax.numpy.ones_like(value))[0]

  run = jax.jit(both, out_shardings=sharding.replicated(mesh))
  value, gradient = jax.device_get(run(*args))
  return {'value': value, 'gradient': gradient}


def study(root: pathlib.Path, num_devices: int) -> None:
  """Job study: one method, tuned, two seeds."""
  method = small(hro.get_config('erm'), num_devices)
  method.evals = {'accuracy': {}}
  method.transfer = {}
  config = common.base()
  config.job = 'study'
  config.study = {
    'methods': {'A': method},
    'order': ('A',),
    'grids': {'A': (('optim.lr', (0.1, 0.2)),)},
    'seeds': (0, 1),
    'tuning_seeds': (7,),
    'tuning_evals': ('accuracy',),
    'validation': 0.2,
    'select': 'test/accuracy',
    'baseline': 'A',
    'metrics': ('test/accuracy',),
  }
  studies.run(config, root / 'study', {})


def split_weights(root: pathlib.Path, num_devices: int) -> None:
  """Weights and optimizer of which each device holds a part."""
  config = small(hro.get_config('erm'), num_devices)
  config.model.kw.widths = (64,)
  config.mesh.fsdp = 512
  config.evals = {'accuracy': {}}
  config.transfer = {}
  train.train_and_evaluate(config, root / 'split', {}, quiet=True)


def pool_of_models(root: pathlib.Path, num_devices: int) -> None:
  """Job pool: three models, their indicators, their corrupted accuracy."""
  models = {}
  for width in (2, 4, 8):
    models[f'width_{width}'] = model = small(hro.get_config('erm'), num_devices)
    model.model.kw.widths = (width,)
    model.transfer = {}
  config = common.base()
  config.job = 'pool'
  config.pool = indicators.pool(models, train_only=False)
  config.pool.resamples = 20
  config.pool.evals = POOL_EVALS
  pool.run(config, root / 'pool', {})


QUICK = (fit_and_judge, contrast_in_a_ring)
ALL = (*QUICK, contrast, study, split_weights, pool_of_models)
