"""Contraction and exchanges on a sparse graph, and the graph of neighbours."""

import heapq

import numpy as np
from numpy.typing import ArrayLike
import scipy.sparse
import scipy.sparse.csgraph

from rrl_jax.errors import DataError
from rrl_jax.indicators import _checks
from rrl_jax.indicators._energy import relabel
from rrl_jax.indicators._nearest import nearest
from rrl_jax.indicators._unit_rows import unit_rows


def nearest_neighbor_graph(
  features: ArrayLike, num_neighbors: int
) -> tuple[np.ndarray, np.ndarray]:
  """Joins each row to the rows of largest cosine with it.

  An edge is there if either end counts the other among its neighbours. Of
  equal cosines the lower row counts first. Memory is O(N k).

  Args:
    features: Float, shape ``[N, D]``; rows are scaled to unit length.
    num_neighbors: k, at least 1; at most N - 1 are used.

  Returns:
    ``(edges, cosines)``: rows i < j, int64 ``[E, 2]``, sorted, and float64
    ``[E]``.

  Raises:
    DataError: Features not finite or not rows and columns.
    ValueError: ``num_neighbors`` below 1.

  Example:
    >>> from rrl_jax import indicators
    >>> rows = [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]
    >>> edges, _ = indicators.nearest_neighbor_graph(rows, 1)
    >>> edges.tolist()
    [[0, 1], [1, 2]]
  """
  z = unit_rows(_checks.features('features', features).astype(np.float64))
  _checks.at_least('num_neighbors', num_neighbors, 1)
  k = min(int(num_neighbors), len(z) - 1)
  pairs = []
  for rows, near in nearest(z, k) if k else ():
    i, j = np.nonzero(near)
    i = rows[i]
    pairs.append(np.stack([np.minimum(i, j), np.maximum(i, j)], axis=1))
  if not pairs:
    return np.zeros((0, 2), np.int64), np.zeros(0)
  edges = np.unique(np.concatenate(pairs), axis=0)
  cosines = np.empty(len(edges))
  for start in range(0, len(edges), 2**16):
    part = edges[start : start + 2**16]
    cosines[start : start + 2**16] = np.einsum(
      'nd,nd->n', z[part[:, 0]], z[part[:, 1]]
    )
  return edges, cosines


def gaec_graph(
  edges: ArrayLike, costs: ArrayLike, num_nodes: int
) -> np.ndarray:
  """`gaec` on a graph: clusters without an edge between them are not joined.

  A heap of edges; the end with more neighbours takes in the other. Of equal
  weights the one between the lower-numbered clusters goes first.

  Args:
    edges: Two different nodes an edge, integers, shape ``[E, 2]``; costs of
      parallel edges add.
    costs: Of each edge, shape ``[E]``; positive attracts.
    num_nodes: N.

  Returns:
    Cluster of each node, int64 ``[N]``, numbered in the order of their first
    node.

  Raises:
    DataError: Edges or costs that do not fit, or not finite.

  Example:
    >>> from rrl_jax import indicators
    >>> indicators.gaec_graph([[0, 1], [1, 2]], [2.0, -3.0], 3).tolist()
    [0, 0, 1]
  """
  neighbors = _neighbors(edges, costs, num_nodes)
  heap = [
    (-cost, i, j)
    for i, row in enumerate(neighbors)
    for j, cost in row.items()
    if i < j and cost > 0
  ]
  heapq.heapify(heap)
  parent = list(range(num_nodes))
  while heap:
    weight, a, b = heapq.heappop(heap)
    if neighbors[a].get(b) != -weight:  # Joined or changed since.
      continue
    if len(neighbors[a]) < len(neighbors[b]):
      a, b = b, a
    parent[b] = a
    del neighbors[a][b], neighbors[b][a]
    for c, cost in neighbors[b].items():
      del neighbors[c][b]
      cost += neighbors[a].get(c, 0.0)
      neighbors[a][c] = neighbors[c][a] = cost
      if cost > 0:
        heapq.heappush(heap, (-cost, min(a, c), max(a, c)))
    neighbors[b] = {}
  for node in range(num_nodes):
    while parent[node] != parent[parent[node]]:
      parent[node] = parent[parent[node]]
  return relabel(np.array(parent))


