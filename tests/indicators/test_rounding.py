"""Rounding passes neither for a direction nor for variance."""

import numpy as np
import pytest
from scipy import optimize

from rrl_jax import indicators
from rrl_jax.errors import DataError

pytestmark = pytest.mark.fast

LABELS = np.repeat(np.arange(6), 12)


def low_rank(rng, rank=4, mean=0.0):
  """Float64 features of 40 columns and a few directions."""
  return rng.normal(size=(72, rank)) @ rng.normal(size=(rank, 40)) + mean


@pytest.mark.parametrize('mean', [0.0, 100.0])
def test_float32_of_low_rank_has_the_spectrum_of_float64(rng, mean):
  z = low_rank(rng, mean=mean)
  narrow = z.astype(np.float32)
  slack = {'rtol': 1e-3}
  np.testing.assert_allclose(
    indicators.h_score(narrow, LABELS), indicators.h_score(z, LABELS), **slack
  )
  for wide, low in zip(
    indicators.neural_collapse(z, LABELS)[:3],
    indicators.neural_collapse(narrow, LABELS)[:3],
    strict=True,
  ):
    np.testing.assert_allclose(low, wide, rtol=1e-2)
  np.testing.assert_allclose(
    indicators.alpha_req(narrow, first=1),
    indicators.alpha_req(z, first=1),
    **slack,
  )


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('value', [0.1, 0.7, 123.4])
def test_constant_features_have_no_variance(dtype, value):
  z = np.full((72, 5), value, dtype)
  assert indicators.h_score(z, LABELS) == 0
  for score in (indicators.dispersion, indicators.calinski_harabasz):
    with pytest.raises(DataError):
      score(z, LABELS)
  with pytest.raises(DataError):
    indicators.neural_collapse(z, LABELS)


@pytest.mark.parametrize('num', [7, 11, 13])
def test_clusters_that_are_points_have_no_variance_within(num):
  labels = np.repeat([0, 1], num)
  z = np.where(labels[:, None] == 0, 0.1, 0.7) * np.ones((1, 3))
  with pytest.raises(DataError, match='points'):
    indicators.calinski_harabasz(z, labels)


def test_the_evidence_is_the_largest_whatever_the_scale(rng):
  labels = np.repeat([0, 1, 2], 9)
  z = rng.normal(size=(27, 3))
  z[:, 0] += labels
  found = [indicators.log_me(z * s, labels) for s in (1e-6, 1.0, 1e3, 1e8)]
  np.testing.assert_allclose(found, found[1], rtol=1e-8)
  expected = np.mean([largest_evidence(z, labels == c) for c in range(3)])
  np.testing.assert_allclose(found[1], expected / 27, rtol=1e-6)


def largest_evidence(z, y):
  """By a search over both precisions, from the density of the labels."""
  y, n = np.asarray(y, float), len(z)

  def minus_density(logs):
    a, b = np.exp(logs)
    cov = np.eye(n) / b + z @ z.T / a
    _, log_det = np.linalg.slogdet(cov)
    square = y @ np.linalg.solve(cov, y)
    return (square + log_det + n * np.log(2 * np.pi)) / 2

  tight = {'xatol': 1e-8, 'fatol': 1e-10}
  found = optimize.minimize(
    minus_density, [0.0, 0.0], method='Nelder-Mead', options=tight
  )
  return -found.fun


def test_a_class_that_does_not_occur_takes_nc3_alone(rng):
  y = np.repeat([0, 2], 20)
  z = 3 * np.eye(8)[y] + 0.3 * rng.normal(size=(40, 8))
  weights = rng.normal(size=(8, 4))
  with_weights = indicators.robustness_indicators(
    z, y, y, weights=weights, sweep=()
  )
  without = indicators.robustness_indicators(z, y, y, sweep=())
  assert with_weights == without
  assert {'nc1', 'nc2_equinorm', 'nc4'} <= set(without)
  assert 'nc3' not in without


def test_kmeans_on_the_device_does_not_see_a_large_mean(rng):
  y = np.repeat(np.arange(4), 30)
  z = (4 * rng.normal(size=(4, 8)))[y] + rng.normal(size=(120, 8))
  found = indicators.kmeans(
    (z - 2e4).astype(np.float32), 4, backend='ott', num_restarts=3
  )
  assert indicators.adjusted_rand_index(found, y) > 0.95


def test_what_pairs_leave_open_is_that_of_the_line(rng):
  y = rng.integers(0, 10, 3000)
  spoil = lambda v, p: np.where(
    rng.random(len(y)) < p, rng.integers(0, 10, len(y)), v
  )
  base = spoil(y, 0.3)
  # The first two agree too much to be a pair: no odd cycle is left.
  models = np.stack([base, spoil(base, 0.01), spoil(y, 0.6)])
  found = indicators.agreement_on_the_line(models, y, models, high=0.98)
  truth = np.mean(models == y, axis=1)
  np.testing.assert_allclose(found.pairwise, truth, atol=0.02)
