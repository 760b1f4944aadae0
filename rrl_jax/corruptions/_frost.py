"""Frost: a mixture with a piece of a texture."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

# Mean and standard deviation of the red, green and blue of the five pictures
# that the authors' script draws from, in the order of their files; the numbers
# are those of imagecorruptions-imaug 1.1.5, the pictures are not used.
_COLOURS = (
  ((0.305, 0.585, 0.650), (0.106, 0.065, 0.060)),
  ((0.787, 0.805, 0.841), (0.084, 0.087, 0.089)),
  ((0.787, 0.805, 0.841), (0.084, 0.087, 0.089)),
  ((0.540, 0.599, 0.648), (0.112, 0.112, 0.117)),
  ((0.441, 0.484, 0.528), (0.174, 0.170, 0.163)),
)
_SLOPE = -1.8  # Of the logarithm of their power over that of the frequency.


def frost(
  image: jax.Array,
  key: jax.Array,
  share: float,
  weight: float,
  scale: float,
  *,
  textures: jax.Array | None = None,
):
  """``share`` of the image plus ``weight`` of a random piece of a texture.

  A texture is continued periodically where it is smaller than the image.

  Args:
    image: ``[C, H, W]``.
    key: A typed key.
    share: Of the image.
    weight: Of the texture.
    scale: At which the pictures would be taken; the generated textures have
      512 pixels a side at 1 and 128 below.
    textures: Bytes ``[T, h, w, C]``; None for `generated`.
  """
  if textures is None:
    textures = generated(512 if scale == 1 else 128, len(image))
  textures = jnp.moveaxis(jnp.asarray(textures), -1, 1)
  number, _, tall, wide = textures.shape
  _, height, width = image.shape
  keys = jax.random.split(key, 3)
  which = jax.random.randint(keys[0], (), 0, number)
  top = jax.random.randint(keys[1], (), 0, max(tall - height, 1))
  left = jax.random.randint(keys[2], (), 0, max(wide - width, 1))
  more = [max(h - t, 0) for h, t in ((height, tall), (width, wide))]
  textures = jnp.pad(
    textures, [(0, 0), (0, 0), *((0, m) for m in more)], mode='wrap'
  )
  piece = jax.lax.dynamic_slice(
    textures, (which, 0, top, left), (1, *image.shape)
  )[0]
  return share * image + weight * piece.astype(image.dtype) / 255


@functools.cache
def generated(size: int, channels: int) -> np.ndarray:
  """Textures as bytes, ``[5, size, size, channels]``, always the same.

  Gaussian noise with a power spectrum that falls as the frequency to the power
  of -1.8, in the colours of the five pictures: their brightness, contrast and
  coarseness, not their crystals.
  """
  rng = np.random.default_rng(0)
  across = np.fft.fftfreq(size) * size
  frequency = np.hypot(across[:, None], across)
  amplitude = np.where(frequency, np.maximum(frequency, 1) ** (_SLOPE / 2), 0)
  found = []
  for mean, deviation in np.asarray(_COLOURS):
    noise = np.fft.fft2(rng.normal(size=(size, size)))
    field = np.fft.ifft2(noise * amplitude).real
    texture = mean + deviation * (field / field.std())[..., None]
    if channels == 1:
      texture = texture @ np.array([[0.2989], [0.587], [0.114]])
    found.append(np.round(255 * np.clip(texture, 0, 1)).astype(np.uint8))
  return np.stack(found)
