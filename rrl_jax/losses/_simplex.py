"""Maximisers over the simplex that stay exact and finite at any scale."""

import jax
import jax.numpy as jnp

# exp() of minus this is zero in every dtype, against every positive prior.
_FAR = 1e4


def compute_dtype(x: jax.Array) -> jnp.dtype:
  """The dtype to compute in: that of ``x``, float32 at the least."""
  return jnp.promote_types(x.dtype, jnp.float32)


def normalize(prior: jax.Array) -> jax.Array:
  """Scales a non-negative vector to sum one; uniform if nothing is positive."""
  prior = jnp.where(prior > 0, prior, 0)
  total = jnp.sum(prior)
  positive = total > 0
  return jnp.where(
    positive, prior / jnp.where(positive, total, 1), 1 / prior.size
  )


def scaled_gap(
  scores: jax.Array,
  scale: jax.Array,
  depth: float,
  where: jax.Array | None = None,
) -> jax.Array:
  """``(scores - max scores) / scale`` over axis 0, no lower than ``-depth``.

  Subtracting before dividing keeps exact ties exact and cannot overflow; the
  floor keeps ``-inf`` out of the gradient.

  Args:
    scores: Finite values, shape ``[K, ...]``.
    scale: Positive scalar.
    depth: Where the result may stop to distinguish, positive.
    where: Boolean mask of the entries that count for the maximum.

  Returns:
    Values in ``[-depth, 0]`` where the mask holds.
  """
  top = jnp.max(scores, axis=0, keepdims=True, initial=-jnp.inf, where=where)
  gap = scores - jax.lax.stop_gradient(top)
  gap = jnp.where(gap > 0, 0, gap)  # Only where the mask does not hold.
  return jnp.maximum(gap, -depth * scale) / scale


def soft_argmax(
  scores: jax.Array, scale: jax.Array, weights: jax.Array | None = None
) -> jax.Array:
  """``weights * exp(scores / scale)``, normalised over axis 0.

  Args:
    scores: Finite values, shape ``[K, ...]``.
    scale: Positive scalar.
    weights: Non-negative, shape of ``scores``; an entry at zero stays zero.
      At least one is positive. None means equal weights.

  Returns:
    Non-negative, summing to one over axis 0.
  """
  positive = None if weights is None else weights > 0
  powers = scaled_gap(scores, scale, _FAR, positive)
  if weights is None:
    return jax.nn.softmax(powers, axis=0)
  powers = powers + jnp.log(jnp.where(positive, weights, 1))
  return jax.nn.softmax(powers, axis=0, where=positive)


def water_level(values: jax.Array, weights: jax.Array) -> jax.Array:
  """Solves ``sum_k weights_k * (values_k - level)_+ = 1``; returns the terms.

  A value is above the level exactly if lowering the level down to it pours
  less than one: ``sum_i weights_i * (values_i - values_k)_+ < 1``. That
  comparison of all pairs needs no sort, treats ties alike, and leaves a level
  that is a plain, differentiable sum over the support.

  Args:
    values: Finite values, shape ``[K]``.
    weights: Non-negative, shape ``[K]``, at least one positive.

  Returns:
    ``weights_k * (values_k - level)_+``, shape ``[K]``, summing to one. With
    unit weights, the Euclidean projection of ``values`` on the simplex.
  """
  still, mass = jax.lax.stop_gradient((values, weights))
  excess = jnp.maximum(still[:, None] - still[None, :], 0)  # [above, at]
  poured = jnp.sum(mass[:, None] * excess, axis=0)
  support = (poured < 1) & (mass > 0)
  width = jnp.sum(jnp.where(support, weights, 0))
  volume = jnp.sum(jnp.where(support, weights * values, 0))
  level = (volume - 1) / width
  terms = jnp.where(support, jnp.maximum(weights * (values - level), 0), 0)
  # Rounding of a level far below the values leaves a sum off one.
  return normalize(terms)
