"""How a number that one can have goes with one that one wants, over models."""

from collections.abc import Mapping, Sequence
import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
import scipy.stats

from rrl_jax.errors import DataError

STATISTICS = (
  'pearson', 'spearman', 'kendall', 'r_squared', 'held_out_r_squared',
  'partial_pearson', 'partial_spearman',
)  # fmt: skip
MIN_MODELS = 3
_MIN_PARTIAL = 4  # With three, a partial correlation is 1 or -1.
_TINY = 1e-12  # Of a variance, relative: less is rounding.


class Estimate(NamedTuple):
  """A statistic over models; None for what is not defined.

  Attributes:
    value: The statistic.
    low: Lower end of its 95% bootstrap interval.
    high: Upper end.
    p_value: Two-sided, by permutation.
    holm: The same after Holm's correction for the number of indicators.
  """

  value: float | None = None
  low: float | None = None
  high: float | None = None
  p_value: float | None = None
  holm: float | None = None


class Weakest(NamedTuple):
  """What is left of a correlation without those that carry it.

  Attributes:
    value: The correlation of the other models; None where it is not defined.
    left_out: The recipes that were left out.
  """

  value: float | None = None
  left_out: tuple = ()


def associations(
  indicators: Mapping[str, ArrayLike],
  target: ArrayLike,
  *,
  control: ArrayLike | None = None,
  clusters: Sequence | None = None,
  resamples: int = 1000,
  permutations: int = 10_000,
  seed: int = 0,
) -> dict[str, dict[str, Estimate]]:
  """`associate` for each of several indicators, corrected for their number.

  Args:
    indicators: Name -> a number for each of M models, NaN where a model has
      none: there the association is one of the other models.
    target: What is to be predicted, ``[M]``.
    control: What is known anyway, ``[M]``, or None.
    clusters: As in `associate`, as are the rest.
    resamples: Bootstrap draws.
    permutations: Permutations.
    seed: Of both.

  Returns:
    Name -> statistic -> `Estimate`, Holm's p-values over all indicators, one
    family a statistic. An indicator that fewer than three models have gets
    undefined estimates.

  Raises:
    DataError: As `associate`.
  """
  target = _numbers('target', target)
  ids = _cluster_ids(clusters, len(target))
  found = {}
  for name, values in indicators.items():
    x = np.asarray(values, np.float64)
    if x.shape != target.shape:
      raise DataError(f'{name} has shape {x.shape}, target {target.shape}')
    kept = np.isfinite(x)
    if len(np.unique(ids[kept])) < MIN_MODELS:
      found[name] = dict.fromkeys(STATISTICS, Estimate())
      continue
    found[name] = associate(
      x[kept],
      target[kept],
      control=None if control is None else np.asarray(control)[kept],
      clusters=ids[kept],
      resamples=resamples,
      permutations=permutations,
      seed=seed,
    )
  for statistic in STATISTICS:
    corrected = holm([row[statistic].p_value for row in found.values()])
    for row, p_value in zip(found.values(), corrected, strict=True):
      row[statistic] = row[statistic]._replace(holm=p_value)
  return found


