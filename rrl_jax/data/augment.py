"""Augmentation on the device, inside jit, each example by a key of its own."""

import math

import dm_pix as pix
import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.typing import ArrayLike

from rrl_jax.data import _blur, _color
from rrl_jax.errors import ConfigError

_MAX_JITTER = 1.25  # Factors are at least 1 - 0.8 * 1.25 = 0.


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
  jitter: float = 0.0,
  jitter_probability: float = 0.8,
  grayscale: float = 0.0,
  blur: float = 0.0,
  solarize: float = 0.0,
  strength: ArrayLike = 1.0,
  example_ids: ArrayLike | None = None,
) -> jax.Array:
  r"""Changes each image at random: crop, flip, colours, blur, solarization.

  They come in the order crop, resized crop, flip, jitter, grayscale, blur,
  solarize. Example i is changed by ``fold_in(key, i)`` alone, or
  ``fold_in(key, id)``, so that the result does not depend on what else is in
  the batch or on how the batch lies on devices. What is off costs nothing and
  with all off the images come back as they are.

  The colour jitter of strength s multiplies brightness, contrast and
  saturation by factors that are uniform in :math:`1 \mp 0.8 s` and turns the
  hue by an angle uniform in :math:`\mp 0.2 s` turns, the four in an order
  drawn for each example, each cut to [0, 1]. With L the luminance
  :math:`0.2989 R + 0.587 G + 0.114 B`,

  * brightness is :math:`a x`,
  * contrast is :math:`a x + (1 - a) \text{mean}(L(x))`,
  * saturation is :math:`a x + (1 - a) L(x)`,
  * hue adds the angle to H in HSV.

  Args:
    images: Floats in [0, 1], ``[B, H, W, C]``; C is 1 or 3 for jitter and
      grayscale.
    key: A typed key.
    crop: Pixels of black border on each side, out of which an image of the old
      size is cut; 0 for none.
    flip: Whether to mirror left and right with probability 1/2.
    resized_crop: Height and width to which a box is resized (linear, with
      antialiasing) whose area and aspect ratio are drawn; 0 for none.
    scale: Least and greatest share of the area in the box, in (0, 1].
    ratio: Least and greatest width over height of the box.
    jitter: Strength s of the colour jitter, in [0, 1.25], where factors stay
      at least 0 and angles within a quarter turn; 0 for none. Of images with
      one channel only brightness and contrast change.
    jitter_probability: Of the colour jitter.
    grayscale: Probability that all channels become L; nothing happens to
      images with one channel.
    blur: Probability of a Gaussian blur with a standard deviation uniform in
      [0.1, 2.0] pixels. The kernel is a tenth of the shorter side, odd and at
      least 3 pixels; at the edges the image is mirrored about its last pixel.
    solarize: Probability that pixels of at least 0.5 are inverted.
    strength: In [0, 1], may be traced: multiplies ``1 - scale[0]``, the jitter
      and every probability but the mirror's (Luo et al., 2023). The least
      share of the area is never above ``scale[1]``.
    example_ids: Optional integers ``[B]`` that key the examples.

  Returns:
    Images ``[B, H, W, C]``, or ``[B, resized_crop, resized_crop, C]``, in
    their dtype and in [0, 1]; colours and blur are computed in float32 at
    least.

  Raises:
    ValueError: ``images`` is no batch of images, or has no colours to change.
    TypeError: ``images`` are no floats.
    ConfigError: A setting out of range.

  Example:
    >>> images = jnp.ones((2, 8, 8, 1))
    >>> augment(images, jax.random.key(0), crop=1, flip=True).shape
    (2, 8, 8, 1)

  References:
    Szegedy et al., `Going deeper with convolutions
    <https://arxiv.org/abs/1409.4842>`_, 2015, section 6 (the box). Chen et
    al., `A simple framework for contrastive learning
    <https://arxiv.org/abs/2002.05709>`_, 2020, appendix A (jitter, grayscale,
    blur). Grill et al., `Bootstrap your own latent
    <https://arxiv.org/abs/2006.07733>`_, 2020, appendix B (solarize). Luo et
    al., `Rethinking the effect of data augmentation in adversarial contrastive
    learning <https://arxiv.org/abs/2303.01289>`_, 2023 (strength).

  .. note::
    Where torchvision's RandomResizedCrop draws again if a box does not fit
    into the image, the box is cut to the image here; its corners need not fall
    on pixels. The formulas of the colours are torchvision's: dm-pix and
    TensorFlow add to the brightness, take the contrast of each channel about
    its own mean, and scale the S of HSV.
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
  if not 0 <= jitter <= _MAX_JITTER:
    raise ConfigError(f'data.augment.jitter={jitter}: in [0, {_MAX_JITTER}]')
  for name, value in (
    ('jitter_probability', jitter_probability),
    ('grayscale', grayscale),
    ('blur', blur),
    ('solarize', solarize),
  ):
    if not 0 <= value <= 1:
      raise ConfigError(f'data.augment.{name}={value}: in [0, 1]')
  channels = images.shape[-1]
  if (jitter or grayscale) and channels not in (1, 3):
    raise ValueError(
      f'images have {channels} channels; jitter and grayscale take 1 or 3'
    )
  jitter = jitter if jitter_probability else 0
  grayscale = grayscale if channels == 3 else 0
  least = jnp.minimum(1 - (1 - scale[0]) * strength, scale[1])
  scale = least, scale[1]
  if not any((crop, flip, resized_crop, jitter, grayscale, blur, solarize)):
    return images
  if example_ids is None:
    example_ids = jnp.arange(len(images))

  def one(image, key, example_id):
    keys = jax.random.split(jax.random.fold_in(key, example_id), 7)
    if crop:
      border = ((crop, crop), (crop, crop), (0, 0))
      image = pix.random_crop(keys[0], jnp.pad(image, border), image.shape)
    if resized_crop:
      image = _resized_crop(keys[2], image, resized_crop, scale, ratio)
    if flip:
      image = pix.random_flip_left_right(keys[1], image)
    image = image.astype(jnp.promote_types(images.dtype, jnp.float32))
    if jitter:
      image = _color.random_jitter(
        keys[3], image, jitter * strength, jitter_probability * strength
      )
    if grayscale:
      image = _color.random_grayscale(keys[4], image, grayscale * strength)
    if blur:
      image = _blur.random_blur(keys[5], image, blur * strength)
    if solarize:
      inverted = jax.random.bernoulli(keys[6], solarize * strength)
      image = jnp.where(inverted, pix.solarize(image, 0.5), image)
    return image.astype(images.dtype)

  fun = jax.vmap(one, in_axes=(0, None, 0))
  given = jax.typeof(images).sharding
  if AxisType.Explicit in given.mesh.axis_types:  # Keys are not sharded.
    fun = jax.sharding.auto_axes(fun, out_sharding=given)
  return fun(images, key, jnp.asarray(example_ids))


def fading(
  step: ArrayLike, total_steps: int, *, stages: int, final: float
) -> jax.Array:
  """Strength of an augmentation that gets weaker in equal stages.

  Args:
    step: From 0 on; may be traced.
    total_steps: Of the run.
    stages: How many, at least 1; the first has strength 1.
    final: What a stage after the last would have, in [0, 1].

  Returns:
    ``strength`` for `augment`.

  Example:
    >>> [float(fading(s, 100, stages=4, final=0.0)) for s in (0, 24, 25, 99)]
    [1.0, 1.0, 0.75, 0.25]

  References:
    Luo et al., `Rethinking the effect of data augmentation in adversarial
    contrastive learning <https://arxiv.org/abs/2303.01289>`_, 2023 (20 stages,
    final 0).
  """
  # In whole numbers, since float32 comes late to some stages.
  whole, rest = step // total_steps, step % total_steps
  stage = whole * stages + rest * stages // total_steps
  return 1 - (1 - final) * stage / stages


def views(images: ArrayLike, key: jax.Array, num_views: int, **kw) -> jax.Array:
  """Several independent augmentations of each image.

  View v of all images is ``augment(images, fold_in(key, v), **kw)``: view v of
  example i has the key ``fold_in(fold_in(key, v), i)``, and more views do not
  change the first ones.

  Args:
    images: Floats in [0, 1], ``[B, H, W, C]``.
    key: A typed key.
    num_views: V, at least 1.
    **kw: Settings of `augment`, ``example_ids`` among them.

  Returns:
    ``[B, V, H, W, C]`` with the height and width of `augment`.

  Raises:
    ConfigError: ``num_views`` below 1, and what `augment` raises.

  Example:
    >>> images = jnp.ones((2, 8, 8, 1))
    >>> views(images, jax.random.key(0), 3, flip=True).shape
    (2, 3, 8, 8, 1)
  """
  if not isinstance(num_views, int) or num_views < 1:
    raise ConfigError(f'data.augment.views={num_views!r}: at least 1')
  view = lambda v: augment(images, jax.random.fold_in(key, v), **kw)
  return jax.vmap(view, out_axes=1)(jnp.arange(num_views))


def _resized_crop(
  key: jax.Array,
  image: jax.Array,
  size: int,
  scale: tuple[ArrayLike, float],
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
