"""Scores of a clustering against scikit-learn, enumeration and closed forms."""

import itertools

import numpy as np
import pytest
from sklearn import metrics

from rrl_jax import indicators
from rrl_jax.errors import DataError


def best_by_enumeration(a, y):
  """Accuracy over all injective maps of the smaller side to the larger."""
  table = indicators.contingency(a, y)
  if len(table) > table.shape[1]:
    table = table.T
  return max(
    sum(table[k, c] for k, c in enumerate(image))
    for image in itertools.permutations(range(table.shape[1]), len(table))
  ) / len(a)


@pytest.mark.fast
@pytest.mark.parametrize(('clusters', 'classes'), [(4, 4), (3, 5), (6, 3)])
def test_scores_equal_their_references(rng, clusters, classes):
  for _ in range(5):
    a = rng.integers(0, clusters, size=40)
    y = rng.integers(0, classes, size=40)
    assert indicators.clustering_accuracy(a, y) == best_by_enumeration(a, y)
    np.testing.assert_allclose(
      indicators.normalized_mutual_information(a, y),
      metrics.normalized_mutual_info_score(y, a),
      atol=1e-12,
    )
    np.testing.assert_allclose(
      indicators.adjusted_rand_index(a, y),
      metrics.adjusted_rand_score(y, a),
      atol=1e-12,
    )
    majority = sum(np.bincount(y[a == k]).max() for k in np.unique(a))
    assert indicators.purity(a, y) == majority / 40


SCORES = [
  indicators.clustering_accuracy,
  indicators.purity,
  indicators.normalized_mutual_information,
  indicators.adjusted_rand_index,
]


@pytest.mark.fast
@pytest.mark.parametrize('score', SCORES)
def test_names_of_clusters_do_not_matter(rng, score):
  y = rng.integers(0, 5, size=60)
  names = np.array([7, -3, 100, 0, 12])
  np.testing.assert_allclose(score(names[y], y), 1, rtol=1e-12)
  a = rng.integers(0, 5, size=60)
  np.testing.assert_allclose(score(names[a], y), score(a, y), rtol=1e-12)


@pytest.mark.fast
def test_surplus_clusters_are_errors_to_accuracy_and_none_to_purity():
  y = np.repeat([0, 1], 10)
  singletons = np.arange(20)
  assert indicators.clustering_accuracy(singletons, y) == 2 / 20
  assert indicators.purity(singletons, y) == 1


@pytest.mark.fast
@pytest.mark.parametrize('score', SCORES)
def test_one_cluster_of_one_class_agrees(score):
  assert score([1, 1, 1], [0, 0, 0]) == 1
  assert score([1], [0]) == 1


@pytest.mark.fast
@pytest.mark.parametrize('score', SCORES)
def test_bad_input_is_one_clear_line(score):
  with pytest.raises(
    DataError, match='labels has 2 entries, assignments has 3'
  ):
    score([0, 1, 2], [0, 1])
  with pytest.raises(DataError, match='labels must be integers, got dtype fl'):
    score([0, 1], [0.5, 1.0])
  with pytest.raises(DataError, match='assignments must be a list'):
    score([], [])
