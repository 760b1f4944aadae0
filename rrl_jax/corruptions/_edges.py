"""Edges of an image of one plane ``[H, W]`` and distances from them."""

import functools

import jax
import jax.numpy as jnp

_TANGENT = 13573  # tan(22.5 degrees) in units of 2**-15.


def canny(image: jax.Array, low: int, high: int) -> jax.Array:
  """Canny's edges, as OpenCV finds them with its default settings.

  Slopes are those of Sobel's 3x3 filters with a repeated border, their size is
  the sum of both magnitudes. Pixels above ``low`` that are the greatest along
  the slope are edges, if one above ``high`` is among those that they touch,
  directly or through others.

  Args:
    image: Integers of 0 to 255.
    low: Threshold.
    high: Threshold.

  Returns:
    Booleans ``[H, W]``.

  References:
    Canny, `A computational approach to edge detection
    <https://doi.org/10.1109/TPAMI.1986.4767851>`_, 1986.
  """
  padded = jnp.pad(image, 1, mode='edge')
  smooth = padded[:-2] + 2 * padded[1:-1] + padded[2:]
  dx = smooth[:, 2:] - smooth[:, :-2]
  smooth = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
  dy = smooth[2:] - smooth[:-2]
  size = jnp.abs(dx) + jnp.abs(dy)
  near = lambda i, j: _shift(size, i, j, 0)
  # The direction of the slope, to the next eighth of a turn.
  x, y = jnp.abs(dx) * _TANGENT, jnp.abs(dy) << 15
  flat, steep = y < x, y > x + (jnp.abs(dx) << 16)
  across = (size > near(0, -1)) & (size >= near(0, 1))
  down = (size > near(-1, 0)) & (size >= near(1, 0))
  falling = (size > near(-1, -1)) & (size > near(1, 1))
  rising = (size > near(-1, 1)) & (size > near(1, -1))
  diagonal = jnp.where((dx ^ dy) < 0, rising, falling)
  greatest = jnp.where(flat, across, jnp.where(steep, down, diagonal))
  weak = greatest & (size > low)

  def grow(state):
    edges, _ = state
    near = [_shift(edges, i, j, False) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    grown = functools.reduce(jnp.logical_or, near) & weak
    return grown, jnp.any(grown != edges)

  strong = weak & (size > high)
  return jax.lax.while_loop(lambda state: state[1], grow, (strong, True))[0]


def distance(edges: jax.Array, farthest: int) -> jax.Array:
  """Length of the shortest way to an edge, at most ``farthest``.

  A way is made of steps to the 8 neighbours, of length 1 and 1.4, and of
  knight's moves, of length 2.1969, as in OpenCV's transform with a mask of 5.

  Args:
    edges: Booleans ``[H, W]``.
    farthest: A whole number of pixels, which bounds the number of steps.
  """
  steps = [
    (i, j, {1: 1.0, 2: 1.4, 5: 2.1969}[i * i + j * j])
    for i in range(-2, 3)
    for j in range(-2, 3)
    if i * i + j * j in (1, 2, 5)
  ]

  def extend(_, found):
    for i, j, length in steps:
      found = jnp.minimum(found, _shift(found, i, j, farthest) + length)
    return found

  start = jnp.where(edges, 0.0, farthest).astype(jnp.float32)
  return jax.lax.fori_loop(0, farthest, extend, start)


def _shift(x: jax.Array, i: int, j: int, fill) -> jax.Array:
  """What lies i rows below and j columns to the right; ``fill`` outside."""
  height, width = x.shape
  padded = jnp.pad(x, 2, constant_values=fill)
  return padded[2 + i : 2 + i + height, 2 + j : 2 + j + width]
