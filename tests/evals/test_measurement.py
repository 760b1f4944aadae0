"""Intervals equal closed forms and references, and cover what they promise."""

import doctest

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from rrl_jax.evals import measurement as lib

pytestmark = pytest.mark.fast


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


def test_an_exact_interval_is_where_the_tails_have_their_probability():
  n, alpha = 17, 0.05
  for correct in range(n + 1):
    low, high = lib.clopper_pearson_interval(correct, n)
    if correct:
      at_least = 1 - stats.binom.cdf(correct - 1, n, low)
      np.testing.assert_allclose(at_least, alpha / 2, rtol=1e-9)
    if correct < n:
      at_most = stats.binom.cdf(correct, n, high)
      np.testing.assert_allclose(at_most, alpha / 2, rtol=1e-9)
  assert lib.clopper_pearson_interval(0, n)[0] == 0
  assert lib.clopper_pearson_interval(n, n)[1] == 1


def test_minimum_lies_within_its_interval_and_of_one_is_exact():
  found = lib.minimum([8, 3, 60], [10, 12, 60], 'x')
  assert found.value == 3 / 12
  assert found.low <= found.value <= found.high
  low, high = lib.clopper_pearson_interval(8, 10)
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
  reach = 3 / positive.sum()
  np.testing.assert_allclose(all_ties[:3], [0.5, 0.5 - reach, 0.5 + reach])
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


def test_the_roc_interval_covers_where_nearly_all_are_told_apart(rng):
  truth, trials, covered = stats.norm.cdf(3 / np.sqrt(2)), 800, 0
  positive = np.arange(40) < 20
  for _ in range(trials):
    scores = rng.normal(size=40) + 3 * positive
    found = lib.area_under_roc(scores, positive, '')
    assert 0 <= found.low < found.value <= found.high <= 1
    covered += found.low <= truth <= found.high
  assert covered / trials >= 0.95


@pytest.mark.parametrize('correct', [0, 1, 37, 99, 100])
def test_a_bounded_mean_of_right_and_wrong_is_wilson(correct):
  values = np.arange(100) < correct
  found = lib.bounded_mean(values, 'x')
  low, high = lib.wilson_interval(correct, 100)
  np.testing.assert_allclose(found[:3], [correct / 100, low, high], atol=1e-12)
  assert found.protocol.endswith(
    '100 examples, 95% Wilson interval of 100 effective ones.'
  )


def test_a_bounded_mean_moves_with_its_bounds(rng):
  shares = rng.random(30)
  plain = lib.bounded_mean(shares, 'x')
  moved = lib.bounded_mean(3 * shares - 1, 'x', bounds=(-1.0, 2.0))
  np.testing.assert_allclose(moved[:3], 3 * np.array(plain[:3]) - 1)
  for values in ([], [0.5, 1.1], [-0.1], [np.nan]):
    with pytest.raises(ValueError, match='is not within'):
      lib.bounded_mean(values, 'x')


def test_a_bounded_mean_of_many_is_that_of_the_normal(rng):
  shares = rng.binomial(5, 0.7, 20_000) / 5
  found = lib.bounded_mean(shares, 'x')
  reach = 1.96 * shares.std() / np.sqrt(20_000)
  np.testing.assert_allclose(found.high - found.value, reach, rtol=0.01)
  np.testing.assert_allclose(found.value - found.low, reach, rtol=0.01)


def correlated(rng, trials, size, truth, outcomes):
  """Right or wrong ``[trials, size, outcomes]``, alike within an example."""
  own = rng.normal(size=(trials, size, 1))
  each = rng.normal(size=(trials, size, outcomes))
  return np.sqrt(0.6) * own + np.sqrt(0.4) * each < stats.norm.ppf(truth)


@pytest.mark.parametrize('outcomes', [1, 5])
@pytest.mark.parametrize('size', [10, 100, 1000])
@pytest.mark.parametrize('truth', [0.5, 0.9, 0.98, 1.0])
def test_a_bounded_mean_covers_at_the_promised_rate(truth, size, outcomes, rng):
  trials, covered = 500, 0
  for shares in correlated(rng, trials, size, truth, outcomes).mean(axis=-1):
    _, low, high, _ = lib.bounded_mean(shares, '')
    covered += low <= truth <= high
  assert covered / trials >= 0.92


def test_a_ratio_and_a_difference_cover_at_the_promised_rate(rng):
  trials, ratios, falls = 600, 0, 0
  own, each = (
    rng.normal(size=(trials, 100, 1)),
    rng.normal(size=(trials, 100, 5)),
  )
  first = (own < stats.norm.ppf(0.95))[..., 0].astype(float)
  second = (np.sqrt(0.7) * own + np.sqrt(0.3) * each < 0.0).mean(axis=-1)
  for x, y in zip(second, first, strict=True):
    found = lib.ratio_of_means(x, y, '')
    np.testing.assert_allclose(found.value, x.mean() / y.mean())
    ratios += found.low <= 0.5 / 0.95 <= found.high
    _, low, high, _ = lib.bounded_mean(y - x, '', bounds=(-1.0, 1.0))
    falls += low <= 0.45 <= high
  assert ratios / trials >= 0.93
  assert falls / trials >= 0.93


def test_resamples_that_agree_leave_room_for_what_was_not_seen():
  positive = np.arange(40) < 10
  found = lib.bootstrap(
    metrics.average_precision_score,
    (positive, positive.astype(float)),
    'x',
    strata=positive,
  )
  np.testing.assert_allclose(found[:3], [1, 1 - 3 / 10, 1])
  plain = lib.bootstrap(np.mean, (np.zeros(50),), 'x')
  np.testing.assert_allclose(plain[:3], [0, 0, 3 / 50])


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
