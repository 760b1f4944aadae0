"""Motion blur in a random direction."""

import jax
import jax.numpy as jnp
import numpy as np


def motion(image: jax.Array, key: jax.Array, radius: int, sigma: float):
  """Blurs ``[C, H, W]`` along an angle uniform in -45 to 45 degrees."""
  return blur(image, draw_angle(key, -45, 45), radius, sigma)


def draw_angle(key: jax.Array, low: float, high: float) -> jax.Array:
  """In degrees, uniform."""
  return jax.random.uniform(key, minval=low, maxval=high)


def blur(image: jax.Array, angle: jax.Array, radius: int, sigma: float):
  r"""Weighted sum of copies of the image, each a pixel further.

  Copy i, from 0 to 2 ``radius``, has weight :math:`\exp(-i^2 / 2 \sigma^2)`,
  over the sum of all, and lies i pixels along the angle, rounded to whole
  pixels. Past the border the last pixel repeats. A copy that is moved by the
  whole image, and all after it, are left out, which leaves a darker image, as
  in the package imagecorruptions.

  Args:
    image: ``[C, H, W]``.
    angle: In degrees.
    radius: Half the number of copies, less one.
    sigma: Standard deviation in pixels.
  """
  height, width = image.shape[1:]
  i = np.arange(2 * radius + 1)
  weights = np.exp(-0.5 * (i / sigma) ** 2)
  weights = jnp.asarray(weights / weights.sum(), jnp.float32)
  radians = jnp.deg2rad(angle)
  dy = jnp.ceil(i * jnp.sin(radians) - 0.5).astype(jnp.int32)
  dx = jnp.ceil(i * jnp.cos(radians) - 0.5).astype(jnp.int32)
  # The further copies are the more moved ones, so that these are the last.
  weights *= (jnp.abs(dy) < height) & (jnp.abs(dx) < width)
  used = i[i <= 6 * sigma]  # The rest weighs less than 2e-8.
  # Copies that would be moved past this border have no weight.
  border = [min(used[-1] + 1, side - 1) for side in (height, width)]
  padded = jnp.pad(image, [(0, 0), *((b, b) for b in border)], mode='edge')
  blurred = jnp.zeros_like(image)
  for k in used:
    corner = 0, border[0] + dy[k], border[1] + dx[k]
    blurred += weights[k] * jax.lax.dynamic_slice(padded, corner, image.shape)
  return blurred
