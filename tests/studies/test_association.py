"""Associations over models agree with their definitions, draw by draw."""

import itertools

import numpy as np
import pytest
from scipy import stats

from rrl_jax.errors import DataError
from rrl_jax.studies import association

pytestmark = pytest.mark.fast


def pool(rng, num_models=12):
  """Clean accuracy, an indicator that follows it, and a target."""
  z = rng.uniform(0.3, 0.9, num_models)
  x = np.round(z + 0.2 * rng.normal(size=num_models), 1)  # With ties.
  y = 0.5 * z + 0.3 * x + 0.05 * rng.normal(size=num_models)
  return x, y, z


def value(found, name):
  return found[name].value


def quick(x, y, **kw):
  return association.associate(x, y, **{'resamples': 0, 'permutations': 0} | kw)


def test_correlations_are_those_of_scipy(rng):
  x, y, _ = pool(rng)
  found = quick(x, y)
  expected = {
    'pearson': stats.pearsonr(x, y).statistic,
    'spearman': stats.spearmanr(x, y).statistic,
    'kendall': stats.kendalltau(x, y, variant='b').statistic,
    'r_squared': stats.linregress(x, y).rvalue ** 2,
  }
  for name, number in expected.items():
    np.testing.assert_allclose(value(found, name), number, rtol=1e-12)


def residuals(v, z):
  fit = stats.linregress(z, v)
  return v - fit.intercept - fit.slope * z


def test_a_partial_correlation_is_that_of_residuals(rng):
  x, y, z = pool(rng)
  found = quick(x, y, control=z)
  np.testing.assert_allclose(
    value(found, 'partial_pearson'),
    stats.pearsonr(residuals(x, z), residuals(y, z)).statistic,
    rtol=1e-10,
  )
  rx, ry, rz = (stats.rankdata(v) for v in (x, y, z))
  np.testing.assert_allclose(
    value(found, 'partial_spearman'),
    stats.pearsonr(residuals(rx, rz), residuals(ry, rz)).statistic,
    rtol=1e-10,
  )


def held_out(x, y, groups):
  """By its definition: fit without a group, predict the group."""
  error = 0.0
  for group in np.unique(groups):
    rest = groups != group
    slope, bias = np.polyfit(x[rest], y[rest], 1)
    error += np.sum((y[~rest] - bias - slope * x[~rest]) ** 2)
  return 1 - error / np.sum((y - y.mean()) ** 2)


