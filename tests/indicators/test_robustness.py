"""All indicators together."""

import numpy as np
import pytest

from rrl_jax import indicators
from rrl_jax.errors import DataError


def draw(rng, n=60, noise=0.3):
  y = np.arange(n) % 3
  return 2 * np.eye(3, 8)[y] + noise * rng.normal(size=(n, 8)), y


def softmax(v):
  e = np.exp(v - v.max(axis=1, keepdims=True))
  return e / e.sum(axis=1, keepdims=True)


def test_separated_classes_have_the_best_values(rng):
  z, y = draw(rng)
  train, train_labels = draw(rng)
  predictions = y.copy()
  predictions[:6] = (y[:6] + 1) % 3
  got = indicators.robustness_indicators(
    z,
    y,
    predictions,
    probabilities=softmax(z[:, :3]),
    weights=np.eye(8, 3),
    train_features=train,
    train_labels=train_labels,
    sweep=(0.5, 0.95),
  )
  for name in ('kmeans_accuracy', 'purity', 'multicut_accuracy', 'kmeans_ari'):
    assert got[name] == 1, name
  assert got['overlap'] < 0.01
  np.testing.assert_allclose(got['clean_accuracy'], 0.9)
  np.testing.assert_allclose(got['kmeans_accuracy_ratio'], 1 / 0.9)
  np.testing.assert_allclose(got['label_free/kmeans_accuracy'], 0.9)
  assert got['label_free/overlap'] > got['overlap']
  assert got['multicut_num_clusters'] == 3
  assert got['sweep/0.5/num_clusters'] == 3
  assert got['sweep/0.95/num_clusters'] > 3
  found = indicators.calibrate_threshold(train, train_labels)
  assert got['multicut_threshold'] == found.threshold
  names = (
    'knn_accuracy nc1 nc2_equinorm nc2_equiangular nc3 nc4 rank_me alpha_req '
    'log_me h_score calinski_harabasz mean_confidence calibration_error leep '
    'silhouette silhouette_kmeans spread relative_spread raw_purity '
    'label_free/sweep/0.5/accuracy multicut_accuracy_ratio'
  )
  assert set(names.split()) <= set(got)
  assert all(isinstance(v, float) and np.isfinite(v) for v in got.values())


@pytest.mark.fast
def test_the_same_call_gives_the_same_numbers_and_rows_may_be_drawn(rng):
  z, y = draw(rng)
  call = lambda: indicators.robustness_indicators(
    z, y, y, sweep=(), max_examples=40, num_restarts=2
  )
  got = call()
  assert got == call()
  assert got['multicut_num_examples'] == 40
  assert got['multicut_accuracy'] == 1
  assert 'mean_confidence' not in got
  assert 'nc3' not in got


@pytest.mark.fast
def test_a_ratio_is_of_two_accuracies_of_the_same_rows(rng):
  z, y = draw(rng, n=120)
  rows = np.sort(np.random.default_rng(0).choice(np.arange(120), 12, False))
  # Wrong outside of the drawn rows alone: there both accuracies are 1.
  predictions = (y + 1) % 3
  predictions[rows] = y[rows]
  call = lambda predictions: indicators.robustness_indicators(
    z,
    y,
    predictions,
    threshold=0.5,
    sweep=(),
    num_restarts=1,
    max_examples=12,
  )
  got = call(predictions)
  assert got['multicut_accuracy'] == got['multicut_accuracy_ratio'] == 1
  np.testing.assert_allclose(got['clean_accuracy'], 0.1)
  np.testing.assert_allclose(
    got['kmeans_accuracy_ratio'], got['kmeans_accuracy'] / 0.1
  )
  # Nothing is right there: no ratio, though the clean accuracy is 0.9.
  wrong = y.copy()
  wrong[rows] = (y[rows] + 1) % 3
  got = call(wrong)
  assert 'multicut_accuracy_ratio' not in got
  assert 'kmeans_accuracy_ratio' in got


@pytest.mark.fast
def test_features_that_tell_nothing_still_give_finite_numbers():
  z, y = np.ones((12, 4)), np.arange(12) % 2
  got = indicators.robustness_indicators(z, y, 1 - y, sweep=(0.5,))
  assert got['clean_accuracy'] == 0
  assert 'kmeans_accuracy_ratio' not in got
  assert 'multicut_threshold' not in got  # Nothing to calibrate it on.
  assert got['sweep/0.5/num_clusters'] == 1
  assert got['overlap'] == 1
  assert all(np.isfinite(list(got.values())))


@pytest.mark.fast
def test_bad_input_is_one_clear_line(rng):
  z, y = draw(rng)
  call = indicators.robustness_indicators
  with pytest.raises(DataError, match='labels has 59 entries, features has 60'):
    call(z, y[:-1], y)
  with pytest.raises(DataError, match='predictions has 59 entries'):
    call(z, y, y[:-1])
  with pytest.raises(DataError, match='labels has 1 class, 0'):
    call(z, 0 * y, y)
  with pytest.raises(DataError, match='60 rows, fewer than num_clusters=61'):
    call(z, y, y, num_clusters=61)
  with pytest.raises(DataError, match='train_labels is missing'):
    call(z, y, y, train_features=z)
  with pytest.raises(DataError, match='probabilities must be probabilities'):
    call(z, y, y, probabilities=z)
  bad = z.copy()
  bad[0, 0] = np.nan
  with pytest.raises(DataError, match='features has NaN or inf in 1 of 60'):
    call(bad, y, y)
  with pytest.raises(DataError, match='train_features has NaN'):
    call(z, y, y, train_features=bad, train_labels=y)
