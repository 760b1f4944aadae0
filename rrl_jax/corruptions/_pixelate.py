"""Fewer, larger pixels."""

import jax
import jax.numpy as jnp
import numpy as np

from rrl_jax.corruptions import _lines


def pixelate(image: jax.Array, key: jax.Array, scale: float) -> jax.Array:
  """Box filter of ``[C, H, W]`` to ``int(scale * side)`` pixels and back.

  Values are rounded to bytes after each direction, as Pillow does.
  """
  del key
  sides = image.shape[1:]
  small = tuple(max(int(scale * side), 1) for side in sides)
  image = jnp.round(255 * image)
  for old, new in ((sides, small), (small, sides)):
    down, across = (_lines.box(*pair) for pair in zip(old, new, strict=True))
    image = _round(_lines.apply(np.eye(old[0], dtype='float32'), across, image))
    image = _round(_lines.apply(down, np.eye(new[1], dtype='float32'), image))
  return image / 255


def _round(x: jax.Array) -> jax.Array:
  """To whole numbers, halves up in spite of float32."""
  return jnp.floor(x + (0.5 + 1e-3))
