"""Greedy additive edge contraction on complete graphs, with cached maxima."""

import numpy as np
from numpy.typing import ArrayLike

from rrl_jax.indicators import _checks
from rrl_jax.indicators._energy import relabel


def gaec(costs: ArrayLike) -> np.ndarray:
  r"""Clusters by joining, again and again, the two that attract most.

  Starts with singletons. The weight of two clusters is the sum of the costs
  between them, :math:`W(A, B) = \sum_{i \in A, j \in B} c_{ij}`; the pair of
  largest weight is joined as long as that is positive, which lowers the energy
  by exactly the weight. The number of clusters is not given: it follows.

  Each row keeps an upper bound on its largest weight, which is searched again
  only when it comes out on top: typically O(N^2) in all, O(N^3) at worst, and
  a copy of the costs. Of equal weights the pair with the lowest numbers wins.
  Above some ten thousand nodes use `gaec_features`, which keeps no pairs.

  Args:
    costs: Symmetric, shape ``[N, N]``, float32 or float64; positive attracts,
      the diagonal is not read.

  Returns:
    Cluster of each node, int64 ``[N]``, numbered in the order of their first
    node.

  Raises:
    DataError: Costs not finite, not square, or not symmetric.

  Example:
    >>> from rrl_jax import indicators
    >>> costs = [[0, 2, -1], [2, 0, -3], [-1, -3, 0]]
    >>> indicators.gaec(costs).tolist()
    [0, 0, 1]

  References:
    Keuper et al., `Efficient Decomposition of Image and Mesh Graphs by Lifted
    Multicuts <https://arxiv.org/abs/1505.06973>`_, 2015.

  .. note::
    Edges of weight zero are not contracted; the reference code of its authors
    contracts them. The energy is the same.
  """
  return contract(_checks.costs(costs).copy())


def contract(weights: np.ndarray) -> np.ndarray:
  """`gaec` without checks, in the place of ``weights``, which it destroys."""
  total = len(weights)
  parent = np.arange(total)  # Of a node that was joined to another.
  names = np.arange(total)  # Node of each row.
  _mirror(weights)
  bound = np.empty(total, weights.dtype)
  best = np.empty(total, np.int64)
  for start in range(0, total, 1024):
    rows = weights[start : start + 1024]
    best[start : start + 1024] = rows.argmax(axis=1)
    bound[start : start + 1024] = rows.max(axis=1)
  exact = np.ones(total, bool)  # Whether a row attains its bound, at `best`.
  dead = -np.finfo(weights.dtype).max  # Bound of a row that is gone.
  left = total
  while left > 1:
    a = int(bound.argmax())
    if not exact[a]:
      b = int(weights[a].argmax())
      best[a], bound[a], exact[a] = b, weights[a, b], True
      continue
    if bound[a] <= 0:
      break
    # Bounds are symmetric when exact and on top, so that b comes after a.
    b = int(best[a])
    parent[names[b]] = names[a]
    left -= 1
    row = weights[a]
    row += weights[b]
    row[a] = -np.inf  # And row[b] is: the diagonal of b.
    weights[:, a] = row
    weights[b] = -np.inf
    weights[:, b] = -np.inf
    # A row whose best was a or b keeps its old bound, from above.
    exact[np.flatnonzero((best == a) | (best == b))] = False
    bound[b] = dead
    best[a] = row.argmax()
    bound[a], exact[a] = row[best[a]], True
    reached = np.flatnonzero(row >= bound)
    if len(reached):
      weight, before = row[reached], bound[reached]
      higher = weight > before
      # Of equal ones the lowest is the best, if the bound is attained at all.
      best[reached] = np.where(higher, a, np.minimum(best[reached], a))
      bound[reached] = weight
      exact[reached] |= higher
    if 2 * left <= len(weights) and left > 32:
      keep = np.flatnonzero(bound > dead)
      place = np.zeros(len(weights), np.int64)
      place[keep] = np.arange(left)
      weights = weights[np.ix_(keep, keep)]
      names, bound, exact = names[keep], bound[keep], exact[keep]
      best = place[best[keep]]
  return relabel(roots(parent))


def _mirror(weights):
  """Copies the upper triangle onto the lower; -inf onto the diagonal."""
  size = 512
  for start in range(0, len(weights), size):
    rows = slice(start, start + size)
    upper = np.triu(weights[rows, rows], 1)
    weights[rows, rows] = upper + upper.T
    for other in range(start + size, len(weights), size):
      columns = slice(other, other + size)
      weights[columns, rows] = weights[rows, columns].T
  np.fill_diagonal(weights, -np.inf)


def roots(parent: np.ndarray) -> np.ndarray:
  """Follows parents to the end; each was joined to one that comes earlier."""
  while True:
    above = parent[parent]
    if np.array_equal(above, parent):
      return parent
    parent = above
