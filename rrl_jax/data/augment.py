"""Augmentation on the device, inside jit, each example by a key of its own."""

import math

import dm_pix as pix
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rrl_jax.errors import ConfigError


def to_float(images: ArrayLike, dtype=jnp.float32) -> jax.Array:
  """Images as floats in [0, 1]: uint8 is divided by 255.

  Args:
    images: uint8, or floats in [0, 1], any shape.
    dtype: Of the result.

  Returns:
    Images of the same shape.

  Raises:
    TypeError: Another dtype, whose range is not known.
  """
  images = jnp.asarray(images)
  if images.dtype == jnp.uint8:
    return images.astype(dtype) / jnp.asarray(255, dtype)
  if jnp.issubdtype(images.dtype, jnp.floating):
    return images.astype(dtype)
  raise TypeError(f'images are uint8 or floats, not {images.dtype}')


def augment(
  images: ArrayLike,
  key: jax.Array,
  *,
  crop: int = 0,
  flip: bool = False,
  resized_crop: int = 0,
  scale: tuple[float, float] = (0.08, 1.0),
  ratio: tuple[float, float] = (3 / 4, 4 / 3),
  example_ids: ArrayLike | None = None,
) -> jax.Array:
  """Crops and flips each image at random, in the order of the arguments.

  Example i is changed by ``fold_in(key, i)`` alone, or ``fold_in(key, id)``,
  so that the result does not depend on what else is in the batch or on how the
  batch lies on devices.

  Args:
    images: Floats in [0, 1], ``[B, H, W, C]``.
    key: A typed key.
    crop: Pixels of black border on each side, out of which an image of the old
      size is cut; 0 for none.
    flip: Whether to mirror left and right with probability 1/2.
    resized_crop: Height and width to which a box is resized (linear, with
      antialiasing) whose area and aspect ratio are drawn; 0 for none.
    scale: Least and greatest share of the area in the box, in (0, 1].
    ratio: Least and greatest width over height of the box.
    example_ids: Optional integers ``[B]`` that key the examples.

  Returns:
    Images ``[B, H, W, C]``, or ``[B, resized_crop, resized_crop, C]``, in
    their dtype and in [0, 1].

  Raises:
    ValueError: ``images`` is no batch of images.
    TypeError: ``images`` are no floats.
    ConfigError: A setting out of range.

  Example:
    >>> images = jnp.ones((2, 8, 8, 1))
    >>> augment(images, jax.random.key(0), crop=1, flip=True).shape
    (2, 8, 8, 1)

  References:
    Szegedy et al., `Going deeper with convolutions
    <https://arxiv.org/abs/1409.4842>`_, 2015, section 6 (the box).

  .. note::
    Where torchvision's RandomResizedCrop draws again if a box does not fit
    into the image, the box is cut to the image here; its corners need not fall
    on pixels.
  """
  images = jnp.asarray(images)
  if images.ndim != 4:
    raise ValueError(f'images have shape {images.shape}, not [B, H, W, C]')
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise TypeError(f'images are {images.dtype}, not floats; see to_float')
  for name, value in (('crop', crop), ('resized_crop', resized_crop)):
    if not isinstance(value, int) or value < 0:
      raise ConfigError(f'data.augment.{name}={value!r}: at least 0')
  if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
    raise ConfigError(f'data.augment.scale={scale}: 0 < least <= greatest <= 1')
  if len(ratio) != 2 or not 0 < ratio[0] <= ratio[1] < math.inf:
    raise ConfigError(f'data.augment.ratio={ratio}: 0 < least <= greatest')
  if not (crop or flip or resized_crop):
    return images
  if example_ids is None:
    example_ids = jnp.arange(len(images))

  def one(image, example_id):
    keys = jax.random.split(jax.random.fold_in(key, example_id), 3)
    if crop:
      border = ((crop, crop), (crop, crop), (0, 0))
      image = pix.random_crop(keys[0], jnp.pad(image, border), image.shape)
    if flip:
      image = pix.random_flip_left_right(keys[1], image)
    if resized_crop:
      image = _resized_crop(keys[2], image, resized_crop, scale, ratio)
    return image

  return jax.vmap(one)(images, jnp.asarray(example_ids))


def _resized_crop(
  key: jax.Array,
  image: jax.Array,
  size: int,
  scale: tuple[float, float],
  ratio: tuple[float, float],
) -> jax.Array:
  """A random box of one image ``[H, W, C]``, resized to ``[size, size, C]``."""
  height, width, channels = image.shape
  area_key, ratio_key, corner_key = jax.random.split(key, 3)
  area = (
    height
    * width
    * jax.random.uniform(area_key, minval=scale[0], maxval=scale[1])
  )
  aspect = jnp.exp(
    jax.random.uniform(
      ratio_key, minval=math.log(ratio[0]), maxval=math.log(ratio[1])
    )
  )
  box = jnp.minimum(
    jnp.stack([jnp.sqrt(area / aspect), jnp.sqrt(area * aspect)]),
    jnp.asarray([height, width], jnp.float32),
  )
  free = jnp.asarray([height, width], jnp.float32) - box
  corner = jax.random.uniform(corner_key, (2,)) * free
  zoom = size / box
  resized = jax.image.scale_and_translate(
    image.astype(jnp.float32),
    (size, size, channels),
    (0, 1),
    zoom,
    -corner * zoom,
    method='linear',
    antialias=True,
  )
  return jnp.clip(resized, 0, 1).astype(image.dtype)


def central_crop(images: ArrayLike, size: int) -> jax.Array:
  """The middle ``size`` x ``size`` pixels; sides that are shorter stay.

  What a network trained with ``resized_crop=size`` is evaluated on.

  Args:
    images: ``[B, H, W, C]``.
    size: Height and width of the result; 0 leaves images as they are.
  """
  images = jnp.asarray(images)
  if not size:
    return images
  top, left = ((side - size) // 2 for side in images.shape[1:3])
  top, left = max(top, 0), max(left, 0)
  return images[:, top : top + size, left : left + size]
