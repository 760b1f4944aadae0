"""Confidence and diversity of predictions in one norm."""

import numpy as np
from numpy.typing import ArrayLike

from rrl_jax.indicators import _checks


def nuclear_norm(probabilities: ArrayLike) -> float:
  r"""Nuclear norm of the softmax matrix over its largest possible value.

  .. math:: \frac{\|P\|_*}{\sqrt{\min(N, K) \, N}}

  Args:
    probabilities: Softmax on the shifted data, shape ``[N, K]``.

  Returns:
    In (0, 1]; 1 for certain predictions spread equally over the classes.

  Raises:
    DataError: Rows that are no probabilities.

  Example:
    >>> from rrl_jax import indicators
    >>> print(f'{indicators.nuclear_norm([[1.0, 0.0], [0.0, 1.0]]):.3f}')
    1.000

  References:
    Deng et al., `Confidence and Dispersity Speak: Characterising Prediction
    Matrix for Unsupervised Accuracy Estimation
    <https://arxiv.org/abs/2302.01094>`_, 2023.
  """
  p = _checks.probabilities('probabilities', probabilities)
  norm = np.linalg.svd(p, compute_uv=False).sum()
  return float(norm / np.sqrt(min(p.shape) * len(p)))
