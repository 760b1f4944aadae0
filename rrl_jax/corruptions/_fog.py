"""Fog: a plasma fractal."""

import jax
import jax.numpy as jnp


def fog(image: jax.Array, key: jax.Array, weight: float, decay: float):
  """Adds ``weight`` times a fractal and scales the greatest value back.

  The fractal is as large as the next power of two of the longer side, out of
  which the upper left is cut.
  """
  _, height, width = image.shape
  size = 1 << (max(height, width) - 1).bit_length()
  plasma = fractal(key, size, decay)[None, :height, :width]
  greatest = jnp.max(image)
  return (image + weight * plasma) * greatest / (greatest + weight)


def fractal(key: jax.Array, size: int, decay: float) -> jax.Array:
  r"""Heights ``[size, size]`` in [0, 1] by the diamond-square algorithm.

  From one point on, each level puts a point into the middle of every four,
  first of squares, then of diamonds, with the mean of their heights plus a
  number uniform in :math:`\mp w^2`; the borders are joined. w is 100 at first
  and is divided by ``decay`` a level.

  Args:
    key: A typed key.
    size: A power of two.
    decay: Of w.
  """
  noise = jax.random.uniform(key, (size * size - 1,), minval=-1, maxval=1)
  grid, wibble, used = jnp.zeros((1, 1)), 100.0, 0
  while (n := len(grid)) < size:
    part = wibble**2 * noise[used : used + 3 * n * n].reshape(3, n, n)
    below, right = jnp.roll(grid, -1, 0), jnp.roll(grid, -1, 1)
    across = jnp.roll(below, -1, 1)
    middle = (grid + below + right + across) / 4 + part[0]
    up, left = jnp.roll(middle, 1, 0), jnp.roll(middle, 1, 1)
    top = (grid + right + middle + up) / 4 + part[1]
    side = (grid + below + middle + left) / 4 + part[2]
    even = jnp.stack([grid, top], axis=-1).reshape(n, 2 * n)
    odd = jnp.stack([side, middle], axis=-1).reshape(n, 2 * n)
    grid = jnp.stack([even, odd], axis=1).reshape(2 * n, 2 * n)
    used += 3 * n * n
    wibble /= decay
  grid -= jnp.min(grid)
  return grid / jnp.max(grid)
