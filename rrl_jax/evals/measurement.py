"""A number, its 95% interval, and how it was obtained.

Every accuracy here is made of counts: correct out of a total. Intervals follow
from them by Wilson's score method, which keeps to [0, 1] and stays honest near
its ends, where a normal approximation around the estimate does not; the worst
of several groups has Clopper and Pearson's. A mean over
examples of what lies within bounds has the same with an effective number of
examples; what is no such mean has DeLong's interval (a ROC area) or a
bootstrap's.
"""

from collections.abc import Callable, Sequence
import statistics
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
import scipy.special

CONFIDENCE = 0.95
_FEW = 20  # Examples of one kind: an area near 1 is held in 83 to 87% of draws.


class Measurement(NamedTuple):
  """A number, its 95% interval, and one sentence on how it was obtained."""

  value: float
  low: float
  high: float
  protocol: str


def key_part(name: str) -> str:
  """The name of a class or group as a part of a measurement's key.

  Keys are parted by ``/``, and the ends of an interval are the keys with
  ``.low`` and ``.high`` behind: a name that holds the one or ends in the other
  is escaped as in a URL, so that no two numbers have one key.

  Args:
    name: Any text.

  Returns:
    The name, mostly; another one for each other name.

  Example:
    >>> key_part('risk'), key_part('risk.low'), key_part('cats/dogs')
    ('risk', 'risk%2Elow', 'cats%2Fdogs')
  """
  name = name.replace('%', '%25').replace('/', '%2F')
  for end in ('low', 'high'):
    if name.endswith(f'.{end}'):
      return f'{name[: -len(end) - 1]}%2E{end}'
  return name


def wilson_interval(
  correct: ArrayLike, total: ArrayLike, *, confidence: float = CONFIDENCE
) -> tuple[np.ndarray, np.ndarray]:
  r"""Wilson's score interval of a proportion.

  The interval holds every p that a two-sided score test does not reject:
  with z the normal quantile, :math:`|\hat p - p| \le z \sqrt{p(1-p)/n}`.

  Args:
    correct: Number of successes, any shape.
    total: Number of trials n, at least 1, same shape.
    confidence: Coverage, in (0, 1).

  Returns:
    ``(low, high)`` in [0, 1], float64, each of the shape of ``correct``.

  Raises:
    ValueError: No trials, or more successes than trials.

  Example:
    >>> low, high = wilson_interval(8, 10)
    >>> print(f'{low:.4f} {high:.4f}')
    0.4902 0.9433

  References:
    Wilson, Probable inference, the law of succession, and statistical
    inference, JASA 22, 1927.
  """
  correct, total = _counts(correct, total)
  z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
  share = correct / total
  centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
  spread = z * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
  half = spread / (1 + z**2 / total)
  # At 0 and n correct the bound is exactly 0 or 1; rounding must not say else.
  low = np.where(correct == 0, 0.0, np.maximum(centre - half, 0.0))
  high = np.where(correct == total, 1.0, np.minimum(centre + half, 1.0))
  return low, high


def clopper_pearson_interval(
  correct: ArrayLike, total: ArrayLike, *, confidence: float = CONFIDENCE
) -> tuple[np.ndarray, np.ndarray]:
  """Exact binomial interval of a proportion: it holds at least as often.

  The interval holds every p for which neither so few successes nor so many
  have a probability below ``(1 - confidence) / 2``. Where the confidence is
  near 1, as for one of many groups, Wilson's is too short next to 0 and 1.

  Args:
    correct: Number of successes, any shape.
    total: Number of trials n, at least 1, same shape.
    confidence: Coverage, in (0, 1).

  Returns:
    ``(low, high)`` in [0, 1], float64, each of the shape of ``correct``.

  Raises:
    ValueError: No trials, or more successes than trials.

  Example:
    >>> low, high = clopper_pearson_interval(8, 10)
    >>> print(f'{low:.4f} {high:.4f}')
    0.4439 0.9748

  References:
    Clopper and Pearson, The use of confidence or fiducial limits illustrated
    in the case of the binomial, Biometrika 26, 1934.
  """
  correct, total = _counts(correct, total)
  tail = (1 - confidence) / 2
  # Of 0 successes the lower end is 0, and of n the upper end is 1.
  quantile = lambda a, b, p: scipy.special.betaincinv(
    np.maximum(a, 1), np.maximum(b, 1), p
  )
  low = quantile(correct, total - correct + 1, tail)
  high = quantile(correct + 1, total - correct, 1 - tail)
  return np.where(correct > 0, low, 0.0), np.where(correct < total, high, 1.0)


