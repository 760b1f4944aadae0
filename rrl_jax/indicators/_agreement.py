"""How well a clustering agrees with labels, by the table of their counts."""

import numpy as np
from numpy.typing import ArrayLike
import scipy.optimize

from rrl_jax.indicators import _checks


def contingency(assignments: ArrayLike, labels: ArrayLike) -> np.ndarray:
  """Counts of each cluster and label, ``n[k, c]``.

  Args:
    assignments: Cluster of each example, integers, shape ``[N]``.
    labels: Label of each, integers, shape ``[N]``.

  Returns:
    Integers ``[clusters, classes]``, both in the order of their numbers, of
    those that occur.

  Raises:
    DataError: Not integers, no example, or two lengths.

  Example:
    >>> from rrl_jax import indicators
    >>> indicators.contingency([5, 5, 7], [0, 1, 1]).tolist()
    [[1, 1], [0, 1]]
  """
  assignments = _checks.integers('assignments', assignments)
  labels = _checks.integers('labels', labels, len(assignments), 'assignments')
  clusters, rows = np.unique(assignments, return_inverse=True)
  names, columns = np.unique(labels, return_inverse=True)
  table = np.bincount(
    rows * len(names) + columns, minlength=len(clusters) * len(names)
  )
  return table.reshape(len(clusters), len(names))


def clustering_accuracy(assignments: ArrayLike, labels: ArrayLike) -> float:
  r"""Share of examples that are right under the best matching of clusters.

  .. math:: \frac1N \max_\pi \sum_k n_{k, \pi(k)}

  over injective maps of clusters to classes, found by the Hungarian method.
  Where there are more clusters than classes, the surplus counts as errors.

  Args:
    assignments: Cluster of each example, integers, shape ``[N]``.
    labels: Label of each, integers, shape ``[N]``.

  Returns:
    The accuracy, in (0, 1].

  Raises:
    DataError: Not integers, no example, or two lengths.

  Example:
    >>> from rrl_jax import indicators
    >>> indicators.clustering_accuracy([3, 3, 0, 1], [0, 0, 1, 1])
    0.75
  """
  table = contingency(assignments, labels)
  rows, columns = scipy.optimize.linear_sum_assignment(-table)
  return float(table[rows, columns].sum() / table.sum())


def purity(assignments: ArrayLike, labels: ArrayLike) -> float:
  r"""Share of examples whose label is the commonest of their cluster.

  .. math:: \frac1N \sum_k \max_c n_{kc}

  It rises with the number of clusters and is 1 for singletons: where that
  number is free, as in a multicut, it says nothing alone.

  Args:
    assignments: Cluster of each example, integers, shape ``[N]``.
    labels: Label of each, integers, shape ``[N]``.

  Returns:
    The purity, in (0, 1].

  Raises:
    DataError: Not integers, no example, or two lengths.

  Example:
    >>> from rrl_jax import indicators
    >>> indicators.purity([3, 3, 0, 1], [0, 0, 1, 1])
    1.0
  """
  table = contingency(assignments, labels)
  return float(table.max(axis=1).sum() / table.sum())


def normalized_mutual_information(
  assignments: ArrayLike, labels: ArrayLike
) -> float:
  r"""Mutual information over the mean of the two entropies.

  .. math:: \frac{2 I(A; Y)}{H(A) + H(Y)}

  Args:
    assignments: Cluster of each example, integers, shape ``[N]``.
    labels: Label of each, integers, shape ``[N]``.

  Returns:
    In [0, 1]; 1 where both are constant.

  Raises:
    DataError: Not integers, no example, or two lengths.

  Example:
    >>> from rrl_jax import indicators
    >>> indicators.normalized_mutual_information([0, 0, 1, 1], [1, 1, 0, 0])
    1.0
  """
  table = contingency(assignments, labels)
  total = table.sum()
  sizes, shares = table.sum(axis=1), table.sum(axis=0)
  entropies = _entropy(sizes / total) + _entropy(shares / total)
  if entropies == 0:
    return 1.0
  information = entropies - _entropy(table[table > 0] / total)
  return float(np.clip(2 * information / entropies, 0, 1))


def adjusted_rand_index(assignments: ArrayLike, labels: ArrayLike) -> float:
  r"""Agreement on pairs of examples, less what chance gives.

  With :math:`S = \sum_{kc} \binom{n_{kc}}{2}`, the same of the rows' sums
  :math:`S_A`, of the columns' :math:`S_Y` and :math:`E = S_A S_Y /
  \binom{N}{2}`: :math:`(S - E) / ((S_A + S_Y) / 2 - E)`.

  Args:
    assignments: Cluster of each example, integers, shape ``[N]``.
    labels: Label of each, integers, shape ``[N]``.

  Returns:
    At most 1, about 0 for chance; 1 where both are one cluster or both are
    singletons.

  Raises:
    DataError: Not integers, no example, or two lengths.

  Example:
    >>> from rrl_jax import indicators
    >>> indicators.adjusted_rand_index([0, 0, 1, 1], [1, 1, 0, 0])
    1.0

  References:
    Hubert and Arabie, Comparing partitions, Journal of Classification 2, 1985.
  """
  table = contingency(assignments, labels).astype(np.float64)
  pairs = lambda n: float(np.sum(n * (n - 1)) / 2)
  both, all_pairs = pairs(table), pairs(table.sum())
  rows, columns = pairs(table.sum(axis=1)), pairs(table.sum(axis=0))
  expected = rows * columns / all_pairs if all_pairs else 0.0
  most = (rows + columns) / 2
  if most == expected:
    return 1.0
  return (both - expected) / (most - expected)


def _entropy(p):
  """Entropy in nats of probabilities without zeros."""
  return -float(np.sum(p * np.log(p)))
