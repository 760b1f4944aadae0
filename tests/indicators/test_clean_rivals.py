"""Rivals on clean features, against the equations and closed forms."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from rrl_jax import indicators
from rrl_jax.errors import DataError
from rrl_jax.indicators import _log_me


@pytest.fixture
def data(rng):
  y = rng.integers(0, 3, size=50)
  return rng.normal(size=(3, 5))[y] + rng.normal(size=(50, 5)), y


def softmax(v):
  e = np.exp(v - v.max(axis=1, keepdims=True))
  return e / e.sum(axis=1, keepdims=True)


@pytest.mark.fast
def test_calibration_error_is_that_of_a_loop_over_bins(rng):
  p = softmax(2 * rng.normal(size=(200, 4)))
  y = rng.integers(0, 4, size=200)
  confidence, right = p.max(axis=1), p.argmax(axis=1) == y
  want = 0.0
  for b in range(10):
    inside = (confidence >= b / 10) & (confidence < (b + 1) / 10)
    if inside.any():
      want += inside.mean() * abs(
        right[inside].mean() - confidence[inside].mean()
      )
  got = indicators.expected_calibration_error(p, y, num_bins=10)
  np.testing.assert_allclose(got, want, rtol=1e-9)
  np.testing.assert_allclose(indicators.mean_confidence(p), confidence.mean())


@pytest.mark.fast
def test_neural_collapse_follows_its_equations(data, rng):
  z, y = data
  w = rng.normal(size=(5, 3))
  predictions = rng.integers(0, 3, size=50)
  means = np.stack([z[y == c].mean(axis=0) for c in range(3)])
  centred = means - means.mean(axis=0)
  within = (z - means[y]).T @ (z - means[y]) / 50
  between = centred.T @ centred / 3
  lengths = np.linalg.norm(centred, axis=1)
  cosines = (centred @ centred.T) / np.outer(lengths, lengths)
  nearest = np.argmin(((z[:, None] - means) ** 2).sum(-1), axis=1)
  got = indicators.neural_collapse(z, y, weights=w, predictions=predictions)
  want = (
    np.trace(within @ np.linalg.pinv(between, rcond=1e-10)),
    lengths.std() / lengths.mean(),
    np.mean(np.abs(cosines[~np.eye(3, dtype=bool)] + 0.5)),
    np.sum((w / np.linalg.norm(w) - centred.T / np.linalg.norm(centred)) ** 2),
    np.mean(nearest != predictions),
  )
  np.testing.assert_allclose(got, want, rtol=1e-8)


@pytest.mark.fast
def test_neural_collapse_is_zero_on_a_simplex():
  means = np.eye(4) - 1 / 4
  y = np.repeat(np.arange(4), 3)
  got = indicators.neural_collapse(
    7 + means[y], y, weights=5 * means.T, predictions=y
  )
  np.testing.assert_allclose(got, 0, atol=1e-12)
  without = indicators.neural_collapse(means[y], y)
  assert without.self_dual is None
  assert without.nearest_mean is None
  with pytest.raises(DataError, match='no direction'):
    indicators.neural_collapse(np.ones((4, 2)), [0, 0, 1, 1])
  with pytest.raises(DataError, match='weights has shape'):
    indicators.neural_collapse(means[y], y, weights=np.eye(3))


@pytest.mark.fast
def test_effective_rank_of_equal_and_of_one_direction(rng):
  q, _ = np.linalg.qr(rng.normal(size=(30, 6)))
  np.testing.assert_allclose(indicators.rank_me(q), 6, rtol=1e-5)
  np.testing.assert_allclose(indicators.rank_me(9 * q), 6, rtol=1e-5)
  one = np.outer(rng.normal(size=30), rng.normal(size=6))
  np.testing.assert_allclose(indicators.rank_me(one), 1, rtol=2e-5)
  with pytest.raises(DataError, match='zero'):
    indicators.rank_me(0 * one)


@pytest.mark.fast
@pytest.mark.parametrize('alpha', [0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_law_is_found(alpha):
  index = np.arange(1, 13)
  rows = np.diag(index ** (-alpha / 2))
  z = np.concatenate([rows, -rows]) + 3
  np.testing.assert_allclose(indicators.alpha_req(z), alpha, rtol=1e-8)
  np.testing.assert_allclose(
    indicators.alpha_req(z, first=2, last=5), alpha, rtol=1e-8
  )
  with pytest.raises(DataError, match='12 directions, too few'):
    indicators.alpha_req(z, first=12)


@pytest.mark.fast
@pytest.mark.parametrize(('n', 'dim'), [(40, 5), (8, 20)])
def test_evidence_is_the_density_of_the_labels_and_maximal(rng, n, dim):
  z = rng.normal(size=(n, dim))
  y = (z[:, 0] + 0.5 * rng.normal(size=n) > 0).astype(float)
  left, singular, _ = np.linalg.svd(z, full_matrices=False)
  value, a, b = _log_me.evidence(left, singular, dim, y)

  def density(a, b):
    cov = np.eye(n) / b + z @ z.T / a
    return stats.multivariate_normal(np.zeros(n), cov).logpdf(y)

  np.testing.assert_allclose(value, density(a, b), rtol=1e-8)
  if n > dim:
    for factor in (0.8, 1.25):
      assert density(a * factor, b) < value
      assert density(a, b * factor) < value
  labels = y.astype(int)
  both = [
    _log_me.evidence(left, singular, dim, (labels == c) * 1.0)[0]
    for c in (0, 1)
  ]
  np.testing.assert_allclose(
    indicators.log_me(z, labels), np.mean(both) / n, rtol=1e-9
  )


@pytest.mark.fast
def test_h_score_follows_its_equation(data):
  z, y = data
  means = np.stack([z[y == c].mean(axis=0) for c in range(3)])[y]
  want = np.trace(np.linalg.pinv(np.cov(z.T, ddof=0)) @ np.cov(means.T, ddof=0))
  np.testing.assert_allclose(indicators.h_score(z, y), want, rtol=1e-8)
  moved = z @ np.diag([1, 2, 3, 4, 5.0]) + 1
  np.testing.assert_allclose(indicators.h_score(moved, y), want, rtol=1e-8)
  collapsed = np.eye(3)[y]
  np.testing.assert_allclose(indicators.h_score(collapsed, y), 2, rtol=1e-9)


@pytest.mark.fast
def test_leep_follows_its_equation(rng):
  theta = softmax(rng.normal(size=(30, 5)))
  y = rng.integers(0, 3, size=30)
  total = 0.0
  for i in range(30):
    inner = 0.0
    for z in range(5):
      joint = theta[y == y[i], z].sum() / 30
      inner += joint / (theta[:, z].sum() / 30) * theta[i, z]
    total += np.log(inner) / 30
  np.testing.assert_allclose(indicators.leep(theta, y), total, rtol=1e-9)


@pytest.mark.fast
def test_calinski_harabasz_equals_scikit_learns(data):
  z, y = data
  np.testing.assert_allclose(
    indicators.calinski_harabasz(z, y),
    metrics.calinski_harabasz_score(z, y),
    rtol=1e-9,
  )
  with pytest.raises(DataError, match='points'):
    indicators.calinski_harabasz(np.eye(2)[[0, 0, 1, 1]], [0, 0, 1, 1])
  with pytest.raises(DataError, match='50 clusters of 50 rows'):
    indicators.calinski_harabasz(z, np.arange(50))


@pytest.mark.parametrize('labels', [[1, 2, 3], [-1, 0, 1]])
def test_labels_that_are_no_columns_are_refused(labels):
  with pytest.raises(DataError, match='3 columns are the classes 0 to 2'):
    indicators.expected_calibration_error(np.eye(3), labels)
