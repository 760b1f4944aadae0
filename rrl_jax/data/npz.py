"""One NumPy ``.npz`` file of images and labels."""

import math
import os
from pathlib import Path
import zipfile
import zlib

import numpy as np

from rrl_jax.data import source
from rrl_jax.errors import ConfigError, DataError


def load(*, path: str, num_classes: int = 0, seed: int = 0) -> source.Splits:
  """Reads ``images, labels`` and, if given, ``test_images, test_labels``.

  Without the last two a fifth of each class is held out. Images are uint8 or
  floats in [0, 1], ``[N, H, W]`` or ``[N, H, W, C]``; labels integers ``[N]``.

  Args:
    path: The file.
    num_classes: Number of classes, 0 for what the training labels say.
    seed: Seeds what is held out.

  Returns:
    Both splits, in memory.

  Raises:
    ConfigError: ``path`` is no text.
    DataError: The file is not what it should be.
  """
  arrays = read(path)
  for key in ('images', 'labels'):
    if key not in arrays:
      raise DataError(
        f'{path} has no array {key!r}; it holds {", ".join(arrays) or "none"}'
      )
  if ('test_images' in arrays) != ('test_labels' in arrays):
    there, missing = sorted(
      ('test_images', 'test_labels'), key=lambda key: key not in arrays
    )
    raise DataError(f'{path} has {there!r} but no {missing!r}')

  def split(prefix: str) -> tuple[np.ndarray, np.ndarray]:
    say = f'{path}: {prefix}'
    images = source.check_images(arrays[f'{prefix}images'], f'{say}images')
    labels = source.check_labels(arrays[f'{prefix}labels'], f'{say}labels')
    if len(images) != len(labels):
      raise DataError(
        f'{path}: {len(images)} {prefix}images but {len(labels)} {prefix}labels'
      )
    return images, labels

  train = split('')
  if 'test_images' in arrays:
    test = split('test_')
    where = f'{path}: labels', f'{path}: test_labels'
  else:
    images, labels = train
    kept, held_out = source.holdout(labels, seed=seed, where=str(path))
    train = images[kept], labels[kept]
    test = images[held_out], labels[held_out]
    where = f'{path}: labels', f'{path}: labels'
  return source.make_splits(train, test, where=where, num_classes=num_classes)


def read(path: str) -> dict[str, np.ndarray]:
  """The arrays of an ``.npz`` file, none of them pickled.

  What an array announces is compared with the size of its member before
  memory is taken.

  Args:
    path: The file.

  Returns:
    Arrays by name.

  Raises:
    ConfigError: ``path`` is no text.
    DataError: No such file, no zip file, a truncated or lying member, an array
      of Python objects.
  """
  if not isinstance(path, str | os.PathLike) or not str(path):
    raise ConfigError(f'data.kw.path={path!r}: the path of a .npz file')
  file = Path(path).expanduser()
  if not file.is_file():
    cause = 'is a folder' if file.is_dir() else 'does not exist'
    raise DataError(f'{file} {cause}; expected a .npz file')
  name = ''
  try:
    with zipfile.ZipFile(file) as archive:
      for info in archive.infolist():
        name = info.filename
        if name.endswith('.npy'):
          with archive.open(info) as member:
            _check_member(f'{file}: {name[:-4]}', info, member)
    name = ''
    with np.load(file, allow_pickle=False) as arrays:
      loaded = {}
      for name in arrays.files:  # noqa: B007 - told in the errors below.
        loaded[name] = arrays[name]
      return loaded
  except DataError:
    raise
  except zipfile.BadZipFile as error:
    if not name:
      raise DataError(
        f'{file} is no .npz file (not a zip archive, or a truncated one)'
      ) from error
    raise DataError(f'{file}: {name} is damaged: {error}') from error
  except (
    OSError, EOFError, ValueError, zlib.error, NotImplementedError,
    RuntimeError, MemoryError, SyntaxError, KeyError, TypeError,
  ) as error:  # fmt: skip
    what = f'{file}: {name}' if name else str(file)
    raise DataError(
      f'{what} cannot be read: {" ".join(str(error).split())}'
    ) from error


def _check_member(say: str, info: zipfile.ZipInfo, member) -> None:
  version = np.lib.format.read_magic(member)
  if version == (1, 0):
    header = np.lib.format.read_array_header_1_0(member)
  else:
    header = np.lib.format.read_array_header_2_0(member)
  shape, _, dtype = header
  if dtype.hasobject:
    raise DataError(f'{say} holds Python objects (dtype {dtype}), not numbers')
  expected = math.prod(shape) * dtype.itemsize
  held = info.file_size - member.tell()
  if held != expected:
    raise DataError(
      f'{say} announces shape {shape}, {expected} bytes of {dtype},'
      f' but holds {held}'
    )
