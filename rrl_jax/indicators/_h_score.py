"""Variance of class means relative to that of features."""

import numpy as np
from numpy.typing import ArrayLike

from rrl_jax.indicators import _checks


def h_score(features: ArrayLike, labels: ArrayLike) -> float:
  r"""Trace of the features' inverse covariance with that of the class means.

  .. math:: \mathrm{tr}\big(\mathrm{Cov}(z)^+ \mathrm{Cov}(E[z | y])\big)

  Args:
    features: Float, shape ``[N, D]``.
    labels: Classes, integers, shape ``[N]``.

  Returns:
    From 0 to min(C - 1, D); higher means that classes explain more. Directions
    that only rounding fills count for nothing; 0 for constant features.

  Raises:
    DataError: NaN features, labels of another length, or one class.

  Example:
    >>> from rrl_jax import indicators
    >>> print(f'{indicators.h_score([[1.0], [1.0], [-1.0]], [0, 0, 1]):.3f}')
    1.000

  References:
    Bao et al., `An Information-Theoretic Approach to Transferability in Task
    Transfer Learning <https://arxiv.org/abs/2212.10082>`_, 2019.
  """
  raw = _checks.features('features', features)
  z = raw.astype(np.float64)
  labels = _checks.integers('labels', labels, len(z))
  labels = _checks.classes('labels', labels)
  z = z - z.mean(axis=0)
  means = np.zeros((labels.max() + 1, z.shape[1]))
  np.add.at(means, labels, z)
  means /= np.bincount(labels)[:, None]
  # Cov(z)^+ = N V diag(1 / sigma^2) V^T; the trace is a sum of squares.
  _, singular, directions = np.linalg.svd(z, full_matrices=False)
  kept = singular > _checks.rounding(raw)
  whitened = means[labels] @ directions[kept].T / singular[kept]
  return float(np.sum(whitened**2))
