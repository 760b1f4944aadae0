"""Intervals equal closed forms and references, and cover what they promise."""

import doctest

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from rrl_jax.evals import measurement as lib


@pytest.mark.parametrize(
  ('correct', 'total'),
  [(0, 1), (1, 1), (3, 10), (0, 50), (50, 50), (997, 1000)],
)
@pytest.mark.parametrize('confidence', [0.9, 0.95, 0.999])
def test_wilson_equals_scipy(correct, total, confidence):
  low, high = lib.wilson_interval(correct, total, confidence=confidence)
  want = stats.binomtest(correct, total).proportion_ci(confidence, 'wilson')
  np.testing.assert_allclose([low, high], want, atol=1e-12)
  assert 0 <= low <= correct / total <= high <= 1


def test_wilson_bounds_are_the_roots_of_the_score_test():
  low, high = lib.wilson_interval(37, 120)
  z = stats.norm.ppf(0.975)
  for p in (low, high):
    np.testing.assert_allclose(
      abs(37 / 120 - p), z * np.sqrt(p * (1 - p) / 120), rtol=1e-12
    )


@pytest.mark.parametrize(('correct', 'total'), [(1, 0), (3, 2), (-1, 2)])
def test_what_is_no_proportion_is_refused(correct, total):
  with pytest.raises(ValueError, match='is not a proportion'):
    lib.wilson_interval(correct, total)


def test_minimum_covers_the_true_minimum(rng):
  truth = np.full(10, 0.8)
  total = np.array([40, 60, 80, 50, 30] * 2)
  trials, covered, naive = 2000, 0, 0
  for correct in rng.binomial(total, truth, (trials, 10)):
    _, low, high, _ = lib.minimum(correct, total, '')
    covered += low <= truth.min() <= high
    worst = np.argmin(correct / total)
    low, high = lib.wilson_interval(correct[worst], total[worst])
    naive += low <= truth.min() <= high
  assert covered / trials >= 0.95
  # The interval of the observed minimum alone does not: it was picked.
  assert naive / trials < 0.9


def test_minimum_lies_within_its_interval_and_of_one_is_wilson():
  found = lib.minimum([8, 3, 60], [10, 12, 60], 'x')
  assert found.value == 3 / 12
  assert found.low <= found.value <= found.high
  low, high = lib.wilson_interval(8, 10)
  assert lib.minimum([8], [10], 'x')[:3] == (0.8, low, high)


def test_weighted_mean_covers_at_about_the_promised_rate(rng):
  truth = np.array([0.97, 0.6, 0.85])
  total = np.array([30, 60, 45])
  weights = np.array([0.5, 0.2, 0.3])
  trials, covered = 3000, 0
  for correct in rng.binomial(total, truth, (trials, 3)):
    _, low, high, _ = lib.weighted_mean(correct, total, weights, '')
    covered += low <= weights @ truth <= high
  assert 0.93 <= covered / trials <= 0.985


def test_mean_of_one_task_is_that_task_and_of_equals_is_narrower():
  one = lib.proportion(70, 100, 'x')
  same = lib.mean([one], 'x')
  np.testing.assert_allclose(same[:3], one[:3], rtol=1e-12)
  two = lib.mean([one, one], 'x')
  np.testing.assert_allclose(two.value, one.value)
  np.testing.assert_allclose(
    two.high - two.low, (one.high - one.low) / np.sqrt(2)
  )


def test_protocols_are_one_sentence_with_the_counts():
  found = lib.proportion(7, 9, 'clean test images')
  assert found.protocol == 'Clean test images; n=9, 95% Wilson interval.'
  assert 'n=9 or more' in lib.minimum([7, 9], [9, 12], 'x').protocol
  assert '2 tasks' in lib.mean([found, found], 'x').protocol


def test_area_under_roc_equals_the_reference_and_counts_ties_by_half(rng):
  positive = rng.random(300) < 0.3
  scores = np.round(rng.normal(size=300) + positive, 1)  # With ties.
  found = lib.area_under_roc(scores, positive, 'x')
  np.testing.assert_allclose(
    found.value, metrics.roc_auc_score(positive, scores), rtol=1e-12
  )
  assert found.low < found.value < found.high
  all_ties = lib.area_under_roc(np.zeros(300), positive, 'x')
  assert all_ties[:3] == (0.5, 0.5, 0.5)
  apart = lib.area_under_roc(positive.astype(float), positive, 'x')
  assert (apart.value, apart.high) == (1.0, 1.0)
  np.testing.assert_allclose(apart.low, 1 - 3 / positive.sum())


def test_the_roc_interval_covers_at_about_the_promised_rate(rng):
  truth, trials, covered = stats.norm.cdf(1 / np.sqrt(2)), 800, 0
  positive = np.arange(120) < 40
  for _ in range(trials):
    found = lib.area_under_roc(rng.normal(size=120) + positive, positive, '')
    covered += found.low <= truth <= found.high
  assert 0.92 <= covered / trials <= 0.98


def test_a_bootstrap_of_a_mean_is_its_standard_error(rng):
  values = rng.normal(3.0, 2.0, 400)
  found = lib.bootstrap(
    np.mean, (values,), 'x', resamples=2000, bounds=(-np.inf, np.inf)
  )
  np.testing.assert_allclose(found.value, values.mean())
  reach = 1.96 * values.std() / np.sqrt(400)
  np.testing.assert_allclose(found.high - found.value, reach, rtol=0.1)
  np.testing.assert_allclose(found.value - found.low, reach, rtol=0.1)
  again = lib.bootstrap(
    np.mean, (values,), 'x', resamples=2000, bounds=(-np.inf, np.inf)
  )
  assert again == found
  assert np.isnan(lib.bootstrap(np.mean, (values,), 'x', resamples=0).low)


def test_a_stratified_bootstrap_keeps_the_sizes_of_groups():
  groups = np.array([0] * 5 + [1] * 3)
  seen = set()
  lib.bootstrap(
    lambda g: seen.add(tuple(np.bincount(g))) or 0.5,
    (groups,),
    'x',
    strata=groups,
    resamples=20,
  )
  assert seen == {(5, 3)}


def test_examples_in_docstrings_run():
  assert doctest.testmod(lib).failed == 0
