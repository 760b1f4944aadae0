"""A number, its 95% interval, and how it was obtained.

Every accuracy here is made of counts: correct out of a total. Intervals follow
from them by Wilson's score method, which keeps to [0, 1] and stays honest near
its ends, where a normal approximation around the estimate does not.
"""

from collections.abc import Sequence
import statistics
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE = 0.95


class Measurement(NamedTuple):
  """A number, its 95% interval, and one sentence on how it was obtained."""

  value: float
  low: float
  high: float
  protocol: str


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
  correct = np.asarray(correct, np.float64)
  total = np.asarray(total, np.float64)
  if np.any(total < 1) or np.any(correct < 0) or np.any(correct > total):
    raise ValueError(f'{correct} correct of {total} is not a proportion')
  z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
  share = correct / total
  centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
  spread = z * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
  half = spread / (1 + z**2 / total)
  # At 0 and n correct the bound is exactly 0 or 1; rounding must not say else.
  low = np.where(correct == 0, 0.0, np.maximum(centre - half, 0.0))
  high = np.where(correct == total, 1.0, np.minimum(centre + half, 1.0))
  return low, high


def simultaneous_intervals(
  correct: ArrayLike, total: ArrayLike, *, confidence: float = CONFIDENCE
) -> tuple[np.ndarray, np.ndarray]:
  """Intervals that hold for all K proportions at once (Bonferroni).

  Args:
    correct: Successes of each, shape ``[K]``.
    total: Trials of each, shape ``[K]``.
    confidence: Probability that all K intervals hold.

  Returns:
    ``(low [K], high [K])``: Wilson intervals at confidence
    ``1 - (1 - confidence) / K``.
  """
  return wilson_interval(
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
      'more in each, 95% simultaneous (Bonferroni) Wilson interval'
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


def _sentence(words):
  """With a capital first and a full stop last."""
  return f'{words[:1].upper()}{words[1:]}.'