def simultaneous_intervals(
  correct: ArrayLike, total: ArrayLike, *, confidence: float = CONFIDENCE
) -> tuple[np.ndarray, np.ndarray]:
  """Intervals that hold for all K proportions at once (Bonferroni).

  Args:
    correct: Successes of each, shape ``[K]``.
    total: Trials of each, shape ``[K]``.
    confidence: Probability that all K intervals hold.

  Returns:
    ``(low [K], high [K])``: Clopper-Pearson intervals at confidence
    ``1 - (1 - confidence) / K``, where Wilson's is too short: with ten groups
    of 30 at an accuracy of 99% it held all in 69% of draws.
  """
  return clopper_pearson_interval(
    correct, total, confidence=1 - (1 - confidence) / np.size(correct)
  )


def mover_interval(
  values: ArrayLike, lows: ArrayLike, highs: ArrayLike, weights: ArrayLike
) -> tuple[float, float]:
  r"""Interval of a weighted mean from the intervals of its parts (MOVER).

  The method of variance estimates recovery: the distance of the mean to its
  bound is the root of the summed squares of the parts' weighted distances,
  :math:`L = \sum_i w_i v_i - \sqrt{\sum_i w_i^2 (v_i - l_i)^2}`, and likewise
  above. With one part it is that part's interval. It supposes independent
  parts: parts that share examples make it approximate.

  Args:
    values: Estimates of the parts, shape ``[K]``.
    lows: Their lower bounds, shape ``[K]``.
    highs: Their upper bounds, shape ``[K]``.
    weights: Non-negative weights, shape ``[K]``.

  Returns:
    ``(low, high)``.

  References:
    Zou and Donner, `Construction of confidence limits about effect measures
    <https://doi.org/10.1002/sim.3095>`_, Statistics in Medicine, 2008.
  """
  values, lows, highs, weights = (
    np.asarray(x, np.float64) for x in (values, lows, highs, weights)
  )
  mean = np.sum(weights * values)
  below = np.sqrt(np.sum((weights * (values - lows)) ** 2))
  above = np.sqrt(np.sum((weights * (highs - values)) ** 2))
  return float(mean - below), float(mean + above)


def proportion(correct: int, total: int, protocol: str) -> Measurement:
  """Accuracy from counts.

  Args:
    correct: Examples that are right.
    total: Examples n.
    protocol: What was counted; n and the interval are added to it.

  Returns:
    ``correct / total`` with its Wilson interval.
  """
  low, high = wilson_interval(correct, total)
  return Measurement(
    float(correct) / float(total),
    float(low),
    float(high),
    _sentence(f'{protocol}; n={int(total)}, 95% Wilson interval'),
  )


def minimum(correct: ArrayLike, total: ArrayLike, protocol: str) -> Measurement:
  """Smallest of K proportions, whichever that is.

  The interval is the smallest lower to the smallest upper bound of intervals
  that hold simultaneously, so picking the minimum after looking is paid for.

  Args:
    correct: Successes of each, shape ``[K]``.
    total: Trials of each, at least 1, shape ``[K]``.
    protocol: What was counted; K, n and the interval are added to it.

  Returns:
    The smallest ``correct / total``.
  """
  correct, total = np.asarray(correct), np.asarray(total)
  low, high = simultaneous_intervals(correct, total)
  return Measurement(
    float(np.min(correct / total)),
    float(np.min(low)),
    float(np.min(high)),
    _sentence(
      f'{protocol}; minimum over {correct.size}, n={int(np.min(total))} or '
      'more in each, 95% simultaneous (Bonferroni) Clopper-Pearson interval'
    ),
  )


def weighted_mean(
  correct: ArrayLike, total: ArrayLike, weights: ArrayLike, protocol: str
) -> Measurement:
  """Weighted mean of K independent proportions.

  Args:
    correct: Successes of each, shape ``[K]``.
    total: Trials of each, at least 1, shape ``[K]``.
    weights: Weights of the mean, non-negative, sum 1, shape ``[K]``.
    protocol: What was counted; K, n and the interval are added to it.

  Returns:
    The mean with its MOVER interval.
  """
  correct, total = np.asarray(correct), np.asarray(total)
  values = correct / total
  low, high = mover_interval(values, *wilson_interval(correct, total), weights)
  return Measurement(
    float(np.sum(np.asarray(weights) * values)),
    low,
    high,
    _sentence(
      f'{protocol}; n={int(np.sum(total))} in {correct.size} parts, '
      '95% MOVER interval of their Wilson intervals'
    ),
  )


def mean(parts: Sequence[Measurement], protocol: str) -> Measurement:
  """Plain mean of measurements on different tasks.

  Args:
    parts: Measurements on disjoint examples; with shared examples the
      interval is approximate.
    protocol: What was measured; their number and the interval are added.

  Returns:
    The mean with its MOVER interval.
  """
  values, lows, highs, _ = zip(*parts, strict=True)
  weights = np.full(len(parts), 1 / len(parts))
  low, high = mover_interval(values, lows, highs, weights)
  return Measurement(
    float(np.mean(values)),
    low,
    high,
    _sentence(
      f'{protocol}; mean over {len(parts)} '
      f'task{"s" if len(parts) > 1 else ""}, 95% MOVER interval'
    ),
  )


