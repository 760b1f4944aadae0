"""Changes of brightness, contrast and saturation of an image ``[C, H, W]``."""

import jax
import jax.numpy as jnp


def brightness(image: jax.Array, key: jax.Array, amount: float) -> jax.Array:
  """Adds to V of HSV, at most up to 1.

  H and S stay, so that all colours of a pixel grow by the same factor; a black
  pixel becomes gray.
  """
  del key
  value = jnp.max(image, axis=0, keepdims=True)
  brighter = jnp.minimum(value + amount, 1)
  black = value == 0
  ratio = jnp.where(black, 0, brighter / jnp.where(black, 1, value))
  return ratio * image + jnp.where(black, brighter, 0)


def contrast(image: jax.Array, key: jax.Array, factor: float) -> jax.Array:
  """Moves values towards the mean of their channel."""
  del key
  means = jnp.mean(image, axis=(1, 2), keepdims=True)
  return means + factor * (image - means)


def saturate(
  image: jax.Array, key: jax.Array, factor: float, amount: float
) -> jax.Array:
  """Multiplies S of HSV and adds to it, cut to [0, 1].

  With V and H unchanged, the distance of each colour below V grows as S does.
  A gray pixel has the hue of red. An image of one channel stays.
  """
  del key
  if len(image) == 1:
    return image
  value = jnp.max(image, axis=0, keepdims=True)
  chroma = value - jnp.min(image, axis=0, keepdims=True)
  gray, black = chroma == 0, value == 0
  saturation = chroma / jnp.where(black, 1, value)
  new = jnp.clip(factor * saturation + amount, 0, 1)
  ratio = new / jnp.where(gray, 1, saturation)
  saturated = value - (value - image) * ratio
  reddish = value * (1 - new)
  return jnp.where(gray, jnp.concatenate([value, reddish, reddish]), saturated)
