"""The effective rank of features."""

import numpy as np
from numpy.typing import ArrayLike

from rrl_jax.errors import DataError
from rrl_jax.indicators import _checks


def rank_me(features: ArrayLike, *, eps: float = 1e-7) -> float:
  r"""Exponential of the entropy of the singular values.

  .. math::
    \exp\Big(-\sum_k p_k \log p_k\Big), \qquad
    p_k = \frac{\sigma_k}{\sum_j \sigma_j} + \epsilon,

  of the features as they are, not centred.

  Args:
    features: Float, shape ``[N, D]``.
    eps: Guard of the logarithm, positive.

  Returns:
    From about 1 to min(N, D).

  Raises:
    DataError: NaN features, or all of them zero.

  Example:
    >>> from rrl_jax import indicators
    >>> print(f'{indicators.rank_me([[2.0, 0.0], [0.0, 2.0]]):.3f}')
    2.000

  References:
    Garrido et al., `RankMe <https://arxiv.org/abs/2210.02885>`_, 2023.
  """
  z = _checks.features('features', features).astype(np.float64)
  singular = np.linalg.svd(z, compute_uv=False)
  if not singular[0] > 0:
    raise DataError('features is zero everywhere')
  p = singular / singular.sum() + eps
  return float(np.exp(-np.sum(p * np.log(p))))
