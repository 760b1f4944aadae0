"""Whether a confidence of 80% is right 80% of the time."""

from collections.abc import Iterator
import statistics

import jax
import numpy as np
import scipy.optimize
import scipy.special

from rrl_jax.errors import DataError
from rrl_jax.evals import measurement, rules
from rrl_jax.evals.encoder import Encoder
from rrl_jax.evals.measurement import Measurement
from rrl_jax.evals.prediction import predicted
from rrl_jax.evals.task import EvalData, test_images

RULES = {'num_bins': rules.POSITIVE_COUNT, 'resamples': rules.COUNT}


def evaluate(
  encoder: Encoder,
  data: EvalData,
  *,
  key: jax.Array,
  num_bins: int = 15,
  resamples: int = 200,
) -> Iterator[tuple[str, Measurement | np.ndarray]]:
  r"""Expected calibration error and log loss on clean test images.

  .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{N}
            \left|\mathrm{acc}_b - \mathrm{conf}_b\right|

  over bins b of equal width in the confidence, the largest probability. The
  value is this plain estimate, biased upwards by some ``sqrt(num_bins / N)``,
  as noise in a bin counts whatever its sign. Its interval is not around it but
  of the error itself: it reaches down to 0 where noise alone makes as much.

  Args:
    encoder: What is evaluated.
    data: ``test``.
    key: Not used.
    num_bins: Bins of the confidence.
    resamples: Of the bootstrap that gives the interval of the log loss; 0
      leaves it out.

  Yields:
    ``test/calibration_error`` (a fraction), ``test/log_loss`` (nats), and the
    bins as figures.

  Raises:
    DataError: Logits that are NaN: there is no confidence.

  References:
    Guo et al., `On Calibration of Modern Neural Networks
    <https://arxiv.org/abs/1706.04599>`_, 2017.
  """
  del key
  rules.check(
    'calibration', RULES, {'num_bins': num_bins, 'resamples': resamples}
  )
  labels = data.test.labels
  logits, _ = encoder.predict(data.test.images)
  unknown = np.isnan(logits).any(axis=-1)
  if unknown.any():
    raise DataError(
      f'evals.calibration: logits of {unknown.sum()} of {len(unknown)} test'
      ' images are NaN, so that they have no confidence'
    )
  log_p = scipy.special.log_softmax(logits.astype(np.float64), axis=-1)
  confidence = np.exp(log_p.max(axis=-1))
  right = predicted(logits) == labels
  bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
  yield (
    'test/calibration_error',
    calibration_error(
      bins, right, confidence, num_bins, test_images(data.test)
    ),
  )
  yield (
    'test/log_loss',
    measurement.bootstrap(
      lambda log_p: -log_p.mean(),
      (log_p[np.arange(len(labels)), labels],),
      f'mean cross entropy in nats, {test_images(data.test)}, with an interval'
      ' that is too short where a few confident errors make most of it',
      resamples=resamples,
      bounds=(0.0, np.inf),
    ),
  )
  count = lambda weights: np.bincount(bins, weights, minlength=num_bins)
  yield 'figure/calibration_count', np.bincount(bins, minlength=num_bins)
  yield 'figure/calibration_right', count(right.astype(float))
  yield 'figure/calibration_confidence', count(confidence)


def calibration_error(
  bins: np.ndarray,
  right: np.ndarray,
  confidence: np.ndarray,
  num_bins: int,
  images: str,
) -> Measurement:
  """The plain estimate, and the errors that may well have made it.

  The standard error of a bin is at least that of a calibrated one: where none
  of few confident examples is wrong, their spread says too little.

  Args:
    bins: Bin of each example, ``[N]`` in [0, num_bins).
    right: Whether it is right, ``[N]``.
    confidence: Its largest probability, ``[N]``.
    num_bins: Number of bins.
    images: What the examples are, for the protocol.

  Returns:
    The error, a fraction, with `error_interval`.
  """
  gaps = right - confidence
  total = len(gaps)
  by_bin = np.bincount(bins, gaps, minlength=num_bins) / total
  squares = np.bincount(bins, gaps**2, minlength=num_bins) / total
  calibrated = np.bincount(
    bins, confidence * (1 - confidence), minlength=num_bins
  )
  variance = np.maximum(squares - by_bin**2, calibrated / total) / total
  value = float(np.abs(by_bin).sum())
  low, high = error_interval(by_bin, np.sqrt(variance))
  overall = measurement.bounded_mean(gaps, '', bounds=(-1.0, 1.0))
  return Measurement(
    value,
    min(low, value),
    max(high, value, -overall.low, overall.high),
    f'Expected calibration error, {num_bins} bins of equal width, {images}:'
    f' {total} examples; the value is biased upwards,'
    f' {measurement.CONFIDENCE:.0%} interval of the error without that bias,'
    ' by inversion of normal tests for four shapes of the gaps, widened to hold'
    ' the value.',
  )


def error_interval(
  gaps: np.ndarray,
  deviations: np.ndarray,
  shapes: tuple[np.ndarray, ...] = (),
) -> tuple[float, float]:
  r"""Interval of :math:`\sum_b |\gamma_b|` from noisy gaps of bins.

  If the true gaps were t times a shape h, the estimate would be
  :math:`\sum_b |t h_b + s_b Z_b|`, whose mean and variance follow from those of
  the folded normal. The interval has every error :math:`t \sum_b h_b` for which
  the estimate that was made is within 1.96 standard deviations of that mean.
  The noise of a calibrated bin adds to the estimate and that of a bin with a
  large gap does not, so that the shape matters: it is not known, and the
  interval is the union of those for the gaps as they were seen, for those above
  2 and above 3 standard errors alone, and for the standard errors themselves.

  Args:
    gaps: Estimated gap of each bin, a part of the whole, ``[bins]``.
    deviations: Its standard error, at least 0, ``[bins]``.
    shapes: Other shapes to take the union of.

  Returns:
    ``(low, high)``, at least 0. Over the shapes in ``benchmarks/coverage.py``
    it holds the error in at least 94% of draws.
  """
  seen = np.abs(gaps)
  deviations = np.maximum(deviations, 1e-15)
  shapes = shapes or (
    seen,
    np.where(seen > 2 * deviations, seen, 0),
    np.where(seen > 3 * deviations, seen, 0),
    deviations,
  )
  estimate = seen.sum()
  ends = [
    [_inverted(estimate, shape, deviations, side) for side in (1, -1)]
    for shape in shapes
  ]
  lows, highs = zip(*ends, strict=True)
  return min(lows), max(highs)


def _inverted(estimate, shape, deviations, side):
  """The error of a shape that makes an estimate so far from its mean.

  It is the smallest for a ``side`` of 1, the largest for one of -1.
  """
  quantile = statistics.NormalDist().inv_cdf((1 + measurement.CONFIDENCE) / 2)

  def excess(t):
    ratio = t * shape / deviations
    mean = deviations * (
      np.sqrt(2 / np.pi) * np.exp(-(ratio**2) / 2)
      + ratio * scipy.special.erf(ratio / np.sqrt(2))
    )
    variance = np.sum((1 + ratio**2) * deviations**2 - mean**2)
    return mean.sum() + side * quantile * np.sqrt(max(variance, 0)) - estimate

  if not shape.any() or excess(0.0) >= 0:
    return 0.0
  most = 1.0
  while excess(most) < 0:
    most *= 2
  return float(shape.sum() * scipy.optimize.brentq(excess, 0.0, most))
