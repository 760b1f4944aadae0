"""Spatter: drops of water or splashes of mud."""

import jax
import jax.numpy as jnp
import numpy as np

from rrl_jax.corruptions import _edges, _lines

_WATER = np.array([175, 238, 238], np.float32) / 255
_MUD = np.array([63, 42, 20], np.float32) / 255
_GRAY = np.array([0.2989, 0.587, 0.114], np.float32)
_FARTHEST = 20  # Distances from an edge above this are equal.
_RELIEF = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])


def spatter(
  image: jax.Array,
  key: jax.Array,
  mean: float,
  sigma: float,
  blur: float,
  threshold: float,
  weight: float,
  mud: int,
):
  """Adds water of ``weight``, or covers with mud of blur ``weight``.

  Args:
    image: ``[C, H, W]``.
    key: A typed key.
    mean: Of the noise that the liquid is made of.
    sigma: Standard deviation of the noise.
    blur: Standard deviation of the Gaussian that smooths the noise.
    threshold: Of the smooth noise; there is liquid above.
    weight: See above.
    mud: 0 for water, 1 for mud.
  """
  colour = _MUD if mud else _WATER
  if len(image) == 1:
    colour = np.sum(_GRAY * colour, keepdims=True)
  colour = colour[:, None, None]
  noise = mean + sigma * jax.random.normal(key, image.shape[1:])
  liquid = _smooth(noise, blur)
  if mud:
    cover = _smooth((liquid > threshold).astype(jnp.float32), weight)
    cover = jnp.where(cover < 0.8, 0, cover)[None]
    return (1 - cover) * image + cover * colour
  liquid = jnp.where(liquid < threshold, 0, jnp.minimum(liquid, 1))
  return image + weight * water(jnp.floor(255 * liquid))[None] * colour


def _smooth(plane: jax.Array, sigma: float) -> jax.Array:
  """Gaussian blur of ``[H, W]``; the border is repeated."""
  down, across = (_lines.gaussian(sigma, n, 'nearest') for n in plane.shape)
  return _lines.apply(down, across, plane)


def water(liquid: jax.Array) -> jax.Array:
  """Light on drops, ``[H, W]`` in [0, 1], zero where there is no liquid.

  Distances from the edges of the drops, up to 20 pixels, are smoothed, spread
  over all bytes, lit from one side, smoothed again and multiplied with the
  liquid. All zero without liquid or light, where the original divides zero by
  zero.

  Args:
    liquid: Whole numbers of 0 to 255, ``[H, W]``.
  """
  edges = _edges.canny(liquid.astype(jnp.int32), 50, 150)
  distance = _edges.distance(edges, _FARTHEST)
  height, width = liquid.shape
  thirds = np.full(3, 1 / 3)
  down, across = (_lines.taps(thirds, n, 'mirror') for n in liquid.shape)
  # A mean of equal whole numbers stays that number in float32.
  distance = jnp.floor(_lines.apply(down, across, distance) + 1e-5)
  spread = equalize(distance, _FARTHEST)
  padded = jnp.pad(spread, 1, mode='reflect')
  lit = sum(
    int(_RELIEF[i, j]) * padded[i : i + height, j : j + width]
    for i in range(3)
    for j in range(3)
  )
  lit = jnp.round(_lines.apply(down, across, jnp.clip(lit, 0, 255)))
  light = liquid * lit
  greatest = jnp.max(light)
  return light / jnp.where(greatest > 0, greatest, 1)


def equalize(values: jax.Array, greatest: int) -> jax.Array:
  """Whole numbers of 0 to ``greatest``, their histogram spread over bytes.

  A value goes to 255 times the share of the pixels at or below it, after the
  pixels of the least value, which goes to 0, are left out. An image of one
  value stays.
  """
  levels = np.arange(greatest + 1, dtype=np.float32)[:, None, None]
  below = jnp.sum(values[None] <= levels, axis=(1, 2)).astype(jnp.float32)
  least = jnp.min(jnp.where(below > 0, below, jnp.inf))
  rest = values.size - least
  table = jnp.round(255 * (below - least) / jnp.maximum(rest, 1))
  spread = table[values.astype(jnp.int32)]
  return jnp.where(rest > 0, spread, values)
