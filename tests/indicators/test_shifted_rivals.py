"""Rivals that look at shifted data, against the equations and closed forms."""

import numpy as np
import pytest
from scipy import linalg, stats

from rrl_jax import indicators
from rrl_jax.errors import DataError


def softmax(v):
  e = np.exp(v - v.max(axis=1, keepdims=True))
  return e / e.sum(axis=1, keepdims=True)


@pytest.mark.fast
@pytest.mark.parametrize('score', ['entropy', 'confidence'])
def test_thresholded_confidence_gives_back_the_source_accuracy(rng, score):
  p = softmax(2 * rng.normal(size=(300, 4)))
  y = np.where(rng.random(300) < 0.7, p.argmax(axis=1), 0)
  estimate = indicators.average_thresholded_confidence(p, y, p, score=score)
  np.testing.assert_allclose(estimate, np.mean(p.argmax(axis=1) == y))
  unsure = softmax(1e-3 * rng.normal(size=(50, 4)))
  assert (
    indicators.average_thresholded_confidence(p, y, unsure, score=score) == 0
  )
  right = p.argmax(axis=1)
  assert (
    indicators.average_thresholded_confidence(p, right, p, score=score) == 1
  )
  wrong = (right + 1) % 4
  assert (
    indicators.average_thresholded_confidence(p, wrong, p, score=score) == 0
  )


@pytest.mark.fast
def test_difference_of_confidences_moves_the_accuracy(rng):
  p = softmax(rng.normal(size=(100, 3)))
  q = softmax(0.5 * rng.normal(size=(80, 3)))
  y = rng.integers(0, 3, size=100)
  want = np.mean(p.argmax(1) == y) + q.max(1).mean() - p.max(1).mean()
  got = indicators.difference_of_confidences(p, y, q)
  np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.fast
def test_nuclear_norm_is_1_for_sure_and_diverse_and_less_otherwise(rng):
  diverse = np.eye(4)[np.arange(40) % 4]
  np.testing.assert_allclose(indicators.nuclear_norm(diverse), 1, rtol=1e-12)
  one_class = np.eye(4)[np.zeros(40, int)]
  np.testing.assert_allclose(indicators.nuclear_norm(one_class), 0.5)
  uniform = np.full((40, 4), 0.25)
  np.testing.assert_allclose(indicators.nuclear_norm(uniform), 0.25)


@pytest.mark.fast
def test_matrix_norm_follows_its_equation(rng):
  v = rng.normal(size=(20, 3))
  total = 0.0
  for row in v:
    q = 1 + row + row**2 / 2
    q = q - q.min()
    total += np.sum((q / q.sum()) ** 4)
  np.testing.assert_allclose(
    indicators.mano(v), (total / 60) ** 0.25, rtol=1e-9
  )
  sharp = 60 * v  # Its softmax is far from uniform.
  np.testing.assert_allclose(
    indicators.mano(sharp),
    np.mean(softmax(sharp) ** 4) ** 0.25,
    rtol=1e-9,
  )
  np.testing.assert_allclose(indicators.mano(np.ones((5, 4))), 0.25)


@pytest.mark.fast
def test_dispersion_follows_its_equation(rng):
  z = rng.normal(size=(40, 5))
  predictions = np.array([0, 2, 7])[rng.integers(0, 3, size=40)]
  between = sum(
    np.sum(predictions == k)
    * np.sum((z[predictions == k].mean(0) - z.mean(0)) ** 2)
    for k in (0, 2, 7)
  )
  np.testing.assert_allclose(
    indicators.dispersion(z, predictions), np.log(between / 2), rtol=1e-9
  )
  np.testing.assert_allclose(  # Scaling by e adds 2.
    indicators.dispersion(np.e * z, predictions), np.log(between / 2) + 2
  )
  with pytest.raises(DataError, match='same mean'):
    indicators.dispersion(np.ones((4, 2)), [0, 0, 1, 1])


