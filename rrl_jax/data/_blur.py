"""Gaussian blur of one image, whose width may be a traced number."""

import jax
import jax.numpy as jnp


def radius(height: int, width: int) -> int:
  """Of SimCLR's kernel: a tenth of the shorter side, odd, 3 at least."""
  return max(min(height, width) // 10 // 2, 1)


def matrix(sigma: jax.Array, size: int, radius: int) -> jax.Array:
  r"""What blurs a line of pixels, ``[size, size]``; each row sums to 1.

  Row i holds the weights :math:`w(d) = \exp(-d^2 / 2 \sigma^2)`, :math:`|d|`
  at most ``radius``, of the pixels j around i. Past an end the line is
  mirrored about its last pixel, so that j also stands for the places -j and
  2 (size - 1) - j.

  Args:
    sigma: Standard deviation in pixels, above 0.
    size: Length of the line.
    radius: Of the kernel; below ``size``.
  """

  def weight(distance):
    near = jnp.abs(distance) <= radius
    return jnp.where(near, jnp.exp(-(distance**2) / (2 * sigma**2)), 0)

  i, j = jnp.arange(size)[:, None], jnp.arange(size)[None, :]
  weights = weight(i - j)
  weights += jnp.where(j > 0, weight(i + j), 0)
  weights += jnp.where(j < size - 1, weight(2 * (size - 1) - i - j), 0)
  return weights / jnp.sum(weights, axis=1, keepdims=True)


def blur(image: jax.Array, sigma: jax.Array) -> jax.Array:
  """Blurs along the columns, then along the rows.

  As products with banded matrices: a convolution whose kernel differs between
  the examples of a batch becomes a grouped one, which is slow and which XLA
  does not split over devices by rows.

  Args:
    image: ``[H, W, C]``, floats of 32 bits at least.
    sigma: Standard deviation in pixels, above 0.
  """
  height, width, _ = image.shape
  r = radius(height, width)
  down, across = matrix(sigma, height, r), matrix(sigma, width, r)
  blurred = jnp.einsum(
    'ih,hwc->iwc', down, image, precision=jax.lax.Precision.HIGHEST
  )
  blurred = jnp.einsum(
    'jw,iwc->ijc', across, blurred, precision=jax.lax.Precision.HIGHEST
  )
  return jnp.clip(blurred, 0, 1)


def random_blur(
  key: jax.Array, image: jax.Array, probability: float
) -> jax.Array:
  """Blurs with a probability, sigma being uniform in [0.1, 2.0]."""
  sigma_key, which = jax.random.split(key)
  sigma = jax.random.uniform(sigma_key, (), image.dtype, 0.1, 2.0)
  return jnp.where(
    jax.random.bernoulli(which, probability), blur(image, sigma), image
  )
