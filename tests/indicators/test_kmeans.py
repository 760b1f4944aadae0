"""k-means on both backends."""

import numpy as np
import pytest

from rrl_jax import indicators
from rrl_jax.errors import DataError
from tests.tiers import first


def blobs(rng, classes=4, each=20, dim=6):
  y = np.repeat(np.arange(classes), each)
  centres = 20 * np.eye(classes, dim)
  return (centres[y] + rng.normal(size=(len(y), dim))).astype('f'), y


@pytest.mark.parametrize('backend', first(['sklearn', 'ott']))
def test_blobs_are_found_and_found_again(rng, backend):
  z, y = blobs(rng)
  a = indicators.kmeans(z, 4, backend=backend, num_restarts=5)
  assert a.dtype == np.int64
  assert a.shape == y.shape
  assert indicators.clustering_accuracy(a, y) == 1
  np.testing.assert_array_equal(
    a, indicators.kmeans(z, 4, backend=backend, num_restarts=5)
  )


def test_unit_rows_forget_lengths(rng):
  z, y = blobs(rng)
  z *= rng.uniform(0.01, 100, size=(len(z), 1)).astype('f')
  a = indicators.kmeans(z, 4, normalize=True)
  assert indicators.clustering_accuracy(a, y) == 1
  assert indicators.clustering_accuracy(indicators.kmeans(z, 4), y) < 1


@pytest.mark.fast
def test_equal_rows_fall_into_one_cluster():
  assert len(set(indicators.kmeans(np.ones((5, 2)), 3))) == 1


def test_bad_input_is_one_clear_line(rng):
  z, _ = blobs(rng)
  with pytest.raises(DataError, match='3 rows, fewer than num_clusters=4'):
    indicators.kmeans(z[:3], 4)
  z[7, 1] = np.nan
  with pytest.raises(DataError, match='NaN or inf in 1 of 80 rows.*row 7'):
    indicators.kmeans(z, 4)
  with pytest.raises(DataError, match='shape'):
    indicators.kmeans(z[0], 4)
  with pytest.raises(ValueError, match='backend must be one of sklearn, ott'):
    indicators.kmeans(z[8:], 4, backend='torch')
  with pytest.raises(ValueError, match='num_clusters must be at least 1'):
    indicators.kmeans(z[8:], 0)
