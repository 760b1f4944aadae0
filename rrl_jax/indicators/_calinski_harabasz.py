"""Variance between clusters over that within."""

import numpy as np
from numpy.typing import ArrayLike

from rrl_jax.errors import DataError
from rrl_jax.indicators import _checks


def calinski_harabasz(features: ArrayLike, assignments: ArrayLike) -> float:
  r"""Ratio of mean squares between and within clusters.

  .. math::
    \frac{\sum_k n_k \|\mu_k - \mu\|^2 / (K - 1)}
         {\sum_i \|z_i - \mu_{a_i}\|^2 / (N - K)}

  Args:
    features: Float, shape ``[N, D]``.
    assignments: Cluster, class or prediction of each row, integers ``[N]``.

  Returns:
    At least 0; higher means tighter clusters further apart.

  Raises:
    DataError: NaN features, assignments of another length, one cluster, as many
      clusters as rows, or clusters that are points.

  Example:
    >>> from rrl_jax import indicators
    >>> rows = [[0.0], [2.0], [10.0], [12.0]]
    >>> indicators.calinski_harabasz(rows, [0, 0, 1, 1])
    50.0

  References:
    Calinski and Harabasz, A dendrite method for cluster analysis, 1974.
  """
  raw = _checks.features('features', features)
  z = raw.astype(np.float64)
  labels = _checks.integers('assignments', assignments, len(z))
  labels = _checks.classes('assignments', labels)
  sizes = np.bincount(labels)
  if len(sizes) == len(z):
    raise DataError(f'assignments has {len(z)} clusters of {len(z)} rows')
  means = np.zeros((len(sizes), z.shape[1]))
  np.add.at(means, labels, z)
  means /= sizes[:, None]
  within = np.sum((z - means[labels]) ** 2)
  between = np.sum(sizes[:, None] * (means - z.mean(axis=0)) ** 2)
  if _checks.is_rounding(within, raw):
    raise DataError('features has clusters that are points: no variance within')
  return float(between * (len(z) - len(sizes)) / (within * (len(sizes) - 1)))