@pytest.mark.parametrize('size', [1, 3])
def test_the_held_out_r_squared_predicts_what_was_left_out(rng, size):
  x, y, _ = pool(rng)
  clusters = np.repeat(np.arange(12 // size), size)
  expected = held_out(x, y, clusters)
  found = quick(x, y, clusters=clusters)
  np.testing.assert_allclose(value(found, 'held_out_r_squared'), expected)
  together = association.combine({'x': x}, y, clusters=clusters, resamples=0)
  np.testing.assert_allclose(together.value, expected)
  assert expected < value(found, 'r_squared')


def test_the_interval_of_the_held_out_r_squared_fits_anew_in_each_draw(rng):
  x, y, _ = pool(rng, 30)
  found = association.associate(x, y, resamples=2000, permutations=0)
  redrawn = []
  for _ in range(300):
    draw = rng.integers(0, 30, 30)
    redrawn.append(held_out(x[draw], y[draw], draw))
  each = found['held_out_r_squared']
  expected = np.quantile(redrawn, (0.025, 0.975))
  np.testing.assert_allclose(each[1:3], expected, atol=0.12)
  together = association.combine({'x': x}, y, resamples=300)
  np.testing.assert_allclose(together[1:3], each[1:3], atol=0.12)


def test_the_square_of_a_correlation_has_the_square_of_its_interval(rng):
  for slope in (0.0, 1.5, -1.5):
    x, noise = rng.normal(size=(2, 34))
    found = association.associate(
      x, slope * x + noise, resamples=400, permutations=0
    )
    r, square = found['pearson'], found['r_squared']
    np.testing.assert_allclose(square.value, r.value**2)
    if slope:
      low, high = sorted((r.low**2, r.high**2))
    else:
      low, high = 0.0, max(r.low**2, r.high**2)
    np.testing.assert_allclose(square[1:3], (low, high))
    assert square.p_value is None


def test_a_weight_counts_a_model_so_often(rng):
  x, y, z = pool(rng)
  ids = np.arange(len(x))
  weights = np.array([0, 2, 1, 3, 0, 1, 1, 2, 0, 1, 1, 0])
  drawn = np.repeat(ids, weights)
  found = association.statistics(x, y, z, ids, weights[None].astype(float))
  listed = association.statistics(
    x[drawn], y[drawn], z[drawn], drawn, np.ones((1, len(drawn)))
  )
  for name in set(association.STATISTICS) - {'held_out_r_squared'}:
    np.testing.assert_allclose(found[name], listed[name], rtol=1e-9)
  np.testing.assert_allclose(
    found['kendall'][0], stats.kendalltau(x[drawn], y[drawn]).statistic
  )
  np.testing.assert_allclose(
    found['spearman'][0], stats.spearmanr(x[drawn], y[drawn]).statistic
  )


def test_units_do_not_matter_and_ranks_ignore_any_rising_map(rng):
  x, y, z = pool(rng)
  found = quick(x, y, control=z)
  scaled = quick(1e6 * x - 3e6, 1e-6 * y + 1, control=2 * z)
  for name in association.STATISTICS:
    np.testing.assert_allclose(
      value(scaled, name), value(found, name), rtol=1e-6, atol=1e-9
    )
  bent = quick(np.exp(3 * x), y**3, control=z)
  for name in ('spearman', 'kendall', 'partial_spearman'):
    np.testing.assert_allclose(value(bent, name), value(found, name))
  turned = quick(-x, y, control=z)
  for name in ('pearson', 'kendall', 'partial_spearman'):
    np.testing.assert_allclose(value(turned, name), -value(found, name))


def test_an_indicator_that_is_the_control_has_nothing_left(rng):
  _, y, z = pool(rng)
  found = quick(3 * z - 1, y, control=z, permutations=50)
  assert found['partial_pearson'] == association.Estimate()
  assert found['partial_spearman'] == association.Estimate()
  assert value(found, 'pearson') > 0


def test_clean_accuracy_in_disguise_is_unmasked(rng):
  """x goes with y through z alone: the partial correlation is near none."""
  z = rng.uniform(0.3, 0.9, 90)
  x = z + 0.05 * rng.normal(size=90)
  y = z + 0.05 * rng.normal(size=90)
  found = association.associate(
    x, y, control=z, resamples=200, permutations=500
  )
  assert value(found, 'pearson') > 0.9
  assert found['partial_pearson'].low < 0 < found['partial_pearson'].high
  assert found['partial_pearson'].p_value > 0.05
  assert found['pearson'].p_value == 1 / 501


def test_the_weakest_is_that_of_all_ways_to_leave_two_out(rng):
  x, y, z = pool(rng)
  whole = value(quick(x, y, control=z), 'partial_pearson')
  found = association.weakest_partial(x, y, z)
  left = {}
  for pair in itertools.combinations(range(len(x)), 2):
    kept = np.delete(np.arange(len(x)), pair)
    left[pair] = value(
      quick(x[kept], y[kept], control=z[kept]), 'partial_pearson'
    )
  pair = min(left, key=lambda pair: np.sign(whole) * left[pair])
  assert found.left_out == pair
  np.testing.assert_allclose(found.value, left[pair], rtol=1e-9)
  turned = association.weakest_partial(-x, y, z)
  np.testing.assert_allclose(turned.value, -found.value, rtol=1e-9)


def test_two_outliers_that_make_a_correlation_are_named(rng):
  x, y, z = (rng.normal(size=20) for _ in range(3))
  x[[3, 7]] += 30
  y[[3, 7]] += 30
  assert value(quick(x, y, control=z), 'partial_pearson') > 0.95
  found = association.weakest_partial(x, y, z)
  assert found.left_out == (3, 7)
  assert abs(found.value) < 0.5
  # Seeds of one recipe go together.
  names = [f'recipe{i}' for i in range(20)] + ['recipe3']
  again = association.weakest_partial(
    *(np.append(v, v[3]) for v in (x, y, z)), clusters=names
  )
  assert set(again.left_out) == {'recipe3', 'recipe7'}
  np.testing.assert_allclose(again.value, found.value, rtol=1e-9)


def test_nothing_is_left_to_leave_out():
  five = np.array([1.0, 2, 4, 3, 5])
  nothing = association.Weakest()
  assert association.weakest_partial(five, five[::-1], five**2) == nothing
  constant = np.ones(9)
  found = association.weakest_partial(constant, np.arange(9.0), constant)
  assert found == nothing


def test_the_permutation_p_value_is_that_of_all_orders(rng):
  x, y, z = pool(rng, 8)
  found = association.associate(
    x, y, control=z, resamples=0, permutations=20_000
  )
  exact = stats.permutation_test(
    (x,),
    lambda x, axis: np.sum((x - x.mean()) * y, axis=axis),
    permutation_type='pairings',
    vectorized=True,
    n_resamples=20_000,
    rng=np.random.default_rng(0),
  )
  assert found['pearson'].p_value == pytest.approx(exact.pvalue, abs=0.02)
  tau = stats.kendalltau(x, y, method='auto')
  assert found['kendall'].p_value == pytest.approx(tau.pvalue, abs=0.05)
  assert all(
    0 < each.p_value <= 1
    for name, each in found.items()
    if 'squared' not in name
  )


def test_an_interval_is_that_of_a_plain_bootstrap(rng):
  x, y, _ = pool(rng, 20)
  found = association.associate(x, y, permutations=0, resamples=2000)
  draws = rng.integers(0, 20, (2000, 20))
  redrawn = [stats.pearsonr(x[d], y[d]).statistic for d in draws]
  expected = np.quantile(redrawn, (0.025, 0.975))
  np.testing.assert_allclose(found['pearson'][1:3], expected, atol=0.05)


def test_repeated_seeds_of_a_recipe_do_not_narrow_the_interval(rng):
  x, y, z = pool(rng, 10)
  again = lambda v: np.repeat(v, 5)
  width = lambda e: e['pearson'].high - e['pearson'].low
  kw = {'permutations': 200, 'resamples': 500}
  once = association.associate(x, y, control=z, **kw)
  recipes = [f'recipe{i}' for i in again(np.arange(10))]
  told = association.associate(
    again(x), again(y), control=again(z), clusters=recipes, **kw
  )
  untold = association.associate(again(x), again(y), control=again(z), **kw)
  np.testing.assert_allclose(width(told), width(once), rtol=1e-6)
  assert width(untold) < 0.6 * width(once)
  assert told['pearson'].p_value == once['pearson'].p_value
  np.testing.assert_allclose(
    value(told, 'held_out_r_squared'), value(once, 'held_out_r_squared')
  )


def test_the_same_seed_gives_the_same_numbers(rng):
  x, y, z = pool(rng)
  kw = {'control': z, 'resamples': 50, 'permutations': 50}
  assert association.associate(x, y, seed=1, **kw) == association.associate(
    x, y, seed=1, **kw
  )


def test_a_constant_has_no_association_and_no_nan():
  y = [0.1, 0.2, 0.3, 0.5]
  for a, b in (([0.1] * 4, y), (y, [0.7] * 4)):
    found = association.associate(a, b, control=y, permutations=20)
    assert all(each == association.Estimate() for each in found.values())


def test_draws_without_spread_are_left_out():
  # One model apart from the rest: many draws miss it.
  found = association.associate([0, 0, 0, 1], [0.1, 0.2, 0.2, 0.9])
  assert found['pearson'].low is not None
  assert found['pearson'].high <= 1


def test_three_models_have_a_correlation_but_no_partial_one():
  found = association.associate([1, 2, 3], [1, 3, 2], control=[3, 1, 2])
  np.testing.assert_allclose(value(found, 'pearson'), 0.5)
  assert found['partial_pearson'] == association.Estimate()


@pytest.mark.parametrize(
  ('x', 'kw', 'words'),
  [
    ([1, 2], {}, '2 models: no association'),
    ([1, 2, 3, 4], {'clusters': 'aabb'}, '2 recipes: no association'),
    ([1, 2, np.nan], {}, 'x: one finite number'),
    ([1, 2, 3], {'control': [1, 2]}, 'control has 2 models'),
    ([1, 2, 3], {'clusters': 'ab'}, 'clusters: 2 for 3'),
  ],
)
def test_pools_that_show_nothing_are_refused(x, kw, words):
  with pytest.raises(DataError, match=words):
    association.associate(x, x, **kw)


def test_holm_is_sequential_bonferroni(rng):
  p = rng.uniform(0, 0.2, 9)
  order = np.argsort(p)
  expected = np.empty(9)
  expected[order] = np.minimum(
    np.maximum.accumulate(p[order] * np.arange(9, 0, -1)), 1
  )
  np.testing.assert_allclose(association.holm(list(p)), expected)
  assert association.holm([]) == []
  assert association.holm([None, 0.02]) == [None, 0.02]


def test_every_indicator_pays_for_the_others(rng):
  x, y, z = pool(rng)
  many = {'good': x, 'gap': np.where(np.arange(12) < 10, np.nan, x)}
  many |= {f'noise{i}': rng.normal(size=12) for i in range(8)}
  found = association.associations(
    many, y, control=z, resamples=0, permutations=200
  )
  good = found['good']['spearman']
  assert good.p_value == 1 / 201
  assert good.holm == pytest.approx(9 / 201)  # Two models are no test.
  assert found['gap']['spearman'] == association.Estimate()
  alone = quick(x, y, control=z)
  assert good.value == value(alone, 'spearman')


def test_a_model_without_an_indicator_is_left_out_of_its_row(rng):
  x, y, z = pool(rng)
  holed = x.copy()
  holed[3] = np.nan
  found = association.associations(
    {'x': holed}, y, control=z, resamples=0, permutations=0
  )
  rest = np.arange(12) != 3
  expected = quick(x[rest], y[rest], control=z[rest])
  assert found['x']['partial_pearson'].value == value(
    expected, 'partial_pearson'
  )


def test_a_fit_to_several_is_least_squares_on_the_others(rng):
  x, y, z = pool(rng)
  found = association.combine({'x': x, 'z': z, 'twice': 2 * z}, y, resamples=20)
  error = 0.0
  rows = np.stack([np.ones(12), x, z], axis=1)
  for i in range(12):
    rest = np.arange(12) != i
    fit = np.linalg.lstsq(rows[rest], y[rest], rcond=None)[0]
    error += (y[i] - rows[i] @ fit) ** 2
  expected = 1 - error / np.sum((y - y.mean()) ** 2)
  np.testing.assert_allclose(found.value, expected, rtol=1e-6)
  assert found.low <= found.high
  few = association.combine({'x': x[:5], 'z': z[:5], 'q': z[:5] ** 2}, y[:5])
  assert few == association.Estimate()
