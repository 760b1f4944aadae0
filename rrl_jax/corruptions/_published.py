"""The published files of CIFAR-10-C and CIFAR-100-C."""

import os
from pathlib import Path

import numpy as np

from rrl_jax.corruptions._severity import EXTRA_NAMES, NAMES
from rrl_jax.errors import ConfigError, DataError

_SEVERITIES = 5


def read_published(
  path: str | os.PathLike, name: str, *, severity: int
) -> tuple[np.ndarray, np.ndarray]:
  """Images and labels of one corruption at one severity, as published.

  The folder holds ``labels.npy`` and a file such as ``fog.npy`` for each
  corruption, the whole test set at severity 1, then at severity 2, and so on.
  Of the images only what is asked for is read.

  Args:
    path: The folder, for one ``CIFAR-10-C``.
    name: One of `NAMES` or `EXTRA_NAMES`.
    severity: 1 to 5.

  Returns:
    images: uint8 ``[N, H, W, C]``.
    labels: int32 ``[N]``.

  Raises:
    ConfigError: An unknown name or severity.
    DataError: A file is missing or not what it should be.

  References:
    Hendrycks and Dietterich, CIFAR-10-C,
    https://zenodo.org/records/2535967, CIFAR-100-C,
    https://zenodo.org/records/3555552, 2019.
  """
  if name not in NAMES + EXTRA_NAMES:
    known = ', '.join(NAMES + EXTRA_NAMES)
    raise ConfigError(f'corruption name={name!r}: one of {known}')
  if isinstance(severity, bool) or severity not in range(1, _SEVERITIES + 1):
    raise ConfigError(f'corruption severity={severity!r}: 1, 2, 3, 4 or 5')
  images = _load(Path(path) / f'{name}.npy')
  labels = _load(Path(path) / 'labels.npy')
  if images.ndim != 4 or images.dtype != np.uint8:
    raise DataError(
      f'{path}: {name}.npy has shape {images.shape} of {images.dtype},'
      ' not [5 N, H, W, C] of uint8'
    )
  if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
    raise DataError(
      f'{path}: labels.npy has shape {labels.shape} of {labels.dtype},'
      ' not [5 N] of integers'
    )
  if len(images) != len(labels) or len(images) % _SEVERITIES:
    raise DataError(
      f'{path}: {len(images)} images in {name}.npy and {len(labels)} labels;'
      f' as many of both and a multiple of {_SEVERITIES}'
    )
  count = len(images) // _SEVERITIES
  rows = slice((severity - 1) * count, severity * count)
  return np.array(images[rows]), np.array(labels[rows], np.int32)


def _load(file: Path) -> np.ndarray:
  """Maps an array into memory, never a pickled one."""
  try:
    return np.load(file, mmap_mode='r', allow_pickle=False)
  except FileNotFoundError as error:
    raise DataError(f'{file} does not exist') from error
  except (OSError, ValueError, EOFError, SyntaxError) as error:
    cause = ' '.join(str(error).split())
    raise DataError(f'{file} cannot be read: {cause}') from error
