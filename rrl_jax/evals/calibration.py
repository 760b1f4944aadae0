"""Whether a confidence of 80% is right 80% of the time."""

from collections.abc import Iterator

import jax
import numpy as np
import scipy.special

from rrl_jax.evals import measurement, rules
from rrl_jax.evals.encoder import Encoder
from rrl_jax.evals.measurement import Measurement
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
  estimate is biased upwards by some ``sqrt(num_bins / N)``.

  Args:
    encoder: What is evaluated.
    data: ``test``.
    key: Not used.
    num_bins: Bins of the confidence.
    resamples: Of the bootstrap that gives the intervals; 0 leaves them out.

  Yields:
    ``test/calibration_error`` (a fraction), ``test/log_loss`` (nats), and the
    bins as figures.

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
  log_p = scipy.special.log_softmax(logits.astype(np.float64), axis=-1)
  confidence = np.exp(log_p.max(axis=-1))
  right = np.argmax(logits, axis=-1) == labels
  bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)

  def error(bins, confidence, right):
    gaps = np.bincount(bins, right - confidence, minlength=num_bins)
    return np.abs(gaps).sum() / len(bins)

  yield (
    'test/calibration_error',
    measurement.bootstrap(
      error,
      (bins, confidence, right),
      f'expected calibration error, {num_bins} bins of equal width,'
      f' {test_images(data.test)}',
      resamples=resamples,
    ),
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