def associate(
  x: ArrayLike,
  y: ArrayLike,
  *,
  control: ArrayLike | None = None,
  clusters: Sequence | None = None,
  resamples: int = 1000,
  permutations: int = 10_000,
  seed: int = 0,
) -> dict[str, Estimate]:
  r"""How x goes with y over M models, and what is left of it given a control.

  ====================== ====================================================
  pearson, spearman      correlation of the numbers, of their mid-ranks
  kendall                tau-b, (P - Q) / sqrt((P + Q + T_x)(P + Q + T_y))
  r_squared              of the line with intercept, pearson squared
  held_out_r_squared     1 - SSE/SST, each model predicted by a line that was
                         fitted to the others; below 0 where the mean of all
                         would have done better
  partial_pearson,       correlation of what is left of x and of y (of their
  partial_spearman       ranks) when lines in the control are taken off
  ====================== ====================================================

  Intervals are percentiles of a bootstrap over models; draws in which a
  statistic is not defined (all x equal) are left out, and where these are more
  than half there is no interval. That of r_squared is the square of Pearson's,
  so that it holds 0 where that does; for the held-out R^2 the lines are fitted
  anew in each draw, with all copies of a model left out at once. p-values
  count, among random pairings of x with y, those at least as strong, the given
  one included; for the partial ones what is left of x is paired anew with what
  is left of y, and the line in the control is taken off it once more.

  Models of one recipe, trained with other seeds, are not independent:
  ``clusters`` names the recipe of each. Then the bootstrap draws recipes with
  all their models, a model is predicted without any of its recipe, and the
  permutations pair means over recipes.

  Args:
    x: The indicator, ``[M]``, M at least 3.
    y: The target, ``[M]``.
    control: What is known anyway, ``[M]``, or None.
    clusters: The recipe of each model, ``[M]``; None for each its own.
    resamples: Bootstrap draws; 0 gives no interval.
    permutations: Permutations; 0 gives no p-value.
    seed: Of both.

  Returns:
    Statistic (`STATISTICS`) to `Estimate`. What is not defined is None: all of
    a constant x or y, and the partial ones without a control, with fewer than
    four recipes, or where the control determines x or y.

  Raises:
    DataError: Fewer than three models or recipes, lengths that differ, or a
      number that is not finite.

  Example:
    >>> found = associate([1, 2, 3, 4], [1, 2, 4, 3], resamples=0)
    >>> print(f'{found["kendall"].value:.3f} {found["spearman"].value:.1f}')
    0.667 0.8

  References:
    The permutation of residuals is that of Freedman and Lane, A Nonstochastic
    Interpretation of Reported Significance Levels, Journal of Business and
    Economic Statistics 1, 1983. Without the second fit (Kennedy, 1995) null
    p-values are too small over few models: 16% below 0.05 over five.
  """
  x, y = _numbers('x', x), _numbers('y', y)
  z = None if control is None else _numbers('control', control)
  ids = _cluster_ids(clusters, len(x))
  for name, other in (('y', y), ('control', z)):
    if other is not None and len(other) != len(x):
      raise DataError(f'{name} has {len(other)} models, x has {len(x)}')
  num_clusters = ids.max() + 1
  if num_clusters < MIN_MODELS:
    what = 'models' if num_clusters == len(x) else 'recipes'
    raise DataError(
      f'{num_clusters} {what}: no association shows over fewer than'
      f' {MIN_MODELS}'
    )
  if z is not None and num_clusters < _MIN_PARTIAL:
    z = None
  rng = np.random.default_rng(seed)
  drawn = rng.multinomial(
    num_clusters, np.full(num_clusters, 1 / num_clusters), size=resamples
  )
  whole = statistics(x, y, z, ids, np.ones((1, len(x))))
  redrawn = statistics(x, y, z, ids, drawn[:, ids].astype(np.float64))
  p_values = _p_values(x, y, z, ids, permutations, rng)
  found = {
    name: _estimate(whole[name][0], redrawn[name], p_values.get(name))
    for name in STATISTICS
  }
  return found | {'r_squared': _squared(found['pearson'])}


def statistics(
  x: np.ndarray,
  y: np.ndarray,
  z: np.ndarray | None,
  ids: np.ndarray,
  weights: np.ndarray,
) -> dict[str, np.ndarray]:
  """The statistics of R samples in which models occur several times or never.

  Args:
    x: Indicator, float64 ``[M]``.
    y: Target, ``[M]``.
    z: Control, ``[M]``, or None.
    ids: Recipe of each model, ``[M]`` in [0, G).
    weights: How often each model occurs, ``[R, M]``.

  Returns:
    Statistic -> ``[R]``, NaN where it is not defined.
  """
  x, y = _standard(x), _standard(y)
  ranks = lambda v: _ranks(v, weights)
  xs, ys = _rows(x, weights), _rows(y, weights)
  r = _correlation(xs, ys, weights)
  found = {
    'pearson': r,
    'spearman': _correlation(ranks(x), ranks(y), weights),
    'kendall': _kendall(x, y, weights),
    'r_squared': r**2,
    'held_out_r_squared': _held_out_line(x, y, ids, weights),
    'partial_pearson': np.full(len(weights), np.nan),
    'partial_spearman': np.full(len(weights), np.nan),
  }
  if z is not None:
    z = _standard(z)
    zs = _rows(z, weights)
    found['partial_pearson'] = _partial(xs, ys, zs, weights)
    found['partial_spearman'] = _partial(ranks(x), ranks(y), ranks(z), weights)
  return found


