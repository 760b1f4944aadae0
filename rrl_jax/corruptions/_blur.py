"""Blurs of an image ``[C, H, W]`` that are the same for every example."""

import jax
import jax.numpy as jnp
import numpy as np

from rrl_jax.corruptions import _lines


def gaussian(image: jax.Array, key: jax.Array | None, sigma: float):
  """Gaussian blur, cut at four deviations; the border is repeated."""
  del key
  down, across = (
    _lines.gaussian(sigma, side, 'nearest') for side in image.shape[1:]
  )
  return _lines.apply(down, across, image)


def defocus(image: jax.Array, key: jax.Array, radius: float, sigma: float):
  """Correlation with a disk, itself blurred; the border is mirrored.

  The kernel is a sum of products of a column and a row, one for each singular
  value, at most as many as the disk has different rows.
  """
  del key
  columns, values, rows = np.linalg.svd(disk(radius, sigma))
  height, width = image.shape[1:]
  parts = []
  for column, value, row in zip(columns.T, values, rows, strict=True):
    if value > 1e-7 * values[0]:
      down = _lines.taps(value * column, height, 'mirror')
      across = _lines.taps(row, width, 'mirror')
      parts.append((down, across))
  return _sum_of_products(parts, image)


def disk(radius: float, sigma: float) -> np.ndarray:
  """Kernel ``[2 r + 1, 2 r + 1]`` of sum 1, r at least 8 and ``radius``.

  The pixels whose centres lie in a circle, blurred by a Gaussian of 3x3 pixels
  (5x5 above a radius of 8) with a mirrored border, to smooth its edge.
  """
  r = max(8, int(radius))
  offsets = np.arange(-r, r + 1)
  kernel = offsets[:, None] ** 2 + offsets**2 <= radius**2
  kernel = kernel / kernel.sum()
  reach = np.arange(-1, 2) if radius <= 8 else np.arange(-2, 3)
  weights = np.exp(-0.5 * (reach / sigma) ** 2)
  smooth = _lines.taps(weights / weights.sum(), 2 * r + 1, 'mirror')
  return smooth.astype(float) @ kernel @ smooth.T


def zoom(image: jax.Array, key: jax.Array, end: float, step: float):
  """Mean of the image and of its enlargements by 1, 1 + step, ... to ``end``.

  A factor of 1 is among the enlargements, so that the image counts twice; and
  so is ``end`` where rounding leaves it below the limit of `numpy.arange`, as
  in the authors' code.
  """
  del key
  height, width = image.shape[1:]
  factors = np.arange(1, end, step)
  parts = []
  for factor in factors:
    part = []
    for side in (height, width):
      matrix, start = _lines.zoom(factor, side)
      whole = np.zeros((side, side))
      whole[:, start : start + matrix.shape[1]] = matrix
      part.append(whole)
    parts.append(tuple(part))
  return (image + _sum_of_products(parts, image)) / (len(parts) + 1)


def _sum_of_products(parts, image: jax.Array) -> jax.Array:
  """Sum of ``down @ image @ across.T``, as two products over all parts."""
  height, width = image.shape[1:]
  down = np.stack([part[0] for part in parts])
  across = np.stack([part[1] for part in parts])
  down = jnp.asarray(down.reshape(-1, height), jnp.float32)
  across = jnp.asarray(across.transpose(0, 2, 1).reshape(-1, width), 'float32')
  highest = jax.lax.Precision.HIGHEST
  tall = jnp.einsum('kh,chw->ckw', down, image, precision=highest)
  tall = tall.reshape(len(image), len(parts), height, width)
  wide = tall.transpose(0, 2, 1, 3).reshape(len(image), height, -1)
  return jnp.einsum('chk,kw->chw', wide, across, precision=highest)
