"""How much nearer a row is to its own cluster than to the next one."""

import numpy as np
from numpy.typing import ArrayLike

from rrl_jax.indicators import _checks
from rrl_jax.indicators._unit_rows import unit_rows


def silhouette(features: ArrayLike, assignments: ArrayLike) -> float:
  r"""Mean silhouette of rows by cosine distance.

  With :math:`a_i` the mean distance to the others of the own cluster and
  :math:`b_i` the least mean distance to another cluster,

  .. math:: \frac1N \sum_i \frac{b_i - a_i}{\max(a_i, b_i)},

  0 for a row alone in its cluster. Sums of clusters give both in O(N K D).

  Args:
    features: Float, shape ``[N, D]``; rows are scaled to unit length.
    assignments: Cluster or class of each row, integers, shape ``[N]``.

  Returns:
    In [-1, 1].

  Raises:
    DataError: NaN features, assignments of another length, or one cluster.

  Example:
    >>> from rrl_jax import indicators
    >>> rows = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    >>> indicators.silhouette(rows, [0, 0, 1, 1])
    1.0

  References:
    Rousseeuw, Silhouettes: a graphical aid to the interpretation and
    validation of cluster analysis, 1987.
  """
  z = unit_rows(_checks.features('features', features).astype(np.float64))
  labels = _checks.integers('assignments', assignments, len(z))
  labels = _checks.classes('assignments', labels)
  sizes = np.bincount(labels).astype(np.float64)
  sums = np.zeros((len(sizes), z.shape[1]))
  np.add.at(sums, labels, z)
  total = 0.0
  step = max(1, 2**22 // len(sizes))
  for start in range(0, len(z), step):
    rows = slice(start, start + step)
    index, own = np.arange(len(z[rows])), labels[rows]
    distances = sizes - z[rows] @ sums.T
    # A row's distance from itself, 0 but for rounding and for rows of zeros.
    itself = 1 - np.einsum('nd,nd->n', z[rows], z[rows])
    alone = sizes[own] == 1
    a = (distances[index, own] - itself) / np.where(alone, 1, sizes[own] - 1)
    a = np.maximum(a, 0)
    means = distances / sizes
    means[index, own] = np.inf
    b = np.maximum(means.min(axis=1), 0)
    largest = np.maximum(a, b)
    # Where all is one point but for rounding there is no nearer cluster.
    counts = ~alone & (largest > 1e-14)
    total += np.sum((b - a)[counts] / largest[counts])
  return float(total / len(z))