def weakest_partial(
  x: ArrayLike,
  y: ArrayLike,
  control: ArrayLike,
  *,
  clusters: Sequence | None = None,
  leave_out: int = 2,
) -> Weakest:
  """The partial Pearson correlation when the recipes that carry it are gone.

  Of all ways to leave out so many recipes, the one that leaves least of the
  correlation of all models, or turns its sign. A linear association that a few
  outlying models make is small or of the other sign then.

  Args:
    x: The indicator, ``[M]``.
    y: The target, ``[M]``.
    control: What is known anyway, ``[M]``.
    clusters: The recipe of each model, ``[M]``; None for each its own.
    leave_out: How many recipes.

  Returns:
    What is left, and without which recipes; undefined where the correlation of
    all models is, or where fewer than four recipes would stay.

  Raises:
    DataError: As `associate`.

  Example:
    >>> x, y, z = [0, 1, 0, 1, 9], [1, 0, 0, 1, 9], [0, 0, 1, 1, 0]
    >>> found = weakest_partial(x, y, z, leave_out=1)
    >>> print(f'{found.value:.2f} without {found.left_out}')
    0.00 without (4,)
  """
  x, y, z = (
    _standard(_numbers(name, v))
    for name, v in (('x', x), ('y', y), ('control', control))
  )
  names = list(range(len(x))) if clusters is None else list(clusters)
  ids = _cluster_ids(clusters, len(x))
  num_clusters = ids.max() + 1
  if num_clusters - leave_out < _MIN_PARTIAL:
    return Weakest()
  gone = np.array(
    list(itertools.combinations(range(num_clusters), leave_out)), int
  )
  kept = np.ones((len(gone) + 1, num_clusters))
  kept[np.arange(len(gone))[:, None] + 1, gone] = 0
  weights = kept[:, ids]
  whole, *rest = _partial(*(_rows(v, weights) for v in (x, y, z)), weights)
  if np.isnan(whole) or np.all(np.isnan(rest)):
    return Weakest()
  least = int(np.nanargmin(np.sign(whole) * np.array(rest)))
  left_out = tuple(
    names[int(np.flatnonzero(ids == one)[0])] for one in gone[least]
  )
  return Weakest(float(rest[least]), left_out)


def combine(
  indicators: Mapping[str, ArrayLike],
  target: ArrayLike,
  *,
  clusters: Sequence | None = None,
  resamples: int = 1000,
  seed: int = 0,
) -> Estimate:
  """Held-out R^2 of several indicators together, by least squares.

  Each model is predicted by a fit to the z-scored indicators of the others;
  what stands in several indicators at once is shared out by the least norm.

  Args:
    indicators: Name -> a number for each of M models.
    target: ``[M]``.
    clusters: The recipe of each model, all of which is held out at once.
    resamples: Bootstrap draws of recipes.
    seed: Of the draws.

  Returns:
    The estimate, without p-value; undefined where the target is constant or
    there are fewer than three recipes more than indicators.

  Raises:
    DataError: As `associate`.
  """
  y = _numbers('target', target)
  ids = _cluster_ids(clusters, len(y))
  columns = [_numbers(name, values) for name, values in indicators.items()]
  for name, column in zip(indicators, columns, strict=True):
    if len(column) != len(y):
      raise DataError(f'{name} has {len(column)} models, target has {len(y)}')
  num_clusters = ids.max() + 1
  if num_clusters < MIN_MODELS:
    raise DataError(
      f'{num_clusters} models or recipes: fewer than {MIN_MODELS}'
    )
  if num_clusters < len(columns) + 3:
    return Estimate()
  y, features = _standard(y), np.stack(columns, axis=1)
  rng = np.random.default_rng(seed)
  drawn = rng.multinomial(
    num_clusters, np.full(num_clusters, 1 / num_clusters), size=resamples
  )
  samples = np.concatenate([np.ones((1, len(y))), drawn[:, ids]])
  errors = np.stack([_held_out_errors(features, y, ids, w) for w in samples])
  whole, *redrawn = _explained(errors, y, samples)
  return _estimate(whole, np.array(redrawn), None)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
  """Holm's p-values: of m tests the k-th smallest counts m - k + 1 fold.

  Args:
    p_values: One a test; None is no test.

  Returns:
    Corrected p-values in the same order, at most 1, never smaller than the
    given ones.

  Example:
    >>> holm([0.01, None, 0.04, 0.03])
    [0.03, None, 0.06, 0.06]
  """
  given = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
  corrected: list[float | None] = [None] * len(p_values)
  least = 0.0
  for k, (p, i) in enumerate(given):
    least = max(least, min((len(given) - k) * p, 1.0))
    corrected[i] = least
  return corrected


def _estimate(value, redrawn, p_value):
  """Value and percentiles; None for what is not defined."""
  if not np.isfinite(value):
    return Estimate()
  defined = redrawn[np.isfinite(redrawn)]
  low = high = None
  if len(redrawn) and 2 * len(defined) >= len(redrawn):
    low, high = (float(q) for q in np.quantile(defined, (0.025, 0.975)))
  return Estimate(float(value), low, high, p_value)


