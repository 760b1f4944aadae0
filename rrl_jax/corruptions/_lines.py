"""Matrices that act on a line of pixels: a filter along one axis as a product.

A product with a matrix costs more arithmetic than a convolution with the same
weights, but runs on what devices are fastest at, takes any border and needs no
padding.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np


def apply(down: np.ndarray, across: np.ndarray, image: jax.Array) -> jax.Array:
  """``down @ image @ across.T`` of each plane of ``[..., H, W]``."""
  down, across = jnp.asarray(down), jnp.asarray(across)
  highest = jax.lax.Precision.HIGHEST
  image = jnp.einsum('...hw,jw->...hj', image, across, precision=highest)
  return jnp.einsum('ih,...hj->...ij', down, image, precision=highest)


def gaussian(
  sigma: float, size: int, border: str, truncate: float = 4
) -> np.ndarray:
  """Gaussian filter, cut at ``truncate`` deviations, as SciPy's.

  Args:
    sigma: Standard deviation in pixels, at least 0.
    size: Length of the line.
    border: Of `taps`.
    truncate: Where the weights end, in deviations.
  """
  radius = int(truncate * sigma + 0.5)
  offsets = np.arange(-radius, radius + 1)
  weights = np.exp(-0.5 * (offsets / max(sigma, 1e-9)) ** 2)
  return taps(weights / weights.sum(), size, border)


def taps(weights: np.ndarray, size: int, border: str) -> np.ndarray:
  """Correlation with weights of odd number, ``[size, size]`` in float32.

  Past an end, ``'nearest'`` repeats the last pixel, ``'mirror'`` reflects
  about its centre (c b | a b c) and ``'reflect'`` about its edge
  (b a | a b c), as often as it takes.
  """
  radius = len(weights) // 2
  place = np.arange(size)[:, None] + np.arange(-radius, radius + 1)
  if border == 'nearest':
    place = np.clip(place, 0, size - 1)
  elif border == 'mirror':
    period = max(2 * (size - 1), 1)
    place = np.minimum(place % period, -place % period)
  else:
    place = place % (2 * size)
    place = np.minimum(place, 2 * size - 1 - place)
  matrix = np.zeros((size, size))
  rows = np.broadcast_to(np.arange(size)[:, None], place.shape)
  np.add.at(matrix, (rows, place), np.broadcast_to(weights, place.shape))
  return matrix.astype(np.float32)


def zoom(factor: float, size: int) -> tuple[np.ndarray, int]:
  """Enlarges the middle of a line to its old length.

  The middle ``ceil(size / factor)`` pixels are stretched to
  ``round(ceil(size / factor) * factor)``, linearly and from end to end as
  `scipy.ndimage.zoom` does, and cut to the middle.

  Args:
    factor: At least 1.
    size: Length of the line.

  Returns:
    matrix: ``[size, middle]`` in float32.
    start: The first pixel of the middle.
  """
  middle = math.ceil(size / factor)
  length = round(middle * factor)
  place = np.arange(length) * ((middle - 1) / max(length - 1, 1))
  place = place[(length - size) // 2 :][:size]
  weights = np.maximum(1 - np.abs(place[:, None] - np.arange(middle)), 0)
  return weights.astype(np.float32), (size - middle) // 2


def box(size: int, new_size: int) -> np.ndarray:
  """Mean over the pixels whose centres lie in a new one, as Pillow's BOX."""
  scale = size / new_size
  support = 0.5 * max(scale, 1)
  centre = (np.arange(new_size)[:, None] + 0.5) * scale
  # Pillow takes the first and last pixel by rounding, then weighs them.
  first = np.maximum((centre - support + 0.5).astype(int), 0)
  last = np.minimum((centre + support + 0.5).astype(int), size)
  pixel = np.arange(size)[None]
  offset = (pixel + 0.5 - centre) / max(scale, 1)
  inside = (pixel >= first) & (pixel < last)
  weights = inside & (offset > -0.5) & (offset <= 0.5)
  return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
