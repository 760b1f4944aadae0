"""When classes collapse to points, and how far a batch has come to that."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rrl_jax import numerics
from rrl_jax.losses import _checks, _pairs
from rrl_jax.losses._contrastive import l2_normalize


class EmbeddingGeometry(NamedTuple):
  r"""How the rows of a batch lie on the sphere.

  Attributes:
    spread: Mean of :math:`\|z - \mu_y\|^2`, scalar in [0, 1]; 0 where every
      class is a point.
    within_cosine: Mean cosine of two different rows of one class, averaged
      over all such pairs, scalar; 0 if there is no pair.
    between_cosine: Mean cosine of two rows of different classes, averaged
      over all such pairs, scalar; 0 if there is no pair.
    class_spread: Spread of each class, shape ``[K]``, 0 for an empty one.
    overall_spread: Mean of :math:`\|z - \mu\|^2` around the mean of all
      rows, scalar in [0, 1]; 0 where all rows are one point.
    total_collapse: Whether all rows are one point, bool.
  """

  spread: jax.Array
  within_cosine: jax.Array
  between_cosine: jax.Array
  class_spread: jax.Array
  overall_spread: jax.Array
  total_collapse: jax.Array


def collapse_threshold(
  num_classes: int,
  positives_per_class: int,
  temperature: float,
  *,
  denominator: str = 'one_positive',
) -> float:
  r"""The alpha of ``spread`` below which collapsed classes are a minimum.

  For K balanced classes on the regular simplex, identical views, P contrasts
  of an anchor's class and :math:`N = (K - 1) P` of others, let

  .. math::
    q = \frac{1}{1 + N e^{-K / ((K - 1) \tau)}}, \qquad
    \alpha^* = \frac{(1 - q) K}{(1 - q) K + K - 1},

  for ``one_positive``, and :math:`q = P / (P + N e^{-K/((K-1)\tau)})` for
  ``all``. A small spread of every class about its vertex raises the loss for
  alpha below :math:`\alpha^*` and lowers it above. The limit for many
  negatives is K / (2 K - 1).

  Args:
    num_classes: K, at least 2.
    positives_per_class: P, the contrasts of the anchor's class with the
      anchor's own other view among them (and its own row not, or, as in the
      derivation, one row for both views), at least 1.
    temperature: Positive :math:`\tau`.
    denominator: one_positive or all.

  Returns:
    The threshold, in [0, 1).

  Raises:
    ValueError: An argument is out of range.

  Example:
    >>> from rrl_jax import losses
    >>> print(f'{losses.collapse_threshold(2, 64, 0.5):.5f}')
    0.51906

  References:
    Chen, Fu et al., `Perfectly Balanced: Improving Transfer and Robustness of
    Supervised Contrastive Learning <https://arxiv.org/abs/2204.07596>`_, 2022,
    for the question.

  .. note::
    Derived here from the second variation of the loss: the paper's theorem
    is not known to us. At a temperature of 0.1 the threshold is about 0.
  """
  _checks.one_of('denominator', denominator, ('one_positive', 'all'))
  _checks.in_range('num_classes', num_classes, 2)
  _checks.in_range('positives_per_class', positives_per_class, 1)
  _checks.in_range('temperature', temperature, 0.0, open_low=True)
  k, p = num_classes, positives_per_class
  scored = 1 if denominator == 'one_positive' else p
  # 1 - q, written so that neither end loses digits.
  repulsion = (k - 1) * p * math.exp(-k / ((k - 1) * temperature))
  missing = repulsion / (scored + repulsion)
  return missing * k / (missing * k + k - 1)


def embedding_geometry(
  embeddings: ArrayLike,
  labels: ArrayLike,
  *,
  num_classes: int,
  where: ArrayLike | None = None,
  tolerance: float = 1e-3,
) -> EmbeddingGeometry:
  r"""Spread, cosines and total collapse of a labelled batch.

  Rows are scaled to unit length. With the class means :math:`\mu_y` and the
  mean of all :math:`\mu`, the mean of :math:`\|z - \mu_y\|^2` over a class is
  :math:`1 - \|\mu_y\|^2`; the cosines follow from the same means, in
  O(N D + K D) instead of a matrix of pairs. A contrastive loss that stays at
  a constant (such as log(2B - 1) for ``infonce`` over B images) is total
  collapse: all rows are one point.

  Args:
    embeddings: Rows, shape ``[N, D]``, float; rows of zeros stay zero.
    labels: Classes, integers, shape ``[N]``; a row outside ``[0, K)`` counts
      as masked.
    num_classes: K.
    where: Optional bool mask, shape ``[N]``; masked rows do not count.
    tolerance: Largest overall spread that counts as total collapse; with no
      row at all there is none.

  Returns:
    An ``EmbeddingGeometry`` of at least float32.

  Raises:
    TypeError: A dtype is of the wrong kind.
    ValueError: Shapes do not fit or ``num_classes`` is not positive.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> rows = jnp.array([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    >>> geometry = losses.embedding_geometry(
    ...     rows, jnp.array([0, 0, 1, 1]), num_classes=2)
    >>> print(geometry.spread, geometry.between_cosine)
    0.0 -1.0

  References:
    Chen, Fu et al., `Perfectly Balanced: Improving Transfer and Robustness of
    Supervised Contrastive Learning <https://arxiv.org/abs/2204.07596>`_, 2022.

  .. note::
    The definition of spread is ours, the paper's is not known to us.
  """
  z, member, where = _rows(embeddings, labels, num_classes, where)
  counts = jnp.sum(member, axis=0)  # [K]
  sums = member.T @ z  # [K, D]
  squares = jnp.sum(jnp.square(z), axis=1)  # [N], one but for rows of zeros.
  mass = member.T @ squares  # [K]
  lengths = jnp.sum(jnp.square(sums), axis=1)  # [K], of the class sums.
  total = jnp.sum(counts)
  whole = jnp.sum(jnp.square(jnp.sum(sums, axis=0)))
  safe = jnp.maximum(counts, 1)
  class_spread = jnp.maximum(mass / safe - lengths / jnp.square(safe), 0)
  within = jnp.sum(lengths - mass)
  within_pairs = jnp.sum(counts * (counts - 1))
  between = whole - jnp.sum(lengths)
  between_pairs = jnp.square(total) - jnp.sum(jnp.square(counts))
  rows = jnp.maximum(total, 1)
  overall = jnp.maximum(jnp.sum(mass) / rows - whole / jnp.square(rows), 0)
  return EmbeddingGeometry(
    spread=jnp.sum(counts * class_spread) / rows,
    within_cosine=within / jnp.maximum(within_pairs, 1),
    between_cosine=between / jnp.maximum(between_pairs, 1),
    class_spread=class_spread,
    overall_spread=overall,
    total_collapse=(overall <= tolerance) & (total > 0),
  )


def spread_of(
  embeddings: ArrayLike,
  labels: ArrayLike,
  *,
  num_classes: int,
  where: ArrayLike | None = None,
) -> jax.Array:
  r"""Mean squared distance of unit rows from their class means, a scalar.

  :math:`E \|z - \mu_y\|^2`, in [0, 1]: 0 where every class is a point. It is
  computed from the differences, so that a small spread keeps its digits, and
  is differentiable.

  Args:
    embeddings: Rows, shape ``[N, D]``, float; they are scaled to unit length.
    labels: Classes, integers, shape ``[N]``; a row outside ``[0, K)`` counts
      as masked.
    num_classes: K.
    where: Optional bool mask, shape ``[N]``; masked rows do not count.

  Returns:
    A scalar of at least float32; 0 if no row counts.

  Raises:
    TypeError: A dtype is of the wrong kind.
    ValueError: Shapes do not fit or ``num_classes`` is not positive.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> rows = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> print(losses.spread_of(rows, jnp.array([0, 0]), num_classes=1))
    0.5
  """
  z, member, where = _rows(embeddings, labels, num_classes, where)
  counts = jnp.sum(member, axis=0)
  means = (member.T @ z) / jnp.maximum(counts, 1)[:, None]
  squares = jnp.sum(jnp.square(z - member @ means), axis=1)
  return numerics.masked_mean(squares, where)


def _rows(embeddings, labels, num_classes, where):
  """Unit rows, class membership ``[N, K]`` and the rows that count."""
  embeddings = _checks.floating('embeddings', embeddings, rank=2)
  labels = _checks.integer('labels', labels, rank=1)
  _checks.in_range('num_classes', num_classes, 1)
  if labels.shape != embeddings.shape[:1]:
    raise ValueError(
      f'labels must have shape {embeddings.shape[:1]}, got {labels.shape}'
    )
  if where is not None:
    where = _pairs.replicated(jnp.asarray(where))
  embeddings, labels = map(_pairs.replicated, (embeddings, labels))
  dtype = jnp.promote_types(embeddings.dtype, jnp.float32)
  counts = (labels >= 0) & (labels < num_classes)
  if where is not None:
    counts = counts & where
  z = jnp.where(counts[:, None], embeddings.astype(dtype), 0)
  member = jax.nn.one_hot(labels, num_classes, dtype=dtype)
  member = jnp.where(counts[:, None], member, 0)
  return l2_normalize(z), member, counts