def _squared(r):
  """The estimate of a correlation's square."""
  if r.value is None:
    return Estimate()
  if r.low is None:
    return Estimate(r.value**2)
  ends = sorted((r.low**2, r.high**2))
  low = 0.0 if r.low < 0 < r.high else ends[0]
  return Estimate(r.value**2, low, ends[1])


def _rows(v, weights):
  """The same numbers for each sample."""
  return np.broadcast_to(v, weights.shape)


def _ranks(v, weights):
  """Mid-ranks in each sample, ``[R, M]``."""
  before = (v[None, :] < v[:, None]) + 0.5 * (v[None, :] == v[:, None])
  return weights @ before.T + 0.5


def _correlation(a, b, weights):
  """Pearson's correlation in each sample, ``[R]``; NaN of a constant."""
  a, b = _centred(a, weights), _centred(b, weights)
  product = lambda u, v: np.sum(weights * u * v, axis=-1)
  return _ratio(
    product(a, b), product(a, a), product(b, b), np.sum(weights, axis=-1)
  )


def _centred(a, weights):
  """Less the mean of its sample."""
  total = np.sum(weights, axis=-1, keepdims=True)
  return a - np.sum(weights * a, axis=-1, keepdims=True) / total


def _ratio(product, first, second, scale):
  """``product / sqrt(first * second)``; NaN where either is nothing."""
  there = np.minimum(first, second) > _TINY * scale
  root = np.sqrt(np.where(there, first * second, 1))
  return np.where(there, np.clip(product / root, -1, 1), np.nan)


def _partial(a, b, c, weights):
  """Partial correlation of a and b given c in each sample."""
  ab = _correlation(a, b, weights)
  ac = _correlation(a, c, weights)
  bc = _correlation(b, c, weights)
  # A control that is constant in a sample takes nothing off.
  ac, bc = (
    np.where(np.isnan(each) & ~np.isnan(ab), 0.0, each) for each in (ac, bc)
  )
  # Nothing is left of what the control determines, but for rounding.
  return _ratio(ab - ac * bc, 1 - ac**2, 1 - bc**2, 1e3)


def _kendall(x, y, weights):
  """Tau-b in each sample."""
  sign_x = np.sign(x[:, None] - x[None, :])
  sign_y = np.sign(y[:, None] - y[None, :])
  pairs = lambda m: np.sum((weights @ m) * weights, axis=-1)
  return _ratio(pairs(sign_x * sign_y), pairs(sign_x**2), pairs(sign_y**2), 1.0)


def _standard(v):
  """Zero mean and unit variance; zeros of a constant."""
  spread = np.std(v)
  constant = spread <= _TINY * max(np.max(np.abs(v)), _TINY)
  return np.zeros_like(v) if constant else (v - np.mean(v)) / spread


def _held_out_errors(features, y, ids, weights):
  """Of each model the error of a fit to the models of other recipes, ``[M]``.

  Args:
    features: Columns, ``[M, P]``.
    y: Target, ``[M]``.
    ids: Recipe of each model.
    weights: How often each model occurs; the error of one that does not is 0.
  """
  errors = np.zeros(len(y))
  for one in np.unique(ids[weights > 0]):
    rest, held = (ids != one) & (weights > 0), ids == one
    share = weights[rest] / weights[rest].sum()
    mean = share @ features[rest]
    spread = np.sqrt(share @ (features[rest] - mean) ** 2)
    varies = spread > _TINY * np.abs(features[rest]).max(axis=0)
    scores = np.where(
      varies, (features - mean) / np.where(varies, spread, 1), 0
    )
    centre, root = share @ y[rest], np.sqrt(weights[rest])
    left, right = root[:, None] * scores[rest], root * (y[rest] - centre)
    slopes = np.linalg.lstsq(left, right, rcond=1e-9)[0]
    errors[held] = y[held] - centre - scores[held] @ slopes
  return errors


def _held_out_line(x, y, ids, weights):
  """R^2 of lines fitted to the models of other recipes, in each sample.

  The line of a recipe follows from the sums over all models less its own.

  Args:
    x: Indicator, standardised, ``[M]``.
    y: Target, standardised, ``[M]``.
    ids: Recipe of each model, ``[M]`` in [0, G).
    weights: How often each model occurs, ``[R, M]``.

  Returns:
    ``[R]``, NaN where x or y is constant.
  """
  member = np.eye(ids.max() + 1)[ids]  # [M, G]
  columns = np.ones_like(x), x, y, x * x, x * y
  own = [(weights * column) @ member for column in columns]  # Each [R, G].
  n, sx, sy, sxx, sxy = (s.sum(axis=1, keepdims=True) - s for s in own)
  total = np.where(n > 0, n, 1)
  mean_x, mean_y = sx / total, sy / total
  spread = sxx / total - mean_x**2
  # Of a constant x nothing is told, and the mean is predicted.
  varies = spread > _TINY
  slope = np.where(
    varies,
    (sxy / total - mean_x * mean_y) / np.where(varies, spread, 1),
    0,
  )
  predicted = mean_y[:, ids] + slope[:, ids] * (x - mean_x[:, ids])
  found = _explained(y - predicted, y, weights)
  constant = _centred(_rows(x, weights), weights) ** 2
  there = np.sum(weights * constant, axis=1) > _TINY * np.sum(weights, axis=1)
  return np.where(there, found, np.nan)


