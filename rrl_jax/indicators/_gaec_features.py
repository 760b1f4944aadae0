"""Greedy additive edge contraction that keeps sums of rows instead of pairs."""

import numpy as np
from numpy.typing import ArrayLike

from rrl_jax.indicators import _checks
from rrl_jax.indicators._energy import relabel
from rrl_jax.indicators._gaec import roots
from rrl_jax.indicators._unit_rows import unit_rows

_SEARCHED = 8  # Rows searched together once one of them comes out on top.


def gaec_features(features: ArrayLike, *, threshold: float) -> np.ndarray:
  r"""`gaec` for costs of cosines, in memory O(N D).

  With unit rows z and costs :math:`c_{ij} = \langle z_i, z_j \rangle - s_0`,
  the weight of two clusters needs their sums and sizes only,

  .. math:: W(A, B) = \langle S_A, S_B \rangle - s_0 |A| |B|.

  Each step is a product of all sums with the new one, O(N D), which makes
  O(N^2 D) in all. The clusters are those of `gaec` but for rounding.

  Args:
    features: Float, shape ``[N, D]``; rows are scaled to unit length. The
      sums are kept in their dtype, float32 at least.
    threshold: The cosine :math:`s_0` above which two rows attract.

  Returns:
    Cluster of each row, int64 ``[N]``, numbered in the order of their first
    row.

  Raises:
    DataError: Features not finite or not rows and columns.
    ValueError: A threshold that is not a finite number.

  Example:
    >>> from rrl_jax import indicators
    >>> rows = [[1.0, 0.0], [2.0, 0.1], [0.0, 1.0]]
    >>> indicators.gaec_features(rows, threshold=0.5).tolist()
    [0, 0, 1]

  References:
    The weights by sums are ours; for the contraction see `gaec`.
  """
  z = unit_rows(_checks.features('features', features))
  if not np.isfinite(threshold):
    raise ValueError(f'threshold must be a finite number, got {threshold}')
  # One column more holds the sizes, whose product has its own sign.
  size_scale = np.sqrt(abs(threshold))
  sums = np.empty((len(z), z.shape[1] + 1), z.dtype)
  sums[:, :-1] = z
  sums[:, -1] = size_scale
  sign = np.ones(sums.shape[1], z.dtype)
  sign[-1] = -np.sign(threshold)
  return _contract(sums, sign)


def _contract(sums, sign):
  """Joins rows of ``sums`` while the product under ``sign`` is positive."""
  total = len(sums)
  parent = np.arange(total)
  names = np.arange(total)
  alive = np.ones(total, bool)
  bound = np.empty(total, sums.dtype)
  best = np.empty(total, np.int64)
  exact = np.ones(total, bool)

  def search(rows):
    weights = (sums[rows] * sign) @ sums.T
    weights[:, ~alive] = -np.inf
    index = np.arange(len(rows))
    weights[index, rows] = -np.inf
    best[rows] = weights.argmax(axis=1)
    bound[rows] = weights[index, best[rows]]
    exact[rows] = True

  block = max(1, 2**26 // (8 * total))
  for start in range(0, total, block):
    search(np.arange(start, min(start + block, total)))
  left = total
  while left > 1:
    a = int(bound.argmax())
    if not exact[a]:
      stale = np.flatnonzero(~exact)
      if len(stale) > _SEARCHED:
        top = np.argpartition(-bound[stale], _SEARCHED - 1)[:_SEARCHED]
        stale = np.union1d(stale[top], [a])
      search(stale)
      continue
    if bound[a] <= 0:
      break
    a, b = sorted((a, int(best[a])))
    parent[names[b]] = names[a]
    left -= 1
    sums[a] += sums[b]
    alive[b] = False
    bound[b], exact[b], best[b] = -np.inf, True, b
    row = sums @ (sums[a] * sign)
    row[~alive] = -np.inf
    row[a] = -np.inf
    # A row whose best was a or b keeps its old bound, from above.
    exact &= (best != a) & (best != b)
    exact[b] = True
    best[a] = row.argmax()
    bound[a], exact[a] = row[best[a]], True
    higher = row > bound
    higher[a] = False
    bound[higher] = row[higher]
    best[higher] = a
    exact |= higher
    equal = (row == bound) & exact & alive
    equal[a] = False
    best[equal] = np.minimum(best[equal], a)
    if 5 * left <= 4 * len(sums) and left > 32:
      keep = np.flatnonzero(alive)
      place = np.zeros(len(sums), np.int64)
      place[keep] = np.arange(left)
      sums, names, alive = sums[keep], names[keep], alive[keep]
      bound, exact, best = bound[keep], exact[keep], place[best[keep]]
  return relabel(roots(parent))
