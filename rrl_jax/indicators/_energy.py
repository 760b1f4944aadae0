"""The objective of a minimum cost multicut."""

import numpy as np
from numpy.typing import ArrayLike

from rrl_jax.indicators import _checks


def multicut_energy(costs: ArrayLike, assignments: ArrayLike) -> float:
  r"""Sum of the costs of pairs that are in different clusters.

  .. math:: E = \sum_{i < j} c_{ij} [a_i \ne a_j]

  A positive cost attracts: cutting it costs. Singletons have the sum of all
  costs, one cluster has 0.

  Args:
    costs: Symmetric, shape ``[N, N]``; the diagonal is not read.
    assignments: Cluster of each node, integers, shape ``[N]``.

  Returns:
    The energy, summed in float64.

  Raises:
    DataError: Costs not finite or not symmetric, or assignments that do not
      fit.

  Example:
    >>> from rrl_jax import indicators
    >>> costs = [[0, 2, -1], [2, 0, -3], [-1, -3, 0]]
    >>> indicators.multicut_energy(costs, [0, 0, 1])
    -4.0
  """
  costs = _checks.costs(costs)
  assignments = _checks.integers(
    'assignments', assignments, len(costs), 'costs'
  )
  total = 0.0
  for row in range(len(costs) - 1):
    after = costs[row, row + 1 :]
    cut = assignments[row + 1 :] != assignments[row]
    total += float(np.sum(after, where=cut, dtype=np.float64))
  return total


def graph_energy(
  edges: ArrayLike, costs: ArrayLike, assignments: ArrayLike
) -> float:
  """`multicut_energy` on a graph: the sum over its edges only.

  Args:
    edges: Two nodes an edge, integers, shape ``[E, 2]``.
    costs: Of each edge, shape ``[E]``.
    assignments: Cluster of each node, integers, shape ``[N]``.

  Returns:
    The energy, summed in float64.

  Example:
    >>> from rrl_jax import indicators
    >>> indicators.graph_energy([[0, 1], [1, 2]], [2.0, -3.0], [0, 0, 1])
    -3.0
  """
  edges, assignments = np.asarray(edges), np.asarray(assignments)
  costs = np.asarray(costs, np.float64)
  if edges.ndim != 2:
    edges = edges.reshape(-1, 2)
  cut = assignments[edges[:, 0]] != assignments[edges[:, 1]]
  return float(np.sum(costs, where=cut))


def relabel(assignments: np.ndarray) -> np.ndarray:
  """Numbers clusters 0, 1, ... in the order of their first node, int64."""
  _, first, inverse = np.unique(
    assignments, return_index=True, return_inverse=True
  )
  rank = np.empty(len(first), np.int64)
  rank[np.argsort(first)] = np.arange(len(first))
  return rank[inverse]
