"""The odds against the labelled class, of which many losses are functions."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rrl_jax.losses import _checks, _log_probs, _rows, _simplex

# Odds further out than this change no loss; products with it stay finite.
_FARTHEST = 1e30


class LabelOdds(NamedTuple):
  """What a loss of the labelled class's probability p alone needs.

  Attributes:
    odds: ``log((1 - p) / p)``, shape ``[B]``; finite, also on masked rows.
    rows: Rows that the mask keeps: those over which the caller averages.
    valid: Rows of these that have a label in ``[0, K)``.
  """

  odds: jax.Array
  rows: jax.Array
  valid: jax.Array

  @property
  def log_p(self) -> jax.Array:
    """``log p``, exact to rounding at both ends."""
    return -jax.nn.softplus(self.odds)

  @property
  def log_rest(self) -> jax.Array:
    """``log(1 - p)``, exact to rounding at both ends."""
    return -jax.nn.softplus(-self.odds)


def inputs(
  logits: ArrayLike, labels: ArrayLike, where: Any
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Checked logits and labels.

  Args:
    logits: Shape ``[B, K]``, float, K at least 2.
    labels: Classes, integers, shape ``[B]``.
    where: Optional boolean mask, shape ``[B]``.

  Returns:
    ``(logits, member, rows, valid)``: float32 at the least, zeros on rows
    that do not count; boolean one-hot rows ``[B, K]``; rows that the mask
    keeps; rows of these with a label in ``[0, K)``.

  Raises:
    TypeError: Logits are not floating or labels not integer.
    ValueError: Wrong shapes or fewer than two classes.
  """
  logits = _checks.floating('logits', logits, rank=2)
  labels = jnp.asarray(labels)
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    raise TypeError(
      f'labels must be integer classes, got {labels.dtype} of shape '
      f'{labels.shape}; for soft labels mix the losses of hard ones'
    )
  if labels.shape != logits.shape[:1]:
    raise ValueError(
      f'labels must have shape {logits.shape[:1]}, one class an example, '
      f'got {labels.shape}'
    )
  if logits.shape[1] < 2:
    raise ValueError(
      f'logits must hold at least 2 classes, got shape {logits.shape}'
    )
  member = _log_probs.is_label(labels, logits.shape[1])
  rows = _rows.mask(where, logits)
  valid = rows & jnp.any(member, axis=-1)
  logits = logits.astype(_simplex.compute_dtype(logits))
  return _rows.keep(valid, logits), member, rows, valid


def label_odds(logits: ArrayLike, labels: ArrayLike, where: Any) -> LabelOdds:
  """``logsumexp_{j != y} z_j - z_y``, with the checks of ``inputs``.

  Its gradient is the softmax over the other classes minus the one-hot label:
  of L1 norm 2 at every p, also where p is 0 or 1 to rounding.
  """
  logits, member, rows, valid = inputs(logits, labels, where)
  top = jnp.max(jnp.where(member, -jnp.inf, logits), axis=-1)
  top = jax.lax.stop_gradient(top)
  # The label's own entry is taken out before exp, which would overflow.
  gap = jnp.where(member, 0, logits - top[:, None])
  rest = jnp.sum(jnp.where(member, 0, jnp.exp(gap)), axis=-1)
  odds = jnp.log(rest) + (top - _log_probs.pick(logits, member))
  return LabelOdds(jnp.clip(odds, -_FARTHEST, _FARTHEST), rows, valid)


def label_probability(
  logits: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None
) -> jax.Array:
  r"""Softmax probability of the labelled class, per example.

  .. math:: p_i = e^{z_{i y_i}} / \sum_k e^{z_{ik}}

  Gradients flow to the logits.

  Args:
    logits: Shape ``[B, K]``, float, K at least 2.
    labels: Classes, integers, shape ``[B]``. A row with a label outside
      ``[0, K)`` counts as masked.
    where: Optional mask, shape ``[B]``. A masked row has zero value and zero
      gradient, and may hold inf or NaN.

  Returns:
    Probabilities, shape ``[B]``, float32 at the least, in [0, 1].

  Raises:
    TypeError: Logits are not floating or labels not integer.
    ValueError: Wrong shapes or fewer than two classes.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> print(losses.label_probability(jnp.zeros((1, 4)), jnp.array([2])))
    [0.25]
  """
  odds = label_odds(logits, labels, where)
  return _rows.keep(odds.valid, jax.nn.sigmoid(-odds.odds))


def label_log_probabilities(
  logits: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None
) -> tuple[jax.Array, jax.Array]:
  r"""``log p`` and ``log(1 - p)`` of the labelled class, per example.

  What `emphasis_log_weight` and its like take: both are finite and exact to
  rounding where p itself is 0 or 1 in the floating point format. Gradients
  flow to the logits.

  Args:
    logits: Shape ``[B, K]``, float, K at least 2.
    labels: Classes, integers, shape ``[B]``. A row with a label outside
      ``[0, K)`` counts as masked.
    where: Optional mask, shape ``[B]``. A masked row has zero values and zero
      gradient, and may hold inf or NaN.

  Returns:
    ``(log p, log(1 - p))``, shape ``[B]`` each, float32 at the least, not
    positive.

  Raises:
    TypeError: Logits are not floating or labels not integer.
    ValueError: Wrong shapes or fewer than two classes.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> log_p, log_rest = losses.label_log_probabilities(
    ...   jnp.array([[200.0, 0.0]]), jnp.array([0]))
    >>> print(log_p, log_rest)
    [-0.] [-200.]
  """
  odds = label_odds(logits, labels, where)
  return _rows.keep(odds.valid, odds.log_p), _rows.keep(
    odds.valid, odds.log_rest
  )
