"""Elastic transform: a random affine map, then smooth random shifts."""

import jax
import jax.numpy as jnp
import numpy as np

from rrl_jax.corruptions import _lines


def elastic(
  image: jax.Array, key: jax.Array, shift: float, sigma: float, jitter: float
):
  """Moves three points of the image, then every pixel by itself.

  Both take values between pixels linearly; the border is mirrored, about the
  centres of the last pixels in the first and about their edges in the second.

  Args:
    image: ``[C, H, W]``.
    key: A typed key.
    shift: Factor of the pixels' shifts, over the shorter side.
    sigma: Standard deviation of the Gaussian that smooths shifts uniform in
      -1 to 1, over the shorter side.
    jitter: The three points move by up to this, over the shorter side.
  """
  _, height, width = image.shape
  side = min(height, width)
  affine_key, shift_key = jax.random.split(key)
  moves = jax.random.uniform(affine_key, (3, 2), minval=-1, maxval=1)
  y, x = affine_source(side * jitter * moves, height, width)
  image = sample(image, y, x, 'mirror')
  if shift == 0:
    return image
  shifts = jax.random.uniform(
    shift_key, (2, height, width), minval=-1, maxval=1
  )
  down, across = (
    _lines.gaussian(side * sigma, n, 'reflect', truncate=3)
    for n in (height, width)
  )
  shifts = side * shift * _lines.apply(down, across, shifts)
  y, x = np.mgrid[:height, :width].astype(np.float32)
  return sample(image, y + shifts[0], x + shifts[1], 'reflect')


def affine_source(
  moves: jax.Array, height: int, width: int
) -> tuple[jax.Array, jax.Array]:
  """Where each pixel of an affinely mapped image comes from.

  The points (q, q), (q, -q) and (-q, -q) around the middle, with q a third of
  the shorter side, go to themselves plus their move. In coordinates (u, v)
  about the middle the map is ``(I + A) (u, v) + b``, which is inverted.

  Args:
    moves: ``[3, 2]``, of the points, to the right and down.
    height: Of the image.
    width: Of the image.

  Returns:
    Rows and columns, ``[H, W]`` each.
  """
  q = min(height, width) // 3
  v, u = np.mgrid[:height, :width].astype(np.float32)
  along_u = (moves[1] - moves[2]) / (2 * q)
  along_v = (moves[0] - moves[1]) / (2 * q)
  offset = (moves[0] + moves[2]) / 2
  a, c = 1 + along_u[0], along_u[1]
  b, d = along_v[0], 1 + along_v[1]
  determinant = a * d - b * c
  tiny = jnp.where(determinant < 0, -1e-3, 1e-3)  # Finite for any moves.
  determinant = jnp.where(jnp.abs(determinant) < 1e-3, tiny, determinant)
  u, v = u - (width // 2 + offset[0]), v - (height // 2 + offset[1])
  column = (d * u - b * v) / determinant + width // 2
  row = (a * v - c * u) / determinant + height // 2
  return row, column


def sample(image: jax.Array, y: jax.Array, x: jax.Array, border: str):
  """Linear interpolation of ``[C, H, W]`` at rows y and columns x."""
  channels, height, width = image.shape
  top, left = jnp.floor(y), jnp.floor(x)
  down, right = (y - top)[None], (x - left)[None]
  top, left = top.astype(jnp.int32), left.astype(jnp.int32)
  rows = [_fold(top + i, height, border) for i in (0, 1)]
  columns = [_fold(left + i, width, border) for i in (0, 1)]
  flat = image.reshape(len(image), -1)
  take = lambda i, j: flat.at[:, width * rows[i] + columns[j]].get(
    mode='promise_in_bounds'
  )
  above = (1 - right) * take(0, 0) + right * take(0, 1)
  below = (1 - right) * take(1, 0) + right * take(1, 1)
  return (1 - down) * above + down * below


def _fold(place: jax.Array, size: int, border: str) -> jax.Array:
  """Places past an end, mirrored as `_lines.taps` does."""
  if border == 'mirror':
    period = 2 * (size - 1)
    place = place % period
    return jnp.minimum(place, period - place)
  place = place % (2 * size)
  return jnp.minimum(place, 2 * size - 1 - place)