def klj_graph(
  edges: ArrayLike,
  costs: ArrayLike,
  assignments: ArrayLike,
  *,
  max_iterations: int = 100,
  eps: float = 1e-6,
) -> np.ndarray:
  """`klj` on a graph: clusters are connected, and adjacent ones exchange.

  Only nodes with an edge to the other side switch to it. After each sweep
  clusters fall apart into their connected components, which costs nothing.

  Args:
    edges: Two different nodes an edge, integers, shape ``[E, 2]``; costs of
      parallel edges add.
    costs: Of each edge, shape ``[E]``; positive attracts.
    assignments: Where to start, integers, shape ``[N]``.
    max_iterations: Sweeps, at least 0.
    eps: Least gain that counts, in units of the largest absolute cost.

  Returns:
    Cluster of each node, int64 ``[N]``, numbered in the order of their first
    node.

  Raises:
    DataError: Edges or costs that do not fit, or not finite.
    ValueError: An argument is out of range.

  Example:
    >>> from rrl_jax import indicators
    >>> indicators.klj_graph([[0, 1], [1, 2]], [2.0, -3.0], [0, 1, 1]).tolist()
    [0, 0, 1]

  References:
    Keuper et al., `Efficient Decomposition of Image and Mesh Graphs by Lifted
    Multicuts <https://arxiv.org/abs/1505.06973>`_, 2015.
  """
  assignments = _checks.integers('assignments', assignments)
  _checks.at_least('max_iterations', max_iterations, 0)
  _checks.at_least('eps', eps, 0)
  neighbors = _neighbors(edges, costs, len(assignments))
  eps *= max((abs(c) for row in neighbors for c in row.values()), default=0.0)
  pairs = [(i, j) for i, row in enumerate(neighbors) for j in row if i < j]
  pairs = np.array(pairs, np.int64).reshape(-1, 2)
  labels = _components(pairs, assignments)
  before = None  # Nodes of clusters that the last sweep changed; None for all.
  for _ in range(max_iterations):
    start = labels.copy()
    clusters = {}
    for node, label in enumerate(labels.tolist()):
      clusters.setdefault(label, []).append(node)
    active = set(clusters)
    if before is not None:
      active = set(labels[before].tolist())
    changed = set()
    found = np.sort(labels[pairs], axis=1)
    found = np.unique(found[found[:, 0] != found[:, 1]], axis=0)
    for i, j in found.tolist():
      if not ({i, j} & active or {i, j} & changed):
        continue
      if not clusters[i] or not clusters[j]:
        continue
      parts = _exchange(neighbors, clusters[i], clusters[j], eps)
      if parts is not None:
        clusters[i], clusters[j] = parts
        changed |= {i, j}
    for i in sorted(active | changed):
      while len(clusters[i]) > 1:
        parts = _exchange(neighbors, clusters[i], [], eps)
        if parts is None:
          break
        clusters[i], new = parts
        changed.add(i)
        clusters[len(clusters)] = new
        changed.add(len(clusters) - 1)
    if not changed:
      break
    for label, nodes in clusters.items():
      labels[nodes] = label
    moved = np.isin(labels, sorted(changed))
    labels = _components(pairs, labels)
    if np.array_equal(labels, start):
      break
    before = np.flatnonzero(moved)
  return labels


def _exchange(neighbors, first, second, eps):
  """The two clusters after the best exchange or join, None if nothing gains."""
  side = dict.fromkeys(first, 1) | dict.fromkeys(second, -1)
  gain, across, join = {}, {}, 0.0
  for v, own in side.items():
    total, edges = 0.0, 0
    for u, cost in neighbors[v].items():
      other = side.get(u)
      if other is None:
        continue
      if other == own:
        total -= cost
      else:
        total += cost
        edges += 1
        join += cost
    gain[v], across[v] = total, edges
  join /= 2  # Each edge was met at both ends.
  if second:
    heap = [(-gain[v], v) for v in side if across[v]]
  else:
    heap = [min((-gain[v], v) for v in side)]
  heapq.heapify(heap)
  locked = set()
  order, sums, running = [], [], 0.0
  while heap:
    value, v = heapq.heappop(heap)
    if v in locked or gain[v] != -value or (order and not across[v]):
      continue
    locked.add(v)
    running += gain[v]
    order.append(v)
    sums.append(running)
    side[v] = own = -side[v]
    for u, cost in neighbors[v].items():
      if u not in side or u in locked:
        continue
      if side[u] == own:
        gain[u] -= 2 * cost
        across[u] -= 1
      else:
        gain[u] += 2 * cost
        across[u] += 1
      if across[u]:
        heapq.heappush(heap, (-gain[u], u))
  most = int(np.argmax(sums)) if sums else -1
  if join > eps and (most < 0 or join > sums[most]):
    return sorted(side), []
  if most < 0 or sums[most] <= eps:
    return None
  for v in order[most + 1 :]:
    side[v] = -side[v]
  return (
    sorted(v for v in side if side[v] > 0),
    sorted(v for v in side if side[v] < 0),
  )


def _components(pairs, labels):
  """Connected components of each cluster, numbered by their first node."""
  kept = pairs[labels[pairs[:, 0]] == labels[pairs[:, 1]]]
  graph = scipy.sparse.coo_array(
    (np.ones(len(kept)), (kept[:, 0], kept[:, 1])), (len(labels),) * 2
  )
  return relabel(scipy.sparse.csgraph.connected_components(graph, False)[1])


def _neighbors(edges, costs, num_nodes):
  """Of each node its neighbours and the costs of the edges to them."""
  edges = np.asarray(edges)
  costs = np.asarray(costs, np.float64)
  if not edges.size:
    edges = np.zeros((0, 2), np.int64)
  if edges.ndim != 2 or edges.shape[1] != 2 or edges.dtype.kind not in 'iu':
    raise DataError(
      f'edges must be integers [E, 2], got {edges.dtype} {edges.shape}'
    )
  if costs.shape != edges.shape[:1]:
    raise DataError(f'costs has shape {costs.shape}, edges has {len(edges)}')
  if not np.isfinite(costs).all():
    raise DataError(f'costs[{np.argmin(np.isfinite(costs))}] is not finite')
  outside = (edges < 0) | (edges >= num_nodes)
  bad = outside.any(axis=1) | (edges[:, 0] == edges[:, 1])
  if bad.any():
    raise DataError(
      f'edges[{np.argmax(bad)}] is {edges[np.argmax(bad)].tolist()}, not two'
      f' different nodes below {num_nodes}'
    )
  neighbors = [{} for _ in range(num_nodes)]
  for (i, j), cost in zip(edges.tolist(), costs.tolist(), strict=True):
    total = neighbors[i].get(j, 0.0) + cost
    neighbors[i][j] = neighbors[j][i] = total
  return neighbors
