"""One corruption of a batch, by its name and severity."""

import functools
import importlib
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.typing import ArrayLike
import numpy as np

from rrl_jax.corruptions import _severity
from rrl_jax.errors import ConfigError

_CHUNK = 500  # Images that `corrupt_uint8` puts on the device at a time.

# File and function of each: ``(image [C, H, W], key, *constants) -> image``.
_FUNCTIONS = {
  'gaussian_noise': ('_noise', 'gaussian'),
  'shot_noise': ('_noise', 'shot'),
  'impulse_noise': ('_noise', 'impulse'),
  'speckle_noise': ('_noise', 'speckle'),
  'defocus_blur': ('_blur', 'defocus'),
  'gaussian_blur': ('_blur', 'gaussian'),
  'glass_blur': ('_glass', 'glass'),
  'motion_blur': ('_motion', 'motion'),
  'zoom_blur': ('_blur', 'zoom'),
  'snow': ('_snow', 'snow'),
  'frost': ('_frost', 'frost'),
  'fog': ('_fog', 'fog'),
  'spatter': ('_spatter', 'spatter'),
  'brightness': ('_color', 'brightness'),
  'contrast': ('_color', 'contrast'),
  'saturate': ('_color', 'saturate'),
  'elastic_transform': ('_elastic', 'elastic'),
  'pixelate': ('_pixelate', 'pixelate'),
  'jpeg_compression': ('_jpeg', 'jpeg'),
}


def corrupt(
  images: ArrayLike,
  key: jax.Array,
  *,
  name: str,
  severity: int,
  table: str = 'cifar10_c',
  example_ids: ArrayLike | None = None,
  frost_textures: ArrayLike | None = None,
) -> jax.Array:
  """Corrupts each image as in CIFAR-10-C or ImageNet-C, on the device.

  Example i is corrupted with ``fold_in(key, i)`` alone, or
  ``fold_in(key, id)``: the result does not depend on what else is in the batch
  or on how the batch lies on devices. Every corruption is JAX throughout,
  JPEG, glass and spatter among them, and works under ``jit`` and ``vmap``.

  Args:
    images: Floats in [0, 1], ``[B, H, W, C]`` with C 1 or 3 and sides of at
      least 16.
    key: A typed key; what is not random ignores it.
    name: One of `NAMES`, the 15 of the benchmark, or of `EXTRA_NAMES`, the 4
      for validation.
    severity: 1 to 5.
    table: Whose constants: ``'cifar10_c'``, meant for 32 pixels a side, or
      ``'imagenet_c'``, meant for 224. Either is taken at any size, in pixels;
      those of ``elastic_transform`` scale with the shorter side.
    example_ids: Optional integers ``[B]`` that key the examples.
    frost_textures: Optional bytes ``[T, h, w, C]``, at the scale of the images,
      in place of the generated ones of ``frost``.

  Returns:
    Images of the same shape and dtype in [0, 1], computed in float32.

  Raises:
    ConfigError: An unknown name, severity or table.
    ValueError: ``images`` have another shape.
    TypeError: ``images`` are no floats.

  Example:
    >>> images = jnp.full((2, 32, 32, 3), 0.5)
    >>> fog = corrupt(images, jax.random.key(0), name='fog', severity=3)
    >>> fog.shape
    (2, 32, 32, 3)

  References:
    Hendrycks and Dietterich, `Benchmarking neural network robustness to common
    corruptions and perturbations <https://arxiv.org/abs/1903.12261>`_, 2019,
    section 3 and their code, https://github.com/hendrycks/robustness.

  .. note::
    The published files were drawn without a seed and cannot be made again:
    numbers to be compared with published ones need these files. Frost takes
    textures that are generated, not the photographs of the original, unless
    they are given. Motion blur (and snow's) follows the package
    imagecorruptions in place of ImageMagick. The original writes bytes:
    see `corrupt_uint8`.
  """
  images = jnp.asarray(images)
  constants = _constants(name, severity, table)
  if images.ndim != 4 or images.shape[-1] not in (1, 3):
    raise ValueError(
      f'images have shape {images.shape}, not [B, H, W, C] with C 1 or 3'
    )
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise TypeError(
      f'images are {images.dtype}, not floats in [0, 1]; see corrupt_uint8'
    )
  if min(images.shape[1:3]) < 16:
    raise ValueError(f'images have shape {images.shape}: sides of at least 16')
  _check_range(images)
  if example_ids is None:
    example_ids = jnp.arange(len(images))
  example_ids = jnp.asarray(example_ids)
  if example_ids.shape != images.shape[:1]:
    raise ValueError(
      f'example_ids have shape {example_ids.shape}, not {images.shape[:1]}'
    )
  if frost_textures is not None:
    if name != 'frost':
      raise ConfigError(f'frost_textures with name={name!r}: only of frost')
    frost_textures = jnp.asarray(frost_textures)
    if frost_textures.ndim != 4 or frost_textures.shape[-1] != images.shape[-1]:
      raise ValueError(
        f'frost_textures have shape {frost_textures.shape}, not'
        f' [T, h, w, {images.shape[-1]}]'
      )
    if frost_textures.dtype != jnp.uint8:
      raise TypeError(f'frost_textures are {frost_textures.dtype}, not uint8')
  return _run(
    images, key, example_ids, frost_textures, name=name, constants=constants
  )