def bounded_mean(
  values: ArrayLike, protocol: str, *, bounds: tuple[float, float] = (0.0, 1.0)
) -> Measurement:
  r"""Mean over examples of what lies within bounds, in closed form.

  The interval is Wilson's, of an effective number of examples. With values
  moved to [0, 1], mean p and variance v,

  .. math:: n_\mathrm{eff} = n \frac{p (1 - p)}{v} \ge n,

  so that of 0 and 1 it is Wilson's own, and the shares of many outcomes of
  one example narrow it as far as these differ. In the ratio, and there
  alone, :math:`z^2 / 2` examples at each bound stand beside those seen, as
  Wilson's centre has them: where all values are alike the interval is not
  without a width but that of :math:`3.84 / n`, or less between the bounds.

  Args:
    values: One of each of N independent examples, ``[N]``.
    protocol: What was measured; N and the interval are added to it.
    bounds: Of the values.

  Returns:
    The mean with its 95% interval, which holds it and keeps to the bounds.

  Raises:
    ValueError: No values, or one out of bounds.

  References:
    Kish, Survey Sampling, 1965 (effective sample size); Dean and Pagano,
    `Evaluating Confidence Interval Methods for Binomial Proportions in
    Clustered Surveys <https://doi.org/10.1093/jssam/smv024>`_, 2015 (Wilson's
    interval with it); Agresti and Coull, Approximate is Better than "Exact"
    for Interval Estimation of Binomial Proportions, The American Statistician
    52, 1998 (the examples added).
  """
  values = np.asarray(values, np.float64)
  bottom, top = bounds
  slack = 1e-9 * (top - bottom)
  if not (
    values.size
    and bottom - slack <= values.min() <= values.max() <= top + slack
  ):
    raise ValueError(f'{values} is not within {bounds}')
  shares = np.clip((values - bottom) / (top - bottom), 0, 1)
  z2 = statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2) ** 2
  centre = (shares.sum() + z2 / 2) / (shares.size + z2)
  square = (np.square(shares).sum() + z2 / 2) / (shares.size + z2)
  times = centre * (1 - centre) / (square - centre**2)
  effective = shares.size * max(times, 1.0)  # Below by rounding alone.
  share = shares.mean()
  low, high = wilson_interval(share * effective, effective)
  value = float(values.mean())
  return Measurement(
    value,
    min(bottom + (top - bottom) * float(low), value),
    max(bottom + (top - bottom) * float(high), value),
    _sentence(
      f'{protocol}; {shares.size} examples, {CONFIDENCE:.0%} Wilson interval'
      f' of {effective:.0f} effective ones'
    ),
  )


def ratio_of_means(
  numerator: ArrayLike, denominator: ArrayLike, protocol: str
) -> Measurement:
  r"""Ratio of the means of two columns of shares of the same examples.

  With the ratio r the interval is that of the mean of :math:`x_i - r y_i`, see
  `bounded_mean`, over the mean of y (linearisation): it is not narrower than
  examples suffice for where each x is its y.

  Args:
    numerator: x in [0, 1] of each of N examples, ``[N]``.
    denominator: y in [0, 1], not all 0, ``[N]``.
    protocol: What was measured; N and the interval are added to it.

  Returns:
    The ratio with its 95% interval, which holds it and is not below 0.
  """
  numerator, denominator = (
    np.asarray(x, np.float64) for x in (numerator, denominator)
  )
  mean = denominator.mean()
  value = float(numerator.mean() / mean)
  found = bounded_mean(
    numerator - value * denominator,
    f'{protocol}; linearised',
    bounds=(-value, 1.0),
  )
  return Measurement(
    value,
    float(max(value + min(found.low, 0.0) / mean, 0.0)),
    float(value + max(found.high, 0.0) / mean),
    found.protocol,
  )


def exact(value: float, protocol: str) -> Measurement:
  """A number without a sampling error: counted, or made by the run itself."""
  value = float(value)
  return Measurement(value, value, value, _sentence(f'{protocol}; exact'))


