"""Snow: a layer of blurred flakes over a whitened image."""

import jax
import jax.numpy as jnp

from rrl_jax.corruptions import _lines, _motion


def snow(
  image: jax.Array,
  key: jax.Array,
  mean: float,
  sigma: float,
  factor: float,
  threshold: float,
  radius: int,
  blur_sigma: float,
  share: float,
):
  """Adds a layer of snow and the same layer turned by half a turn.

  The layer is Gaussian noise, enlarged and cut to the middle, whose values
  below the threshold are 0, blurred by motion along an angle uniform in -135
  to -45 degrees. It has bytes before and after. The image is mixed with its
  own brighter luminance before.

  Args:
    image: ``[C, H, W]``.
    key: A typed key.
    mean: Of the noise.
    sigma: Standard deviation of the noise.
    factor: Of the enlargement.
    threshold: Of a flake.
    radius: Of the motion blur.
    blur_sigma: Standard deviation of the motion blur.
    share: Of the image in the mixture.
  """
  noise_key, angle_key = jax.random.split(key)
  (down, _), (across, _) = (_lines.zoom(factor, n) for n in image.shape[1:])
  # Only the middle of the noise is seen.
  noise = jax.random.normal(noise_key, (down.shape[1], across.shape[1]))
  layer = _lines.apply(down, across, mean + sigma * noise)
  layer = jnp.where(layer < threshold, 0, jnp.minimum(layer, 1))
  layer = jnp.floor(255 * layer) / 255
  angle = _motion.draw_angle(angle_key, -135, -45)
  layer = _motion.blur(layer[None], angle, radius, blur_sigma)
  layer = jnp.round(255 * layer) / 255
  whiter = jnp.maximum(image, 1.5 * luminance(image) + 0.5)
  image = share * image + (1 - share) * whiter
  return image + layer + layer[:, ::-1, ::-1]


def luminance(image: jax.Array) -> jax.Array:
  """``0.299 R + 0.587 G + 0.114 B``, ``[1, H, W]``; one plane is its own."""
  if len(image) == 1:
    return image
  red, green, blue = image
  return (0.299 * red + 0.587 * green + 0.114 * blue)[None]