@pytest.mark.fast
@pytest.mark.parametrize('rows', [60, 4])
def test_frechet_distance_follows_its_equation(rng, rows):
  x = rng.normal(size=(50, 6))
  y = rng.normal(size=(rows, 6)) @ rng.normal(size=(6, 6)) + 1
  got = indicators.frechet_distance(x, y)
  first, second = np.cov(x.T), np.cov(y.T)
  # sqrtm is poor at singular matrices: the root of S1 is regular.
  half = linalg.sqrtm(first).real
  eigenvalues = np.linalg.eigvalsh(half @ second @ half)
  common = np.sqrt(np.maximum(eigenvalues, 0)).sum()
  want = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(first + second)
  np.testing.assert_allclose(got, want - 2 * common, rtol=1e-6)
  np.testing.assert_allclose(indicators.frechet_distance(x, x), 0, atol=1e-10)
  np.testing.assert_allclose(indicators.frechet_distance(x, x + 2), 24)
  with pytest.raises(DataError, match='shifted has 5 columns, features has 6'):
    indicators.frechet_distance(x, y[:, :5])


def spoiled(rng, y, shares):
  """Predictions of models that are wrong on independent shares, [M, N]."""
  wrong = rng.random((len(shares), len(y))) < np.asarray(shares)[:, None]
  return np.where(wrong, (y + 1) % 3, y)


@pytest.mark.fast
def test_without_a_shift_the_line_gives_back_the_accuracies(rng):
  y = rng.integers(0, 3, size=2000)
  models = spoiled(rng, y, [0.1, 0.2, 0.3, 0.4])
  got = indicators.agreement_on_the_line(models, y, models)
  np.testing.assert_allclose([got.slope, got.correlation], 1, rtol=1e-9)
  np.testing.assert_allclose(got.bias, 0, atol=1e-9)
  accuracy = np.mean(models == y, axis=1)
  np.testing.assert_allclose(got.simple, accuracy, rtol=1e-9)
  np.testing.assert_allclose(got.pairwise, accuracy, rtol=1e-9)


@pytest.mark.fast
def test_agreement_on_the_line_follows_its_equations(rng):
  y = rng.integers(0, 3, size=2000)
  source = spoiled(rng, y, [0.1, 0.2, 0.3, 0.4])
  target = spoiled(rng, y, [0.3, 0.35, 0.45, 0.5])
  got = indicators.agreement_on_the_line(source, y, target)
  i, j = np.triu_indices(4, 1)
  probit = stats.norm.ppf
  x = probit(np.mean(source[i] == source[j], axis=1))
  z = probit(np.mean(target[i] == target[j], axis=1))
  accuracy = probit(np.mean(source == y, axis=1))
  slope, bias = np.polyfit(x, z, 1)
  np.testing.assert_allclose([got.slope, got.bias], [slope, bias], rtol=1e-6)
  np.testing.assert_allclose(
    got.simple, stats.norm.cdf(slope * accuracy + bias), rtol=1e-6
  )
  # The normal equations of the pairs' least squares.
  rows = (np.eye(4)[i] + np.eye(4)[j]) / 2
  wanted = z + slope * (rows @ accuracy - x)
  solved = np.linalg.solve(rows.T @ rows, rows.T @ wanted)
  np.testing.assert_allclose(got.pairwise, stats.norm.cdf(solved), rtol=1e-6)
  np.testing.assert_allclose(
    got.correlation, np.corrcoef(x, z)[0, 1], rtol=1e-9
  )
  assert got.num_pairs == 6
  fewer = indicators.agreement_on_the_line(source, y, target, high=0.6)
  assert 2 <= fewer.num_pairs < 6


@pytest.mark.fast
def test_bad_input_is_one_clear_line(rng):
  p = softmax(rng.normal(size=(10, 3)))
  y = rng.integers(0, 3, size=10)
  bad = p.copy()
  bad[4] *= 2
  with pytest.raises(DataError, match='row 4 sums to 2'):
    indicators.average_thresholded_confidence(p, y, bad)
  with pytest.raises(DataError, match='has 10 rows, labels has 9'):
    indicators.difference_of_confidences(p, y[:-1], p)
  with pytest.raises(ValueError, match='score must be one of'):
    indicators.average_thresholded_confidence(p, y, p, score='margin')
  models = rng.integers(0, 3, size=(3, 10))
  with pytest.raises(DataError, match='2 models'):
    indicators.agreement_on_the_line(models[:2], y, models[:2])
  with pytest.raises(DataError, match='9 entries.*10 columns'):
    indicators.agreement_on_the_line(models, y[:-1], models)
  with pytest.raises(DataError, match='too few for a line'):
    indicators.agreement_on_the_line(models[[0, 0, 0]], y, models)
