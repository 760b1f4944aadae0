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
    _error(bins, right - confidence, num_bins, test_images(data.test)),
  )
  yield (
    'test/log_loss',
    measurement.bootstrap(
      lambda log_p: -log_p.mean(),
      (log_p[np.arange(len(labels)), labels],),
      f'mean cross entropy in nats, {test_images(data.test)}',
      resamples=resamples,
      bounds=(0.0, np.inf),
    ),
  )
  count = lambda weights: np.bincount(bins, weights, minlength=num_bins)
  yield 'figure/calibration_count', np.bincount(bins, minlength=num_bins)
  yield 'figure/calibration_right', count(right.astype(float))
  yield 'figure/calibration_confidence', count(confidence)


def _error(bins, gaps, num_bins, images):
  r"""The plain estimate, and the errors that may well have made it.

  With :math:`g_b` the sum of right minus confidence in bin b over N and
  :math:`s_b` its standard error, an error of :math:`t \sum_b |g_b|` would make
  the estimate :math:`\sum_b |t g_b + s_b Z_b|`, whose mean and variance follow
  from those of the folded normal. The interval has every t >= 0 for which the
  estimate that was made is within 1.96 standard deviations of that mean. It is
  widened where the mean gap of all examples, which is never above the error,
  may be larger, and to hold the value.
  """
  total = len(gaps)
  by_bin = np.bincount(bins, gaps, minlength=num_bins) / total
  squares = np.bincount(bins, gaps**2, minlength=num_bins) / total
  deviation = np.sqrt(np.maximum((squares - by_bin**2) / total, 1e-30))
  by_bin = np.abs(by_bin)
  value = float(by_bin.sum())
  quantile = statistics.NormalDist().inv_cdf((1 + measurement.CONFIDENCE) / 2)

  def excess(t, side):
    ratio = t * by_bin / deviation
    mean = deviation * (
      np.sqrt(2 / np.pi) * np.exp(-(ratio**2) / 2)
      + ratio * scipy.special.erf(ratio / np.sqrt(2))
    )
    variance = np.sum((1 + ratio**2) * deviation**2 - mean**2)
    return mean.sum() + side * quantile * np.sqrt(max(variance, 0)) - value

  def root(side):
    if not value or excess(0.0, side) >= 0:
      return 0.0
    reach = quantile * np.sqrt(np.sum(deviation**2))
    most = 2 * (1 + reach / value)
    return value * scipy.optimize.brentq(excess, 0.0, most, args=(side,))

  overall = measurement.bounded_mean(gaps, '', bounds=(-1.0, 1.0))
  return Measurement(
    value,
    min(root(1), value),
    max(root(-1), value, -overall.low, overall.high),
    f'Expected calibration error, {num_bins} bins of equal width, {images}:'
    f' {total} examples; the value is biased upwards,'
    f' {measurement.CONFIDENCE:.0%} interval of the error without that bias,'
    ' by inversion of a normal test, widened to hold the value.',
  )
