"""Which cosine tells pairs of one class from pairs of two."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rrl_jax.errors import DataError
from rrl_jax.indicators import _checks
from rrl_jax.indicators._multicut import multicut
from rrl_jax.indicators._unit_rows import unit_rows


class Threshold(NamedTuple):
  """A calibrated cosine.

  Attributes:
    threshold: The cosine at which a pair is as likely of one class as of two.
    slope: Log odds gained per unit of cosine, positive.
    accuracy: Share of pairs on the right side, the two kinds weighing half
      each.
    num_pairs: Pairs used, of one class and of two.
  """

  threshold: float
  slope: float
  accuracy: float
  num_pairs: tuple[int, int]


def calibrate_threshold(
  features: ArrayLike,
  labels: ArrayLike,
  *,
  prior: str = 'balanced',
  max_pairs: int = 100_000,
  l2: float = 1e-4,
  seed: int = 0,
) -> Threshold:
  r"""Fits the threshold of `multicut` on pairs of training examples.

  Logistic regression of "same class" on the cosine s,

  .. math:: p(s) = \frac{1}{1 + e^{-w (s - s_0)}},

  by Newton's method on the mean log loss plus ``l2`` w^2 / 2. The penalty keeps
  the slope finite where a threshold separates the pairs.

  Args:
    features: Of training examples, float, shape ``[N, D]``, never those that
      are clustered afterwards.
    labels: Their classes, integers, shape ``[N]``.
    prior: ``'balanced'`` weighs both kinds of pairs half; ``'natural'`` as
      often as they occur, which with many classes makes nearly all pairs repel.
    max_pairs: Most pairs of each kind; above, so many are drawn with
      replacement.
    l2: Penalty, positive, relative to the mean loss.
    seed: Of the draw.

  Returns:
    A `Threshold`.

  Raises:
    DataError: NaN features, one class, no pair of one class, labels of another
      length, or pairs of one class that are no more alike than others.
    ValueError: An argument is out of range.

  Example:
    >>> from rrl_jax import indicators
    >>> rows = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    >>> found = indicators.calibrate_threshold(rows, [0, 0, 1, 1])
    >>> print(f'{found.threshold:.2f}')
    0.50

  .. note::
    Ours: how the paper chose its costs is not known to us.
  """
  z = unit_rows(_checks.features('features', features).astype(np.float64))
  labels = _checks.integers('labels', labels, len(z))
  labels = _checks.classes('labels', labels)
  _checks.one_of('prior', prior, ('balanced', 'natural'))
  _checks.at_least('max_pairs', max_pairs, 1)
  if not l2 > 0:
    raise ValueError(f'l2 must be positive, got {l2}')
  sizes = np.bincount(labels).astype(np.float64)
  within = float(np.sum(sizes * (sizes - 1)) / 2)
  between = len(z) * (len(z) - 1) / 2 - within
  if not within:
    raise DataError('labels has no two examples of one class')
  rng = np.random.default_rng(seed)
  same, other = _pairs(labels, max_pairs, rng)
  cosine = lambda pairs: np.einsum('nd,nd->n', z[pairs[0]], z[pairs[1]])
  s = np.concatenate([cosine(same), cosine(other)])
  y = np.repeat([1.0, 0.0], [same.shape[1], other.shape[1]])
  shares = (0.5, 0.5)
  if prior == 'natural':
    shares = (within / (within + between), between / (within + between))
  weight = np.where(
    y > 0, shares[0] / same.shape[1], shares[1] / other.shape[1]
  )
  slope, bias = _fit(s, y, weight, l2)
  if not slope > 1e-12:
    raise DataError(
      'features of one class are no more alike than those of two: their cosines'
      f' have mean {s[y > 0].mean():.4g} and {s[y == 0].mean():.4g}'
    )
  threshold = -bias / slope
  right = (s > threshold) == (y > 0)
  return Threshold(
    float(threshold),
    float(slope),
    float((right[y > 0].mean() + right[y == 0].mean()) / 2),
    (same.shape[1], other.shape[1]),
  )


def threshold_sweep(
  features: ArrayLike,
  thresholds: Sequence[float],
  *,
  num_neighbors: int | None = None,
  refine: bool | None = None,
) -> list[tuple[float, np.ndarray]]:
  """Clusters of `multicut` at each of several thresholds.

  Args:
    features: Float, shape ``[N, D]``.
    thresholds: Cosines.
    num_neighbors: As of `multicut`.
    refine: As of `multicut`.

  Returns:
    ``(threshold, assignments [N])`` of each, in the order given.

  Raises:
    DataError: Features not finite or not rows and columns.
    ValueError: A threshold that is not a finite number.

  Example:
    >>> from rrl_jax import indicators
    >>> rows = [[1.0, 0.0], [2.0, 0.1], [0.0, 1.0]]
    >>> for s0, a in indicators.threshold_sweep(rows, [-0.5, 0.5, 0.9999]):
    ...   print(s0, a.max() + 1)
    -0.5 1
    0.5 2
    0.9999 3
  """
  return [
    (
      float(threshold),
      multicut(
        features,
        threshold=float(threshold),
        num_neighbors=num_neighbors,
        refine=refine,
      ),
    )
    for threshold in thresholds
  ]


def _pairs(labels, most, rng):
  """Pairs [2, P] of one class and of two: all of them, or drawn."""
  total = len(labels)
  if total * (total - 1) // 2 <= 2 * most:
    i, j = np.triu_indices(total, 1)
    same = labels[i] == labels[j]
    pairs = np.stack([i, j])
    return pairs[:, same], pairs[:, ~same]
  order = np.argsort(labels, kind='stable')
  sizes = np.bincount(labels)
  starts = np.cumsum(sizes) - sizes
  # A class by its number of pairs, then two different places in it.
  chances = sizes * (sizes - 1.0)
  drawn = rng.choice(len(sizes), size=most, p=chances / chances.sum())
  i = rng.integers(0, sizes[drawn])
  j = rng.integers(0, sizes[drawn] - 1)
  j += j >= i
  same = np.stack([order[starts[drawn] + i], order[starts[drawn] + j]])
  # A first row by how many rows of other classes there are; then one of them.
  chances = sizes * (total - sizes.astype(float))
  drawn = rng.choice(len(sizes), size=most, p=chances / chances.sum())
  i = starts[drawn] + rng.integers(0, sizes[drawn])
  j = rng.integers(0, total - sizes[drawn])
  j += np.where(j >= starts[drawn], sizes[drawn], 0)
  return same, np.stack([order[i], order[j]])


def _fit(s, y, weight, l2):
  """Slope and bias of a weighted logistic regression, by Newton steps."""
  centre = np.sum(weight * s)
  x = np.stack([s - centre, np.ones_like(s)])
  penalty = np.array([l2, 0.0])

  def loss(theta):
    logits = theta @ x
    return np.sum(
      weight * (np.logaddexp(0, logits) - y * logits)
    ) + 0.5 * np.sum(penalty * theta**2)

  theta = np.zeros(2)
  value = loss(theta)
  for _ in range(100):
    p = 1 / (1 + np.exp(-np.clip(theta @ x, -500, 500)))
    gradient = x @ (weight * (p - y)) + penalty * theta
    if np.abs(gradient).max() < 1e-12:
      break
    curvature = (x * (weight * p * (1 - p))) @ x.T + np.diag(penalty)
    curvature[1, 1] += 1e-300
    move = np.linalg.solve(curvature, gradient)
    scale = 1.0
    while scale > 1e-10 and loss(theta - scale * move) > value:
      scale /= 2
    if scale <= 1e-10:
      break
    theta = theta - scale * move
    value = loss(theta)
  return theta[0], theta[1] - theta[0] * centre
