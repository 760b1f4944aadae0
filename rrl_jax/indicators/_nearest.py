"""The rows of largest cosine with each row, in tiles."""

from collections.abc import Iterator

import numpy as np


def nearest(
  unit: np.ndarray, k: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields rows and which others are their k nearest.

  Args:
    unit: Rows of unit length, ``[N, D]``.
    k: Neighbours, less than N; the lower row of equal cosines goes first.

  Yields:
    Row numbers ``[R]`` and bool ``[R, N]``, with k of each row true.
  """
  total = len(unit)
  for start in range(0, total, 256):
    rows = np.arange(start, min(start + 256, total))
    cosines = unit[rows] @ unit.T
    cosines[np.arange(len(rows)), rows] = -np.inf
    least = np.partition(cosines, total - k, axis=1)[:, total - k, None]
    above, level = cosines > least, cosines == least
    missing = k - above.sum(axis=1, keepdims=True)
    yield rows, above | (level & (np.cumsum(level, axis=1) <= missing))
