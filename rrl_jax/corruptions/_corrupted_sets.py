"""A set of images under many corruptions, made once for many models."""

from collections.abc import Iterator, Sequence
import functools
import hashlib
import os
from pathlib import Path

import jax
from jax.typing import ArrayLike
import numpy as np

from rrl_jax.corruptions._corrupt import corrupt
from rrl_jax.corruptions._severity import NAMES
from rrl_jax.errors import DataError

_CHUNK = 500  # Images on the device at a time.
_SIDE = 16  # Pixels that `corrupt` asks for.


def corrupted_sets(
  images: np.ndarray,
  *,
  names: Sequence[str] = NAMES,
  severities: Sequence[int] = (1, 2, 3, 4, 5),
  table: str = 'cifar10_c',
  seed: int = 0,
  example_ids: ArrayLike | None = None,
  cache: str | os.PathLike = '',
) -> Iterator[tuple[str, int, np.ndarray]]:
  """Yields the images under each corruption at each severity, as bytes.

  What comes out follows from the arguments alone, so that all models that are
  compared meet the same corrupted images; with ``cache`` they are made once.
  One set is in memory at a time.

  Args:
    images: uint8, or floats in [0, 1], ``[N, H, W, C]``, C 1 or 3. Those with
      a side below 16 are enlarged by repeating pixels, as often as it takes,
      and averaged back: what is done to them is milder.
    names: Corruptions.
    severities: 1 to 5 each.
    table: Of `corrupt`.
    seed: Of the key.
    example_ids: Integers ``[N]`` that key the examples; their places if None.
      An example's corruption depends on its id, not on the others.
    cache: A folder, made if need be, that keeps a file a set; '' keeps none.
      File names tell images, arguments and the code that made them apart.

  Yields:
    ``(name, severity, corrupted)``: uint8 of the shape of ``images``, values
    cut to bytes as in `corrupt_uint8`; severities go round within a name.

  Raises:
    ConfigError: An unknown name, severity or table.
    DataError: The cache cannot be written.
    ValueError: ``images`` or ``example_ids`` have another shape.

  Example:
    >>> images = np.full((2, 16, 16, 1), 100, np.uint8)
    >>> for name, severity, x in corrupted_sets(
    ...     images, names=('brightness',), severities=(1, 3)):
    ...   print(name, severity, x[0, 0, 0, 0])
    brightness 1 112
    brightness 3 138
  """
  ids = np.arange(len(images)) if example_ids is None else example_ids
  ids = np.asarray(ids)
  if ids.shape != (len(images),):
    raise ValueError(f'example_ids have shape {ids.shape}, not {len(images)}')
  kept = None
  if cache:
    kept = _digest(images, ids)
  for name in names:
    for severity in severities:
      make = functools.partial(
        _corrupted, images, ids, seed, name=name, severity=severity, table=table
      )
      if kept is None:
        yield name, severity, make()
        continue
      stem = f'{name}-{severity}-{table}-{seed}-{kept}.npy'
      yield name, severity, _remembered(Path(cache) / stem, images.shape, make)


def enlargement(shape: Sequence[int]) -> int:
  """How often pixels are repeated before images are corrupted.

  Args:
    shape: Of the images, ``[N, H, W, C]``.

  Returns:
    A factor for height and width, 1 from 16 pixels a side.
  """
  return -(-_SIDE // min(shape[1:3]))


def _corrupted(images, ids, seed, *, name, severity, table):
  """One set, chunk by chunk, each of one shape."""
  corrupted = np.empty(images.shape, np.uint8)
  size = min(_CHUNK, len(images))
  factor = enlargement(images.shape)
  _, height, width, channels = images.shape
  for start in range(0, len(images), _CHUNK):
    rows = np.arange(start, start + size) % len(images)  # One program.
    chunk = images[rows]
    if chunk.dtype == np.uint8:
      chunk = chunk.astype(np.float32) / 255
    chunk = chunk.astype(np.float32).repeat(factor, 1).repeat(factor, 2)
    floats = corrupt(
      chunk,
      jax.random.key(seed),
      name=name,
      severity=severity,
      table=table,
      example_ids=ids[rows],
    )
    floats = np.asarray(floats)
    if factor > 1:
      tiles = size, height, factor, width, factor, channels
      floats = floats.reshape(tiles).mean(axis=(2, 4))
    # What is a whole number but for rounding stays that number.
    cut = np.floor(floats * np.float32(255) + np.float32(1e-3))
    corrupted[start : start + size] = cut[: len(images) - start]
  return corrupted


def _remembered(path, shape, make):
  """What a file holds, or what is made and then kept there."""
  try:
    found = np.load(path, allow_pickle=False)
    if found.shape == shape and found.dtype == np.uint8:
      return found
  except (OSError, ValueError, EOFError):
    pass  # Not there, or damaged: made anew.
  made = make()
  if jax.process_index() == 0:
    unfinished = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      with unfinished.open('wb') as file:
        np.save(file, made, allow_pickle=False)
      unfinished.replace(path)
    except OSError as error:
      raise DataError(
        f'{path.parent} cannot keep corrupted images: {error.strerror or error}'
      ) from error
  return made


def _digest(images, ids):
  """Of images, ids and the code of this folder."""
  digest = hashlib.sha256(_code())
  digest.update(f'{images.shape} {images.dtype}'.encode())
  digest.update(np.ascontiguousarray(ids, np.int64).tobytes())
  digest.update(np.ascontiguousarray(images).tobytes())
  return digest.hexdigest()[:16]


@functools.cache
def _code():
  """Digest of the files that make corruptions."""
  digest = hashlib.sha256()
  for file in sorted(Path(__file__).parent.glob('*.py')):
    digest.update(file.read_bytes())
  return digest.digest()
