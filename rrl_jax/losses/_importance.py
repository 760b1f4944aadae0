"""Weights that make a sampled batch stand for another mix of concepts."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rrl_jax.losses import _checks

_RULES = ('none', 'rms', 'max')


def importance_weights(
  concept_probs: ArrayLike,
  sampling_probs: ArrayLike,
  concept_ids: ArrayLike,
) -> jax.Array:
  r"""How much each example counts, one weight an example.

  With the wanted distribution :math:`p` over concepts and the probability
  :math:`q_k` that a sampled example is of concept :math:`k`,

  .. math:: w_i = p_{k(i)} / q_{k(i)}

  so that ``mean(w * loss)`` over the batch is an unbiased estimate of
  :math:`\sum_k p_k \mathbb{E}[\ell \mid k]`. Uniform sampling of N examples
  has :math:`q_k = N_k/N`, concept-balanced sampling :math:`q_k = 1/K`. The
  caller reduces, and stops the gradient if ``concept_probs`` depends on what
  is trained.

  Args:
    concept_probs: Wanted distribution p, shape ``[K]``, float.
    sampling_probs: Sampling distribution q, shape ``[K]``, float.
    concept_ids: Concept of each example, integers, shape ``[B]``.

  Returns:
    Weights, shape ``[B]``, dtype of ``concept_probs``; zero where q is zero or
    the id is outside ``[0, K)``.

  Raises:
    TypeError: Probabilities are not floating or ids not integer.
    ValueError: Wrong rank, or p and q differ in shape.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> print(losses.importance_weights(
    ...   jnp.array([0.5, 0.5]), jnp.array([0.8, 0.2]), jnp.array([0, 1])))
    [0.625 2.5  ]
  """
  p = _checks.floating('concept_probs', concept_probs, rank=1)
  q = _checks.floating('sampling_probs', sampling_probs, rank=1)
  concept_ids = _checks.integer('concept_ids', concept_ids, rank=1)
  _checks.same_shape(concept_probs=p, sampling_probs=q)
  q = q.astype(p.dtype)
  ratios = jnp.where(q > 0, p / jnp.where(q > 0, q, 1), 0)
  # A sum over a one-hot row rather than a gather: it keeps the batch's
  # sharding on every kind of mesh, and an id outside picks nothing.
  member = concept_ids[:, None] == jnp.arange(p.size)[None, :]
  return jnp.sum(jnp.where(member, ratios[None, :], 0), axis=1)


def step_scale(
  weights: ArrayLike, *, rule: str, axis_name: str | None = None
) -> jax.Array:
  r"""Factor for the step size that answers to the weights' variance.

  The variance of an importance weighted gradient grows with the weights. The
  factor is 1 for ``none``, :math:`1/\max(1, \sqrt{\overline{w^2}})` for
  ``rms`` and :math:`1/\max(1, \max_i w_i)` for ``max``.

  Args:
    weights: Weight of each example, shape ``[B]``, float, non-negative.
    rule: One of none, rms, max.
    axis_name: Name of a mapped axis over which the batch is spread, inside
      ``shard_map`` or ``pmap``.

  Returns:
    A scalar in (0, 1], dtype of ``weights``, under stop_gradient.

  Raises:
    TypeError: ``weights`` are not floating.
    ValueError: Unknown rule or wrong rank.

  Example:
    >>> import jax.numpy as jnp
    >>> from rrl_jax import losses
    >>> print(losses.step_scale(jnp.array([0.0, 4.0]), rule='max'))
    0.25

  .. note::
    The paper adapts the learning rate by a rule that is not known to us;
    these two are ours.
  """
  _checks.one_of('rule', rule, _RULES)
  weights = _checks.floating('weights', weights, rank=1)
  dtype = weights.dtype
  if rule == 'none':
    return jnp.ones((), dtype)
  weights = jax.lax.stop_gradient(weights)
  weights = weights.astype(jnp.promote_types(dtype, jnp.float32))
  top = jnp.max(jnp.abs(weights), initial=0)
  if axis_name is not None:
    top = jax.lax.pmax(top, axis_name)
  if rule == 'max':
    return (1 / jnp.maximum(top, 1)).astype(dtype)
  # Squares of weights over the largest one cannot overflow.
  unit = jnp.maximum(top, 1)
  square = jnp.mean(jnp.square(weights / unit))
  if axis_name is not None:
    square = jax.lax.pmean(square, axis_name)
  return (1 / jnp.maximum(unit * jnp.sqrt(square), 1)).astype(dtype)
