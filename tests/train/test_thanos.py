"""A run with coarse labels: warned, logged, probed by fine labels."""

import json

import pytest

from configs import thanos
from rrl_jax import train as train_lib
from rrl_jax.train import experiment


def tiny():
  """Two steps on 300 random images of two coarse classes."""
  config = thanos.get_config()
  config.data.name = 'mock'
  config.data.kw.num_examples = 300
  config.data.kw.num_classes = 4
  config.data.kw.image_shape = (4, 4, 1)
  config.data.coarse = 'low=0-1 high=2-3'
  config.data.augment.resized_crop = 0  # Which compiles long.
  config.data.augment.flip = True
  config.data.augment.jitter = 0.0
  config.model.kw.widths = (8,)
  config.objective.kw.alpha = 0.1
  config.batch_size = 32
  config.total_steps = config.ckpt_steps = 2
  config.mesh.data = 1
  config.evals = {
    'coarse_to_fine': {},
    'reconstruction': {'num_examples': 8, 'num_pictures': 4},
  }
  return config


@pytest.mark.fast
def test_classes_that_would_collapse_are_told_before_training():
  (remark,) = experiment.build(tiny()).objective.remarks(32)
  assert 'objective.kw.alpha=0.1 lies below 0.425' in remark
  config = tiny()
  config.objective.kw.alpha = 0.5
  assert not experiment.build(config).objective.remarks(32)


def test_a_run_is_warned_logged_and_probed(tmp_path, capsys):
  found = train_lib.train_and_evaluate(tiny(), tmp_path, {}, quiet=True)
  (warning,) = capsys.readouterr().err.splitlines()
  assert 'objective.kw.alpha=0.1 lies below 0.425' in warning
  lines = [
    json.loads(line)
    for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()
  ]
  assert {
    'train/cross_entropy',
    'train/supervised',
    'train/class_conditional',
    'train/reconstruction',
    'train/class_spread',
    'train/class_spread/low',
    'train/class_spread/high',
    'train/within_cosine',
    'train/between_cosine',
    'train/total_collapse',
  } <= set(lines[-1])
  assert {
    'coarse_to_fine/linear_probe_accuracy',
    'reconstruction/error',
  } <= set(found)