def area_under_roc(
  scores: ArrayLike, positive: ArrayLike, protocol: str
) -> Measurement:
  r"""Probability that a positive example scores higher than a negative one.

  Ties count half. The interval is DeLong's, on the scale of the logit, where
  it keeps what it promises near 0 and 1 too: with the placements :math:`V_i`
  of the positives among the negatives and :math:`W_j` of the negatives among
  the positives, the variance is
  :math:`\mathrm{var}(V)/n_+ + \mathrm{var}(W)/n_-`. Where no variance is seen
  (all told apart, or all scores equal) the rule of three has a say: three
  over the number of the rarer.

  Args:
    scores: Higher means positive, shape ``[N]``.
    positive: Booleans ``[N]`` with both values.
    protocol: What was measured; the interval is added.

  Returns:
    The area with its 95% interval, within [0, 1].

  References:
    DeLong, DeLong, Clarke-Pearson, Comparing the Areas under Two or More
    Correlated Receiver Operating Characteristic Curves, Biometrics 44, 1988;
    Pepe, The Statistical Evaluation of Medical Tests for Classification and
    Prediction, 2003 (the logit).
  """
  scores, positive = np.asarray(scores, float), np.asarray(positive, bool)
  high, low = scores[positive], scores[~positive]
  # Of each positive the share of negatives below it, ties by half.
  above = _placements(high, low)
  below = 1 - _placements(low, high)
  area = above.mean()
  variance = sum(
    v.var(ddof=1) / len(v) if len(v) > 1 else 0.25 for v in (above, below)
  )
  quantile = statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
  few = ''
  if min(len(high), len(low)) < _FEW:
    few = ', which holds less often than it promises with so few of one kind'
  if area in (0, 1) or variance == 0:
    reach = 3 / min(len(high), len(low))
    ends = max(area - reach, 0), min(area + reach, 1)
  else:
    reach = quantile * np.sqrt(variance) / (area * (1 - area))
    odds = np.log(area / (1 - area))
    ends = (1 / (1 + np.exp(-x)) for x in (odds - reach, odds + reach))
  return Measurement(
    float(area),
    *map(float, ends),
    _sentence(
      f'area under the ROC curve of {protocol}; {len(high)} against {len(low)}'
      f' examples, {CONFIDENCE:.0%} DeLong interval{few}'
    ),
  )


def bootstrap(
  statistic: Callable[..., float],
  columns: Sequence[np.ndarray],
  protocol: str,
  *,
  strata: np.ndarray | None = None,
  resamples: int = 200,
  bounds: tuple[float, float] = (0.0, 1.0),
) -> Measurement:
  """Any statistic of examples, with 1.96 bootstrap standard errors around it.

  Percentiles of the resamples would leave a biased statistic out of its own
  interval, near 0 for one. Where all resamples agree they say nothing about
  what was not seen; within finite bounds the rule of three does then: three
  over the number of examples, or of those in the smallest stratum, of the way
  between the bounds. Means of what lies within bounds have `bounded_mean`.

  Args:
    statistic: Of the columns, any subset of examples with repetitions.
    columns: Arrays with one row for each of N examples.
    protocol: What was measured; the interval is added.
    strata: Group of each example, ``[N]``, whose sizes a resample keeps.
    resamples: Their number; without any the interval is not a number.
    bounds: Of the statistic; the interval is cut to them.

  Returns:
    The statistic with its 95% interval. The draws are the same each time.
  """
  value = float(statistic(*columns))
  total = len(columns[0])
  if not resamples:
    return Measurement(
      value, np.nan, np.nan, _sentence(f'{protocol}; {total} examples')
    )
  rng = np.random.default_rng(0)
  groups = [np.arange(total)]
  if strata is not None:
    groups = [np.flatnonzero(strata == g) for g in np.unique(strata)]
  values = []
  for _ in range(resamples):
    rows = np.concatenate([rng.choice(g, len(g)) for g in groups])
    values.append(statistic(*(column[rows] for column in columns)))
  quantile = statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
  reach = quantile * float(np.std(values, ddof=1)) if resamples > 1 else np.inf
  if np.ptp(values) < 1e-12 and np.isfinite(bounds).all():
    reach = 3 / min(map(len, groups)) * (bounds[1] - bounds[0])
  return Measurement(
    value,
    max(value - reach, bounds[0]),
    min(value + reach, bounds[1]),
    _sentence(
      f'{protocol}; {total} examples, {CONFIDENCE:.0%} interval from the'
      f' standard error over {resamples} bootstrap resamples'
    ),
  )


def _counts(correct, total):
  """Both as float64, or ValueError."""
  correct = np.asarray(correct, np.float64)
  total = np.asarray(total, np.float64)
  if not (np.all(total >= 1) and np.all((correct >= 0) & (correct <= total))):
    raise ValueError(f'{correct} correct of {total} is not a proportion')
  return correct, total


def _placements(points, others):
  """Of each point the share of others below it, ties by half."""
  others = np.sort(others)
  return (
    np.searchsorted(others, points, 'left')
    + np.searchsorted(others, points, 'right')
  ) / (2 * len(others))


def _sentence(words):
  """With a capital first and a full stop last."""
  return f'{words[:1].upper()}{words[1:]}.'
