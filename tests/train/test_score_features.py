"""A file of features is scored into a run's folder, or nothing is written."""

import json

import numpy as np
import pytest

from configs import erm
from rrl_jax import train
from rrl_jax.errors import ConfigError, DataError


def write(path, size=40, **changes):
  rng = np.random.default_rng(0)
  labels = np.arange(size) % 3
  features = 3 * np.eye(3)[labels] + rng.random((size, 3))
  np.savez(path, **({'features': features, 'labels': labels} | changes))
  return path


def config(path, **kw):
  made = erm.get_config()
  made.features = str(path)
  made.evals.indicators = {'sweep': (0.5,), 'num_restarts': 2} | kw
  return made


def test_the_folder_holds_what_a_run_leaves(tmp_path):
  path, root = write(tmp_path / 'x.npz'), tmp_path / 'run'
  found = train.score_features(config(path), root, {'features': str(path)})
  results = json.loads((root / 'results.json').read_text())
  protocols = json.loads((root / 'protocols.json').read_text())
  assert results['indicators/kmeans_accuracy'] == 1.0
  assert results['indicators/purity.low'] < 1
  assert set(found) == set(protocols) - {'config'}
  with np.load(root / 'figures.npz') as arrays:
    assert arrays['figure/indicator_sweep'].shape == (1, 4)
  assert json.loads((root / 'config.json').read_text())['features'] == str(path)
  assert (root / 'versions.json').exists()
  again = train.score_features(config(path), root, {})
  assert again['indicators/purity'] == found['indicators/purity']


@pytest.mark.fast
def test_another_file_does_not_take_the_folder(tmp_path):
  root = tmp_path / 'run'
  train.score_features(config(write(tmp_path / 'x.npz')), root, {})
  before = (root / 'results.json').read_bytes()
  with pytest.raises(ConfigError, match='holds a run of another config'):
    train.score_features(config(write(tmp_path / 'y.npz')), root, {})
  assert (root / 'results.json').read_bytes() == before


@pytest.mark.fast
@pytest.mark.parametrize(
  ('changes', 'kw', 'error', 'message'),
  [
    ({'labels': np.zeros(40, int)}, {}, DataError, 'labels holds one class'),
    ({'labels': np.zeros(3, int)}, {}, DataError, 'labels has 3 entries'),
    ({}, {'num_clusters': 41}, DataError, 'for 41 clusters'),
    ({}, {'num_restarts': 0}, ConfigError, 'evals.indicators.num_restarts'),
    ({}, {'restarts': 3}, ConfigError, 'evals.indicators.restarts is unkn'),
  ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(
  tmp_path, changes, kw, error, message
):
  path = write(tmp_path / 'x.npz', **changes)
  with pytest.raises(error, match=message) as raised:
    train.score_features(config(path, **kw), tmp_path / 'run', {})
  assert '\n' not in str(raised.value)
  assert not (tmp_path / 'run').exists()
