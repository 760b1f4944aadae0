"""Minimum cost multicut of the cosines of features."""

import numpy as np
from numpy.typing import ArrayLike

from rrl_jax.indicators import _checks
from rrl_jax.indicators._gaec import contract
from rrl_jax.indicators._gaec_features import gaec_features
from rrl_jax.indicators._graph_multicut import (
  gaec_graph,
  klj_graph,
  nearest_neighbor_graph,
)
from rrl_jax.indicators._klj import KICK_NODES, kick
from rrl_jax.indicators._klj import refine as exchange
from rrl_jax.indicators._unit_rows import unit_rows

_DENSE = 10_000  # Rows up to which the matrix of pairs is held.


def multicut(
  features: ArrayLike,
  *,
  threshold: float,
  num_neighbors: int | None = None,
  refine: bool | None = None,
  max_iterations: int = 100,
) -> np.ndarray:
  r"""Clusters whose number follows from how alike a pair has to be.

  With unit rows z, a pair has the cost :math:`c_{ij} = \langle z_i, z_j
  \rangle - s_0`: it attracts above the threshold and repels below. The
  multicut of least total cost is sought by `gaec`, then `klj`. On the complete
  graph that maximises

  .. math:: \sum_k n_k^2 (\|m_k\|^2 - s_0)

  over clusters of size :math:`n_k` and mean :math:`m_k` (the constant Potts
  model): the threshold alone governs how many clusters come out. It is
  calibrated by `calibrate_threshold`; report a `threshold_sweep` beside it.

  Args:
    features: Float, shape ``[N, D]``; rows are scaled to unit length, the
      direction of a row of zeros stays undefined (cosine 0 with all).
    threshold: The cosine :math:`s_0` above which two rows attract.
    num_neighbors: None for the complete graph; else edges join each row to so
      many nearest rows.
    refine: Whether exchanges follow the contraction; None for yes up to
      10,000 rows and on graphs. On the complete graph a sweep takes O(N^2 D)
      operations and N times the number of clusters in steps.
    max_iterations: Sweeps of the exchanges.

  Returns:
    Cluster of each row, int64 ``[N]``, numbered in the order of their first
    row. Up to 10,000 rows the complete graph's costs are held, N^2 float64;
    above, sums of clusters only.

  Raises:
    DataError: Features not finite or not rows and columns.
    ValueError: An argument is out of range.

  Example:
    >>> from rrl_jax import indicators
    >>> rows = [[1.0, 0.0], [2.0, 0.1], [0.0, 1.0]]
    >>> indicators.multicut(rows, threshold=0.5).tolist()
    [0, 0, 1]

  References:
    Keuper et al., `Efficient Decomposition of Image and Mesh Graphs by Lifted
    Multicuts <https://arxiv.org/abs/1505.06973>`_, 2015; Traag, Van Dooren and
    Nesterov, `Narrow scope for resolution-limit-free community detection
    <https://arxiv.org/abs/1104.3083>`_, 2011, for the Potts model.

  .. note::
    Costs from a logistic regression in the cosine, :math:`w (s_{ij} - s_0)`,
    have the same multicuts: the slope w > 0 only scales them.
  """
  z = _checks.features('features', features)
  if not np.isfinite(threshold):
    raise ValueError(f'threshold must be a finite number, got {threshold}')
  _checks.at_least('max_iterations', max_iterations, 0)
  if num_neighbors is not None:
    edges, cosines = nearest_neighbor_graph(z, num_neighbors)
    costs = cosines - threshold
    found = gaec_graph(edges, costs, len(z))
    if refine is None or refine:
      found = klj_graph(edges, costs, found, max_iterations=max_iterations)
    return found
  if len(z) > _DENSE:
    found = gaec_features(z, threshold=threshold)
    refine = bool(refine)
  else:
    found = contract(cosine_costs(z, threshold))
    refine = refine is None or refine
  if not refine:
    return found
  z = unit_rows(z)

  def pair_costs(nodes, rows):
    costs = z[nodes[rows]] @ z[nodes].T
    costs = costs.astype(np.float64) - threshold
    index = np.arange(len(costs))
    costs[index, (rows.start or 0) + index] = 0
    return costs

  scale = 1 + abs(threshold)  # No cost is larger.
  found = exchange(pair_costs, found, max_iterations, 1e-6 * scale)
  if len(z) > KICK_NODES:
    return found
  return kick(pair_costs, found, max_iterations, 1e-6 * scale)


def cosine_costs(features: ArrayLike, threshold: float) -> np.ndarray:
  """Cosines of all pairs less a threshold, float64 ``[N, N]``.

  Args:
    features: Float, shape ``[N, D]``; rows are scaled to unit length.
    threshold: What is subtracted.

  Returns:
    Symmetric costs; what stands on the diagonal means nothing.

  Raises:
    DataError: Features not finite or not rows and columns.

  Example:
    >>> from rrl_jax import indicators
    >>> indicators.cosine_costs([[1.0, 0.0], [0.0, 2.0]], 0.5).tolist()
    [[0.5, -0.5], [-0.5, 0.5]]
  """
  z = unit_rows(_checks.features('features', features).astype(np.float64))
  costs = z @ z.T
  costs -= threshold
  return costs
