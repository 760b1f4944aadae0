"""Group distributionally robust optimisation, as an online game."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rrl_jax.losses import (
  _checks,
  _concept_ascent,
  _concept_risk,
  _rows,
  _simplex,
)


class GroupDROState(NamedTuple):
  """What the adversary remembers.

  Attributes:
    probs: Its distribution q over groups, shape ``[G]``.
  """

  probs: jax.Array


def group_dro_init(num_groups: int, dtype: Any = jnp.float32) -> GroupDROState:
  """The state before any batch: uniform over groups.

  Args:
    num_groups: Number of groups G, at least 1.
    dtype: Floating dtype of the state; steps are lost in one of 16 bits.

  Returns:
    The state.

  Raises:
    ValueError: ``num_groups`` is not positive.
  """
  _checks.in_range('num_groups', num_groups, 1)
  return GroupDROState(jnp.full((num_groups,), 1 / num_groups, dtype))


def group_dro_update(
  state: GroupDROState,
  losses: ArrayLike,
  group_ids: ArrayLike,
  *,
  step_size: ArrayLike = 0.01,
  adjustment: ArrayLike = 0.0,
  group_counts: ArrayLike | None = None,
  normalize: bool = False,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> GroupDROState:
  r"""The adversary's step on the groups' losses in a batch.

  With :math:`L_g` the mean loss of group g in the batch (0 if the batch lacks
  it), :math:`n_g` its number of training examples and C the adjustment,

  .. math:: q_g \leftarrow q_g \exp\big(\eta\,(L_g + C/\sqrt{n_g})\big)

  and normalised. No gradient flows. The published order is to update first
  and to use the new state in ``group_dro``.

  Args:
    state: The state so far.
    losses: Loss of each example, shape ``[B]``, float.
    group_ids: Group of each example, integers, shape ``[B]``; an id outside
      ``[0, G)`` counts for no group.
    step_size: Step eta, non-negative, in units of one over loss.
    adjustment: C, non-negative, in the unit of the loss: a scalar or one a
      group, shape ``[G]``.
    group_counts: Training examples of each group, shape ``[G]``; needed with
      an adjustment. A group with none has no adjustment.
    normalize: Whether to divide the adjusted losses by their sum first.
    where: Optional mask, shape ``[B]``; masked rows count for nothing and may
      hold inf or NaN.
    axis_name: Name of a mapped axis over which the batch is spread.

  Returns:
    The new state, in the dtype of the old.

  Raises:
    TypeError: ``losses`` are not floating or ids not integer.
    ValueError: Wrong shapes, an adjustment without counts, or static values
      out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> state = losses.group_dro_init(2)
    >>> state = losses.group_dro_update(
    ...   state, jnp.array([0.0, 1.0]), jnp.array([0, 1]), step_size=0.01)
    >>> print(f'{state.probs[0]:.4f} {state.probs[1]:.4f}')
    0.4975 0.5025

  References:
    Sagawa et al., `Distributionally Robust Neural Networks for Group Shifts
    <https://arxiv.org/abs/1911.08731>`_, 2020, Algorithm 1 and section 3.3.

  .. note::
    As the authors' code, except that the adjustment applies wherever it is
    positive, not only if it is for all groups, and that weights live in the
    log domain, so that one that underflowed can come back.
  """
  _checks.in_range('adjustment', adjustment, 0.0)
  probs = _checks.floating('state.probs', state.probs, rank=1)
  dtype = _simplex.compute_dtype(probs)
  # With a rate of one, the running estimate is the batch's own.
  estimate = _concept_risk.concept_risk_update(
    _concept_risk.concept_risk_init(probs.size, dtype),
    losses,
    group_ids,
    rate=1.0,
    where=where,
    axis_name=axis_name,
  )
  risks = estimate.totals
  if group_counts is not None:
    counts = jnp.asarray(group_counts)
    if counts.shape != probs.shape:
      raise ValueError(
        f'group_counts must have shape {probs.shape}, got {counts.shape}'
      )
    counts = counts.astype(dtype)
    extra = jnp.broadcast_to(jnp.asarray(adjustment, dtype), probs.shape)
    root = jnp.sqrt(jnp.maximum(counts, 1))
    risks = risks + jnp.where(counts > 0, extra / root, 0)
  elif not (isinstance(adjustment, int | float) and adjustment == 0):
    raise ValueError('an adjustment needs group_counts, an array [G]')
  if normalize:
    total = jnp.sum(risks)
    risks = risks / jnp.where(total > 0, total, 1)
  new = _concept_ascent.concept_mirror_ascent(
    probs, risks, jnp.ones_like(probs), step_size=step_size, temperature=0.0
  )
  return GroupDROState(jax.lax.stop_gradient(new))


def group_dro(
  losses: ArrayLike,
  group_ids: ArrayLike,
  state: GroupDROState,
  *,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> jax.Array:
  r"""Losses weighted by the adversary's distribution, per example.

  With :math:`n_g` examples of group g among the B unmasked ones of the batch,

  .. math:: \tilde\ell_i = \frac{B\, q_{g(i)}}{n_{g(i)}}\, \ell_i

  so that the mean over the unmasked rows is :math:`\sum_g q_g L_g`, with 0
  for the groups that the batch lacks. The caller reduces. Gradients flow to
  ``losses`` alone.

  Args:
    losses: Loss of each example, shape ``[B]``, float.
    group_ids: Group of each example, integers, shape ``[B]``; an id outside
      ``[0, G)`` has weight zero.
    state: The state, after its update.
    where: Optional mask, shape ``[B]``. A masked row has zero value and zero
      gradient, and may hold inf or NaN.
    axis_name: Name of a mapped axis over which the batch is spread: the pmean
      of the local means is then the value for the batch of all devices.

  Returns:
    Weighted losses, shape ``[B]``, dtype of ``losses``.

  Raises:
    TypeError: ``losses`` are not floating or ids not integer.
    ValueError: Wrong ranks or shapes.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> weighted = losses.group_dro(
    ...   jnp.array([1.0, 1.0, 3.0]), jnp.array([0, 0, 1]),
    ...   losses.group_dro_init(2))
    >>> print(weighted.mean())
    2.0

  References:
    Sagawa et al., `Distributionally Robust Neural Networks for Group Shifts
    <https://arxiv.org/abs/1911.08731>`_, 2020, the objective that
    the online algorithm minimises.

  .. note::
    The adjustment is a constant of the loss and enters the update alone; the
    authors' code shows it in the value too. Their CVaR over groups is
    ``concept_best_response`` with ``cvar`` on ``concept_risk_estimate``.
  """
  losses = _checks.floating('losses', losses, rank=1)
  group_ids = _checks.integer('group_ids', group_ids, rank=1)
  _checks.same_shape(losses=losses, group_ids=group_ids)
  q = _checks.floating('state.probs', state.probs, rank=1)
  rows = _rows.mask(where, losses)
  dtype = _simplex.compute_dtype(losses)
  member = group_ids[:, None] == jnp.arange(q.size)[None, :]
  member = member & rows[:, None]
  counts = jnp.sum(member, axis=0).astype(dtype)
  if axis_name is not None:
    counts = jax.lax.psum(counts, axis_name)
  weights = jax.lax.stop_gradient(q).astype(dtype) / jnp.maximum(counts, 1)
  weights = jnp.sum(jnp.where(member, weights[None, :], 0), axis=1)
  weights = weights * _rows.mean_scale(rows, axis_name).astype(dtype)
  out = weights * _rows.keep(rows, losses).astype(dtype)
  return out.astype(losses.dtype)
