"""Whether a row's neighbours are of its class."""

import numpy as np
from numpy.typing import ArrayLike

from rrl_jax.errors import DataError
from rrl_jax.indicators import _checks
from rrl_jax.indicators._nearest import nearest
from rrl_jax.indicators._unit_rows import unit_rows


def nearest_neighbor_accuracy(
  features: ArrayLike, labels: ArrayLike, *, num_neighbors: int = 10
) -> float:
  """Accuracy of a vote of the k most similar other rows, by cosine.

  Leave-one-out: a row is never its own neighbour. Of equal votes the lower
  class wins, of equal cosines the lower row.

  Args:
    features: Float, shape ``[N, D]``; rows are scaled to unit length.
    labels: Classes, integers, shape ``[N]``.
    num_neighbors: k, at least 1; at most N - 1 are used.

  Returns:
    In [0, 1]. Time is O(N^2 D), memory O(N).

  Raises:
    DataError: NaN features, labels of another length, or one row.
    ValueError: ``num_neighbors`` below 1.

  Example:
    >>> from rrl_jax import indicators
    >>> rows = [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]
    >>> indicators.nearest_neighbor_accuracy(
    ...     rows, [0, 0, 1, 1], num_neighbors=1)
    1.0
  """
  z = unit_rows(_checks.features('features', features).astype(np.float64))
  labels = _checks.integers('labels', labels, len(z))
  _checks.at_least('num_neighbors', num_neighbors, 1)
  if len(z) < 2:
    raise DataError('features has 1 row, which has no neighbour')
  labels = _checks.classes('labels', labels, least=1)
  members = np.eye(labels.max() + 1)[labels]
  right = 0
  for rows, near in nearest(z, min(int(num_neighbors), len(z) - 1)):
    right += np.sum((near @ members).argmax(axis=1) == labels[rows])
  return float(right / len(z))
