"""The model's own confidence on clean data."""

import numpy as np
from numpy.typing import ArrayLike

from rrl_jax.indicators import _checks


def mean_confidence(probabilities: ArrayLike) -> float:
  """Mean of the largest probability, also an estimate of the accuracy.

  Args:
    probabilities: Softmax of each example, shape ``[N, K]``.

  Returns:
    In [1 / K, 1].

  Raises:
    DataError: Rows that are no probabilities.

  Example:
    >>> from rrl_jax import indicators
    >>> indicators.mean_confidence([[0.5, 0.5], [0.0, 1.0]])
    0.75
  """
  p = _checks.probabilities('probabilities', probabilities)
  return float(p.max(axis=1).mean())


def expected_calibration_error(
  probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15
) -> float:
  r"""How far confidence and accuracy are apart.

  .. math:: \sum_b \frac{n_b}{N} |\mathrm{acc}_b - \mathrm{conf}_b|

  over bins of equal width in the largest probability.

  Args:
    probabilities: Softmax of each example, shape ``[N, K]``.
    labels: Classes, the columns of ``probabilities``, integers, shape ``[N]``.
    num_bins: Bins, at least 1.

  Returns:
    In [0, 1].

  Raises:
    DataError: Rows that are no probabilities, or labels that do not fit.
    ValueError: ``num_bins`` below 1.

  Example:
    >>> from rrl_jax import indicators
    >>> rows = [[0.9, 0.1], [0.9, 0.1]]
    >>> print(f'{indicators.expected_calibration_error(rows, [0, 1]):.1f}')
    0.4

  References:
    Guo et al., `On Calibration of Modern Neural Networks
    <https://arxiv.org/abs/1706.04599>`_, 2017.
  """
  labels = _checks.integers('labels', labels)
  p = _checks.probabilities('probabilities', probabilities, len(labels))
  _checks.columns('labels', labels, p.shape[1])
  _checks.at_least('num_bins', num_bins, 1)
  confidence = p.max(axis=1)
  gap = (p.argmax(axis=1) == labels) - confidence
  bins = np.minimum((confidence * num_bins).astype(np.int64), num_bins - 1)
  return float(np.abs(np.bincount(bins, gap)).sum() / len(labels))
