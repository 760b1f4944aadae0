"""Small differentiable pieces that stay finite where the obvious do not."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

# A quotient by more than 2**126 is zero in XLA, which multiplies by the
# reciprocal and flushes it. Rows with an entry above _LARGE are shrunk first.
_LARGE, _SHRINK = 2.0**32, 2.0**-32


def safe_norm(
  x: ArrayLike, axis: int | tuple[int, ...] | None = -1, keepdims=False
) -> jax.Array:
  """Euclidean norm whose gradient at zero is zero instead of NaN.

  Args:
    x: Real array of any shape.
    axis: Axes to reduce; None for all.
    keepdims: Whether reduced axes stay as size one.

  Returns:
    The norm, at least zero and at most the largest finite number, in the dtype
    of ``x``.
  """
  x = jnp.asarray(x)
  x, shrink = shrunk(x, axis)
  # Dividing by the largest entry first keeps the squares from overflowing or
  # underflowing; the scale is a constant to the gradient.
  scale = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=axis, keepdims=True))
  positive = scale > 0
  scaled = jnp.where(positive, x / jnp.where(positive, scale, 1), 0)
  squares = jnp.sum(jnp.square(scaled), axis=axis, keepdims=True)
  norm = jnp.where(
    positive, scale * jnp.sqrt(jnp.where(positive, squares, 1)), 0
  )
  norm = jnp.minimum(norm, jnp.finfo(x.dtype).max * shrink) / shrink
  return norm if keepdims else jnp.squeeze(norm, axis=axis)


def shrunk(
  x: jax.Array, axis: int | tuple[int, ...] | None = -1
) -> tuple[jax.Array, jax.Array]:
  """``x`` times a power of two with which norms and quotients stay finite.

  Args:
    x: Real array of any shape.
    axis: Axes that share a factor; None for all.

  Returns:
    ``x * factor`` and the factor, of size one along ``axis``: 1 unless an
    entry is above 2**32, which no number of 16 bits but bfloat16 is.
  """
  top = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=axis, keepdims=True))
  large = top > jnp.asarray(_LARGE).astype(x.dtype)
  factor = jnp.where(large, _SHRINK, 1).astype(x.dtype)
  return x * factor, factor


def difference(
  a: ArrayLike, b: ArrayLike, limit: float | None = None
) -> jax.Array:
  """``a - b`` held within the finite numbers, or within ``limit`` of zero.

  Where it is held, it is a constant to the gradient.

  Args:
    a: Floating array.
    b: Of the same shape and dtype.
    limit: Largest absolute value, positive; None for the largest finite one.
  """
  a, b = jnp.asarray(a), jnp.asarray(b)
  largest = jnp.finfo(jnp.result_type(a, b)).max if limit is None else limit
  return jnp.clip(a - b, -largest, largest)


def sum_of_squares(a: ArrayLike, b: ArrayLike, axis=-1) -> jax.Array:
  """``sum((a - b)^2)``, at most the largest finite number.

  Where it is held there, it is a constant to the gradient.

  Args:
    a: Floating array.
    b: Of the same shape and dtype.
    axis: Axes to reduce.
  """
  largest = jnp.finfo(jnp.result_type(a, b)).max
  gap = difference(a, b, limit=0.999 * float(largest) ** 0.5)
  return jnp.minimum(jnp.sum(jnp.square(gap), axis=axis), largest)


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
