"""Distances within a class and between classes: overlap and spread."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rrl_jax.errors import DataError
from rrl_jax.indicators import _checks
from rrl_jax.indicators._unit_rows import unit_rows


class ClassDistances(NamedTuple):
  """What the distances of pairs say about classes.

  Attributes:
    overlap: Common area of the two histograms, in [0, 1]; 0 where a threshold
      tells them apart.
    spread: Standard deviation of the distances within a class, averaged over
      the classes with a pair.
    relative_spread: ``spread`` over ``between_mean``.
    within_mean: Mean distance of pairs of one class.
    between_mean: Mean distance of pairs of two classes.
  """

  overlap: float
  spread: float
  relative_spread: float
  within_mean: float
  between_mean: float


def class_distances(
  features: ArrayLike, labels: ArrayLike, *, num_bins: int = 100
) -> ClassDistances:
  r"""Overlap and spread of cosine distances within and between classes.

  All pairs are counted into ``num_bins`` equal bins over their common range;
  with p and q the shares of pairs of one class and of two in each bin,

  .. math:: \mathrm{overlap} = \sum_b \min(p_b, q_b).

  Args:
    features: Float, shape ``[N, D]``; rows are scaled to unit length.
    labels: Class of each row, integers, shape ``[N]``.
    num_bins: Bins, at least 1.

  Returns:
    `ClassDistances`. Time is O(N^2 D), memory O(N).

  Raises:
    DataError: NaN features, labels of another length, one class, or no pair of
      one class.
    ValueError: ``num_bins`` below 1.

  Example:
    >>> from rrl_jax import indicators
    >>> rows = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    >>> indicators.class_distances(rows, [0, 0, 1, 1]).overlap
    0.0

  .. note::
    Definitions ours: those of the paper on clustering indicators
    (`arXiv 2106.12303 <https://arxiv.org/abs/2106.12303>`_) are not known to
    us.
  """
  z = unit_rows(_checks.features('features', features).astype(np.float64))
  labels = _checks.integers('labels', labels, len(z))
  labels = _checks.classes('labels', labels)
  _checks.at_least('num_bins', num_bins, 1)
  sizes = np.bincount(labels).astype(np.float64)
  pairs = sizes * (sizes - 1) / 2
  if not pairs.any():
    raise DataError('labels has no two examples of one class')
  between_pairs = len(z) * (len(z) - 1) / 2 - pairs.sum()
  low, high, between = np.inf, -np.inf, 0.0
  sums, squares = np.zeros(len(sizes)), np.zeros(len(sizes))
  for distances, same, other, own in _tiles(z, labels):
    for kind in (distances[same], distances[other]):
      low = min(low, kind.min(initial=np.inf))
      high = max(high, kind.max(initial=-np.inf))
    between += distances[other].sum()
    within = distances[same]
    sums += np.bincount(own, within, minlength=len(sizes))
    squares += np.bincount(own, within**2, minlength=len(sizes))
  some = pairs > 0
  means = sums[some] / pairs[some]
  variances = np.maximum(squares[some] / pairs[some] - means**2, 0)
  spread = float(np.mean(np.sqrt(variances)))
  between_mean = between / between_pairs
  counts = np.zeros((2, num_bins))
  scale = num_bins / (high - low) if high > low else 0.0
  for distances, same, other, _ in _tiles(z, labels):
    for row, kind in enumerate((distances[same], distances[other])):
      bins = np.minimum(((kind - low) * scale).astype(np.int64), num_bins - 1)
      counts[row] += np.bincount(bins, minlength=num_bins)
  p, q = counts / counts.sum(axis=1, keepdims=True)
  return ClassDistances(
    overlap=float(np.minimum(p, q).sum()),
    spread=spread,
    relative_spread=float(spread / between_mean) if between_mean > 0 else 0.0,
    within_mean=float(sums.sum() / pairs.sum()),
    between_mean=float(between_mean),
  )


def _tiles(z, labels):
  """Distances of pairs, which are of one class, of two, and those' classes."""
  for start in range(0, len(z), 256):
    rows = slice(start, start + 256)
    # Rounding must not make a distance negative or two equal ends differ.
    distances = np.clip(1 - z[rows] @ z[start:].T, 0, 2)
    later = np.triu(np.ones(distances.shape, bool), 1)
    same = labels[rows, None] == labels[None, start:]
    same &= later
    yield distances, same, later & ~same, labels[rows][np.nonzero(same)[0]]
