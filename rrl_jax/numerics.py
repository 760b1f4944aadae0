"""Small differentiable pieces that stay finite where the obvious do not."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def safe_norm(
  x: ArrayLike, axis: int | tuple[int, ...] | None = -1, keepdims=False
) -> jax.Array:
  """Euclidean norm whose gradient at zero is zero instead of NaN.

  Args:
    x: Real array of any shape.
    axis: Axes to reduce; None for all.
    keepdims: Whether reduced axes stay as size one.

  Returns:
    The norm, at least zero, in the dtype of ``x``.
  """
  x = jnp.asarray(x)
  # Dividing by the largest entry first keeps the squares from overflowing or
  # underflowing; the scale is a constant to the gradient.
  scale = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=axis, keepdims=True))
  positive = scale > 0
  scaled = jnp.where(positive, x / jnp.where(positive, scale, 1), 0)
  squares = jnp.sum(jnp.square(scaled), axis=axis, keepdims=True)
  norm = jnp.where(
    positive, scale * jnp.sqrt(jnp.where(positive, squares, 1)), 0
  )
  return norm if keepdims else jnp.squeeze(norm, axis=axis)


def masked_mean(x: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
  """Mean of the unmasked entries; zero, with zero gradient, if there are none.

  Args:
    x: Real array.
    where: Boolean array that broadcasts to the shape of ``x``, or None.

  Returns:
    A scalar in the dtype of ``x``; in 16 bits sum and count are of 32. Masked
    entries may be inf or NaN without harm.
  """
  x = jnp.asarray(x)
  if where is None:
    return jnp.mean(x)
  where = jnp.broadcast_to(where, x.shape)
  wide = jnp.promote_types(x.dtype, jnp.float32)
  total = jnp.sum(jnp.where(where, x, 0), dtype=wide)
  count = jnp.maximum(jnp.sum(where), 1).astype(wide)
  return (total / count).astype(x.dtype)
