"""A file of features is read, or refused in one line that names the array."""

import numpy as np
import pytest

from rrl_jax.errors import ConfigError, DataError
from rrl_jax.evals import feature_file

pytestmark = pytest.mark.fast


def arrays(**changes):
  rng = np.random.default_rng(0)
  made = {
    'features': rng.normal(size=(12, 3)).astype(np.float32),
    'labels': np.arange(12) % 4,
    'logits': rng.normal(size=(12, 4)),
    'train_features': rng.normal(size=(9, 3)),
    'train_labels': np.arange(9) % 4,
  } | changes
  return {name: x for name, x in made.items() if x is not None}


def test_all_arrays_come_back_and_further_ones_are_left_alone(tmp_path):
  path = tmp_path / 'x.npz'
  np.savez(path, **arrays(), robust_accuracy=0.5)
  found = feature_file.read(path)
  assert found.name == 'x.npz'
  for name, x in arrays().items():
    np.testing.assert_array_equal(getattr(found, name), x)
  assert found.features.dtype == np.float32
  assert found.labels.dtype == np.int64


def test_logits_and_training_examples_may_be_missing(tmp_path):
  path = str(tmp_path / 'x.npz')
  np.savez(path, **arrays(logits=None, train_features=None, train_labels=None))
  found = feature_file.read(path)
  assert found.logits is found.train_features is found.train_labels is None


def test_half_precision_and_integers_are_widened(tmp_path):
  path = tmp_path / 'x.npz'
  features = arrays()['features']
  half = features.astype(np.float16)
  np.savez(
    path,
    **arrays(features=half, logits=np.eye(4, dtype=int)[:1].repeat(12, axis=0)),
  )
  found = feature_file.read(path)
  assert found.features.dtype == np.float32
  assert found.logits.dtype == np.float64
  np.testing.assert_array_equal(found.features, half.astype(np.float32))


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'features': None}, "has no array 'features'; it holds labels, logits"),
    ({'labels': None}, "has no array 'labels'"),
    ({'train_labels': None}, "has 'train_features' but no 'train_labels'"),
    ({'train_features': None}, "has 'train_labels' but no 'train_features'"),
    (
      {'features': np.where(np.arange(36) == 16, np.nan, 1).reshape(12, 3)},
      'features holds NaN or inf in 1 of 12 rows, first in row 5',
    ),
    ({'logits': np.full((12, 4), np.inf)}, 'logits holds NaN or inf in 12'),
    ({'features': np.zeros(12)}, r'features has shape \(12,\), not rows'),
    ({'features': np.zeros((0, 3))}, r'features has shape \(0, 3\)'),
    ({'features': np.full((12, 3), 'a')}, 'features has dtype <U1'),
    ({'labels': np.zeros(12, int)}, 'labels holds one class, 0'),
    ({'labels': np.arange(11) % 4}, 'labels has 11 entries, features 12 rows'),
    ({'labels': np.arange(12) / 2}, 'labels has shape .* of float64'),
    ({'labels': np.eye(12, dtype=int)}, r'labels has shape \(12, 12\)'),
    ({'labels': np.arange(12)}, 'labels run from 0 to 11, logits has 4 colu'),
    ({'logits': np.zeros((11, 4))}, 'logits has 11 rows, features 12'),
    ({'train_features': np.zeros((9, 2))}, 'train_features has 2 columns'),
    ({'train_labels': np.arange(8)}, 'train_labels has 8 entries, train_fea'),
    (
      {'features': np.array([[object()]] * 12)},
      'features holds Python objects',
    ),
  ],
)
def test_a_bad_array_is_one_line_with_its_name(tmp_path, changes, message):
  path = tmp_path / 'x.npz'
  np.savez(path, **arrays(**changes))
  with pytest.raises(DataError, match=message) as error:
    feature_file.read(path)
  assert str(error.value).startswith(str(path))
  assert '\n' not in str(error.value)


def test_what_is_no_npz_file_is_one_line(tmp_path):
  missing = tmp_path / 'none.npz'
  with pytest.raises(DataError, match='none.npz does not exist'):
    feature_file.read(missing)
  text = tmp_path / 'text.npz'
  text.write_text('features')
  with pytest.raises(DataError, match='text.npz is no .npz file'):
    feature_file.read(text)
  plain = tmp_path / 'plain.npy'
  np.save(plain, np.zeros(3))
  with pytest.raises(DataError, match='plain.npy is no .npz file'):
    feature_file.read(plain)
  with pytest.raises(ConfigError, match="features='': the path of a .npz"):
    feature_file.read('')


@pytest.mark.parametrize('dtype', [np.float64, np.float16])
def test_probabilities_for_logits_are_refused(tmp_path, dtype):
  logits = arrays()['logits']
  probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
  path = tmp_path / 'x.npz'
  np.savez(path, **arrays(logits=probs.astype(dtype)))
  with pytest.raises(DataError, match='logits holds probabilities'):
    feature_file.read(path)
  # What a constant network says is no sign of it.
  np.savez(path, **arrays(logits=np.tile(np.eye(4)[:1], (12, 1))))
  assert feature_file.read(path).logits is not None
