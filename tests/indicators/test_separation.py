"""Silhouettes, distances and neighbours against loops over all pairs."""

import numpy as np
import pytest
from sklearn import metrics, neighbors

from rrl_jax import indicators
from rrl_jax.errors import DataError


@pytest.fixture
def data(rng):
  y = rng.integers(0, 4, size=70)
  z = rng.normal(size=(4, 6))[y] + rng.normal(size=(70, 6))
  return z, 3 * y + 1  # Names of classes with gaps.


@pytest.mark.fast
def test_silhouette_is_that_of_all_pairs(data):
  z, y = data
  np.testing.assert_allclose(
    indicators.silhouette(z, y),
    metrics.silhouette_score(z, y, metric='cosine'),
    rtol=1e-9,
  )
  y = np.concatenate([y[:-1], [99]])  # A row alone.
  np.testing.assert_allclose(
    indicators.silhouette(z, y),
    metrics.silhouette_score(z, y, metric='cosine'),
    rtol=1e-9,
  )
  assert indicators.silhouette(np.ones((4, 2)), [0, 0, 1, 1]) == 0


@pytest.mark.fast
def test_distances_of_classes_are_those_of_all_pairs(data):
  z, y = data
  unit = z / np.linalg.norm(z, axis=1, keepdims=True)
  i, j = np.triu_indices(len(z), 1)
  d = 1 - np.sum(unit[i] * unit[j], axis=1)
  same = y[i] == y[j]
  bounds = (d.min(), d.max())
  p = np.histogram(d[same], 20, bounds)[0] / same.sum()
  q = np.histogram(d[~same], 20, bounds)[0] / (~same).sum()
  spread = np.mean([d[same & (y[i] == c)].std() for c in np.unique(y)])
  found = indicators.class_distances(z, y, num_bins=20)
  np.testing.assert_allclose(found.overlap, np.minimum(p, q).sum(), atol=2e-3)
  np.testing.assert_allclose(found.spread, spread, rtol=1e-9)
  np.testing.assert_allclose(found.within_mean, d[same].mean(), rtol=1e-9)
  np.testing.assert_allclose(found.between_mean, d[~same].mean(), rtol=1e-9)
  np.testing.assert_allclose(
    found.relative_spread, spread / d[~same].mean(), rtol=1e-9
  )


@pytest.mark.fast
def test_overlap_is_0_if_separable_and_1_if_all_is_one_point():
  z = np.repeat(np.eye(3), 5, axis=0)
  y = np.repeat([0, 1, 2], 5)
  found = indicators.class_distances(z, y)
  assert found.overlap == 0
  assert found.spread < 1e-7
  one = indicators.class_distances(np.ones((6, 2)), [0, 0, 0, 1, 1, 1])
  assert one.overlap == 1
  assert one.relative_spread == 0


def test_neighbours_vote_like_a_classifier_without_the_row(data):
  z, y = data
  right = 0
  for row in range(len(z)):
    rest = np.arange(len(z)) != row
    model = neighbors.KNeighborsClassifier(5, metric='cosine')
    right += model.fit(z[rest], y[rest]).predict(z[row : row + 1])[0] == y[row]
  np.testing.assert_allclose(
    indicators.nearest_neighbor_accuracy(z, y, num_neighbors=5),
    right / len(z),
  )


@pytest.mark.fast
@pytest.mark.parametrize(
  'score',
  [
    indicators.silhouette,
    indicators.class_distances,
    indicators.nearest_neighbor_accuracy,
    indicators.calinski_harabasz,
    indicators.neural_collapse,
    indicators.log_me,
    indicators.h_score,
    indicators.dispersion,
  ],
)
def test_scores_of_features_and_labels_reject_what_does_not_fit(data, score):
  z, y = data
  with pytest.raises(DataError, match='69 entries, features has 70 rows'):
    score(z, y[:-1])
  with pytest.raises(DataError, match='must be integers'):
    score(z, y + 0.5)
  bad = z.copy()
  bad[5] = np.nan
  with pytest.raises(DataError, match='NaN or inf in 1 of 70 rows'):
    score(bad, y)
  if score is not indicators.nearest_neighbor_accuracy:
    with pytest.raises(DataError, match='has 1 class'):
      score(z, 0 * y)