def corrupt_uint8(
  images: np.ndarray,
  name: str,
  *,
  severity: int,
  seed: int = 0,
  table: str = 'cifar10_c',
) -> np.ndarray:
  """Corrupts bytes on the host, in chunks, and truncates to bytes.

  The same as `corrupt` of ``images / 255`` with ``jax.random.key(seed)``;
  values are cut, not rounded, to bytes, as the authors' script does.

  Args:
    images: uint8, ``[B, H, W, C]`` or ``[B, H, W]``.
    name: Of `corrupt`.
    severity: 1 to 5.
    seed: Of the key.
    table: Of `corrupt`.

  Returns:
    uint8 of the same shape.

  Raises:
    ConfigError: An unknown name, severity or table.
    ValueError: ``images`` have another shape.
    TypeError: ``images`` are no bytes.

  Example:
    >>> images = np.full((2, 28, 28), 100, np.uint8)
    >>> int(corrupt_uint8(images, 'brightness', severity=3)[0, 0, 0])
    138
  """
  images = np.asarray(images)
  if images.dtype != np.uint8:
    raise TypeError(f'images are {images.dtype}, not uint8; see corrupt')
  if images.ndim == 3:
    grown = corrupt_uint8(
      images[..., None], name, severity=severity, seed=seed, table=table
    )
    return grown[..., 0]
  _constants(name, severity, table)
  corrupted = np.empty_like(images)
  for start in range(0, len(images), _CHUNK):
    chunk = images[start : start + _CHUNK]
    missing = min(_CHUNK, len(images)) - len(chunk)  # One shape, one program.
    padded = np.concatenate([chunk, images[:missing]])
    floats = corrupt(
      padded.astype(np.float32) / 255,
      jax.random.key(seed),
      name=name,
      severity=severity,
      table=table,
      example_ids=np.arange(start, start + len(padded)),
    )
    # What is a whole number but for rounding stays that number.
    cut = np.floor(np.asarray(floats) * np.float32(255) + np.float32(1e-3))
    corrupted[start : start + len(chunk)] = cut[: len(chunk)]
  return corrupted


@functools.partial(jax.jit, static_argnames=('name', 'constants'))
def _run(images, key, example_ids, frost_textures, *, name, constants):
  """`corrupt` after its checks."""
  file, function = _FUNCTIONS[name]
  file = importlib.import_module(f'rrl_jax.corruptions.{file}')
  function = getattr(file, function)
  kw = {} if frost_textures is None else {'textures': frost_textures}

  def one(image, key, example_id, kw):
    key = jax.random.fold_in(key, example_id)
    # Planes: on CPU, arithmetic on channels that come last is not vectorised.
    planes = jnp.moveaxis(image.astype(jnp.float32), -1, 0)
    planes = function(jnp.clip(planes, 0, 1), key, *constants, **kw)
    planes = jnp.clip(planes, 0, 1).astype(image.dtype)
    return jnp.moveaxis(planes, 0, -1)

  fun = jax.vmap(one, in_axes=(0, None, 0, None))
  given = jax.typeof(images).sharding
  if AxisType.Explicit in given.mesh.axis_types:  # Keys are not sharded.
    fun = jax.sharding.auto_axes(fun, out_sharding=given)
  return fun(images, key, example_ids, kw)


def _constants(name: Any, severity: Any, table: Any) -> tuple[float, ...]:
  """Constants of a severity, or one line that says what is unknown."""
  if table not in _severity.TABLES:
    known = ', '.join(_severity.TABLES)
    raise ConfigError(f'corruption table={table!r}: one of {known}')
  if name not in _FUNCTIONS:
    known = ', '.join(_severity.NAMES + _severity.EXTRA_NAMES)
    raise ConfigError(f'corruption name={name!r}: one of {known}')
  whole = isinstance(severity, int | np.integer)
  if isinstance(severity, bool) or not whole or not 1 <= severity <= 5:
    raise ConfigError(f'corruption severity={severity!r}: 1, 2, 3, 4 or 5')
  constants = _severity.TABLES[table][name][severity - 1]
  return constants if isinstance(constants, tuple) else (constants,)


def _check_range(images):
  """Raises ValueError for floats outside [0, 1]; traced ones pass."""
  if isinstance(images, jax.core.Tracer) or not images.size:
    return
  low, high = float(jnp.min(images)), float(jnp.max(images))
  slack = 4 * float(jnp.finfo(images.dtype).eps)
  if not (low >= -slack and high <= 1 + slack):  # NaN fails as well.
    raise ValueError(
      f'images hold values from {low:.9g} to {high:.9g}; floats must lie in'
      ' [0, 1]'
    )