def _explained(errors, y, weights):
  """R^2 of given errors in each sample, ``[R]``; NaN where y is constant."""
  total = np.sum(weights, axis=1)
  sst = np.sum(weights * _centred(_rows(y, weights), weights) ** 2, axis=1)
  sse = np.sum(weights * errors**2, axis=1)
  varies = sst > _TINY * total
  return np.where(varies, 1 - sse / np.where(varies, sst, 1), np.nan)


def _p_values(x, y, z, ids, permutations, rng):
  """Two-sided p-value of each correlation, by permutation over recipes."""
  if not permutations:
    return {}
  size = np.bincount(ids)
  mean = lambda v: None if v is None else np.bincount(ids, v) / size
  x, y, z = mean(x), mean(y), mean(z)
  order = np.argsort(rng.random((permutations, len(x))), axis=1)
  ranked = [None if v is None else scipy.stats.rankdata(v) for v in (x, y, z)]
  found = {}
  for name, (a, b, c) in (('pearson', (x, y, z)), ('spearman', ranked)):
    found[name] = _permuted(_unit(a), _unit(b), order)
    if c is not None:
      found[f'partial_{name}'] = _permuted_partial(a, b, c, order)
  found['kendall'] = _permuted_kendall(x, y, order)
  return found


def _permuted(a, b, order):
  """Share of pairings whose product is as large; None of nothing."""
  if a is None or b is None:
    return None
  return _share(a[order] @ b, a @ b)


def _permuted_partial(a, b, c, order):
  """The same for what is left of both when a line in c is taken off.

  What is left of a and then permuted has a line in c again, which is taken
  off before it is compared (Freedman and Lane).
  """
  a, b, c = _left(a, c), _left(b, c), _unit(c)
  if a is None or b is None or c is None:
    return _permuted(a, b, order)
  shuffled = a[order]
  shuffled = shuffled - (shuffled @ c)[:, None] * c
  lengths = np.linalg.norm(shuffled, axis=1)
  products = shuffled @ b / np.where(lengths > 3e-5, lengths, np.inf)
  return _share(products, a @ b)


def _permuted_kendall(x, y, order):
  """The same for concordant less discordant pairs."""
  if np.ptp(x) == 0 or np.ptp(y) == 0:
    return None
  i, j = np.triu_indices(len(x), 1)
  signs = np.sign(y[i] - y[j])
  products = np.concatenate(
    [np.sign(x[part[:, i]] - x[part[:, j]]) @ signs for part in _parts(order)]
  )
  return _share(products, np.sign(x[i] - x[j]) @ signs)


def _parts(order, rows=500):
  """Rows, a few at a time: all pairs of all would fill the memory."""
  return [order[k : k + rows] for k in range(0, len(order), rows)]


def _share(products, observed):
  """Share at least as far from zero, the observed one counted."""
  as_far = np.abs(products) >= abs(observed) - 1e-9
  return float((1 + np.sum(as_far)) / (1 + len(products)))


def _unit(v):
  """Centred, of length 1; None of a constant."""
  v = _standard(v)
  length = np.linalg.norm(v)
  return v / length if length > 0 else None


def _left(v, c):
  """What is left of v when a line in c is taken off, of length 1, or None."""
  v, c = _unit(v), _unit(c)
  if v is None or c is None:
    return v
  left = v - (v @ c) * c
  length = np.linalg.norm(left)
  return left / length if length > 3e-5 else None


def _numbers(name, values):
  """Checked numbers, float64 [M]."""
  values = np.asarray(values, np.float64)
  if values.ndim != 1 or not np.all(np.isfinite(values)):
    raise DataError(f'{name}: one finite number a model, got {values}')
  return values


def _cluster_ids(clusters, num_models):
  """Recipes as 0 to G - 1."""
  if clusters is None:
    return np.arange(num_models)
  if len(clusters) != num_models:
    raise DataError(f'clusters: {len(clusters)} for {num_models} models')
  return np.unique(list(clusters), return_inverse=True)[1]
