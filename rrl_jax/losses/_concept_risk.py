"""A running estimate of each concept's risk, as explicit state."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rrl_jax.losses import _checks


class ConceptRiskState(NamedTuple):
  """What the estimate remembers.

  Attributes:
    totals: Exponentially weighted sum of batch means, shape ``[K]``.
    norms: Sum of the same weights, shape ``[K]``; 0 before the first visit.
  """

  totals: jax.Array
  norms: jax.Array


def concept_risk_init(
  num_concepts: int, dtype: Any = jnp.float32
) -> ConceptRiskState:
  """The state before any batch.

  Args:
    num_concepts: Number of concepts K, at least 1.
    dtype: Floating dtype of the state.

  Returns:
    The state, all zeros.

  Raises:
    ValueError: ``num_concepts`` is not positive.
  """
  _checks.in_range('num_concepts', num_concepts, 1)
  # Two arrays: a donated buffer may not stand in two places of a state.
  return ConceptRiskState(
    jnp.zeros((num_concepts,), dtype), jnp.zeros((num_concepts,), dtype)
  )


def concept_risk_update(
  state: ConceptRiskState,
  losses: ArrayLike,
  concept_ids: ArrayLike,
  *,
  rate: ArrayLike,
  where: ArrayLike | None = None,
  axis_name: str | None = None,
) -> ConceptRiskState:
  r"""Moves the estimate of every concept that the batch holds.

  With :math:`m_k` the mean loss of concept :math:`k` in the batch,
  :math:`s_k \leftarrow (1-\beta) s_k + \beta m_k` and the same for the norm
  with 1 in the place of :math:`m_k`. A concept that the batch lacks keeps
  both: its estimate neither decays nor moves. No gradient flows.

  Args:
    state: The state so far.
    losses: Loss of each example, shape ``[B]``, float.
    concept_ids: Concept of each example, integers, shape ``[B]``; an id
      outside ``[0, K)`` counts for no concept.
    rate: Weight beta of the newest batch, in (0, 1].
    where: Optional mask, shape ``[B]``; masked rows count for nothing and may
      hold inf or NaN.
    axis_name: Name of a mapped axis over which the batch is spread.

  Returns:
    The new state, in the dtype of the old.

  Raises:
    TypeError: ``losses`` are not floating or ids not integer.
    ValueError: Wrong ranks or shapes, or a static rate outside (0, 1].

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> state = losses.concept_risk_init(2)
    >>> state = losses.concept_risk_update(
    ...   state, jnp.array([1.0, 3.0]), jnp.array([0, 0]), rate=0.1)
    >>> print(losses.concept_risk_estimate(state))
    [2. 2.]
  """
  losses = _checks.floating('losses', losses, rank=1)
  concept_ids = _checks.integer('concept_ids', concept_ids, rank=1)
  _checks.same_shape(losses=losses, concept_ids=concept_ids)
  _checks.in_range('rate', rate, 0.0, 1.0, open_low=True)
  dtype = state.totals.dtype
  losses = jax.lax.stop_gradient(losses).astype(dtype)
  member = concept_ids[:, None] == jnp.arange(state.totals.size)[None, :]
  if where is not None:
    where = jnp.asarray(where, bool)
    _checks.same_shape(losses=losses, where=where)
    member = member & where[:, None]
  counts = jnp.sum(member, axis=0).astype(dtype)
  if axis_name is not None:
    counts = jax.lax.psum(counts, axis_name)
  # Divided before they are added: sums of the largest losses overflow.
  shares = losses[:, None] / jnp.maximum(counts, 1)[None, :]
  means = jnp.sum(jnp.where(member, shares, 0), axis=0)
  if axis_name is not None:
    means = jax.lax.psum(means, axis_name)
  # A rate of zero for absent concepts leaves totals and norms as they are.
  rates = jnp.where(counts > 0, jnp.asarray(rate, dtype), 0)
  return ConceptRiskState(
    totals=state.totals + rates * (means - state.totals),
    norms=state.norms + rates * (1 - state.norms),
  )


def concept_risk_estimate(state: ConceptRiskState) -> jax.Array:
  """The risk of each concept, free of the pull of the zero start.

  Args:
    state: The state.

  Returns:
    Risks, shape ``[K]``: after one visit of a concept exactly its batch mean.
    A concept not yet visited has the mean of those that were, so that it is
    neither raised nor lowered against them; 0 if none was.
  """
  totals, norms = state
  seen = norms > 0
  risks = totals / jnp.where(seen, norms, 1)
  mean = jnp.sum(jnp.where(seen, risks, 0)) / jnp.maximum(
    jnp.sum(seen).astype(risks.dtype), 1
  )
  return jnp.where(seen, risks, mean)
