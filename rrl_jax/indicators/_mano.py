"""The norm of normalised logits."""

import numpy as np
from numpy.typing import ArrayLike
import scipy.special

from rrl_jax.indicators import _checks


def mano(
  logits: ArrayLike, *, power: float = 4.0, criterion: float = 5.0
) -> float:
  r"""Entrywise norm of logits made into rows of sum one (MaNo).

  .. math:: \Big(\frac{1}{NK} \sum_{ic} Q_{ic}^p\Big)^{1/p}

  Q is the softmax where the mean cross entropy of the uniform distribution with
  it exceeds ``criterion``; else :math:`1 + v + v^2/2` of the logits v, less its
  least entry in the row, divided by the row's sum.

  Args:
    logits: On the shifted data, float, shape ``[N, K]``.
    power: p, at least 1.
    criterion: Where to switch, in nats.

  Returns:
    In [1 / K, K^(-1/p)]; higher means a higher accuracy.

  Raises:
    DataError: Logits not finite or not rows and columns.
    ValueError: ``power`` below 1.

  Example:
    >>> from rrl_jax import indicators
    >>> print(f'{indicators.mano([[0.0, 0.0], [0.0, 0.0]]):.3f}')
    0.500

  References:
    Xie et al., `MaNo: Exploiting Matrix Norm for Unsupervised Accuracy
    Estimation Under Distribution Shifts <https://arxiv.org/abs/2405.18979>`_,
    2024.

  .. note::
    A row whose entries are all equal is uniform.
  """
  v = _checks.features('logits', logits).astype(np.float64)
  _checks.at_least('power', power, 1)
  log_p = scipy.special.log_softmax(v, axis=1)
  if -log_p.mean() > criterion:
    q = np.exp(log_p)
  else:
    q = 1 + v + v**2 / 2
    q = q - q.min(axis=1, keepdims=True)
    sums = q.sum(axis=1, keepdims=True)
    q = np.where(sums > 0, q / np.where(sums > 0, sums, 1), 1 / v.shape[1])
  return float(np.mean(q**power) ** (1 / power))
