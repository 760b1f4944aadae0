"""A folder of IDX files: MNIST, Fashion-MNIST, EMNIST as published."""

from collections.abc import Sequence
import gzip
import math
import os
from pathlib import Path
import struct
import zlib

import numpy as np

from rrl_jax.data import source
from rrl_jax.errors import ConfigError, DataError

_DTYPES = {
  0x08: '>u1', 0x09: '>i1', 0x0B: '>i2', 0x0C: '>i4', 0x0D: '>f4', 0x0E: '>f8'
}  # fmt: skip
_TEST = ('t10k', 'test')
_CHUNK = 2**20


def load(
  *,
  path: str,
  subset: str = '',
  num_classes: int = 0,
  class_names: Sequence[str] = (),
  seed: int = 0,
) -> source.Splits:
  """Reads ``train-images-idx3-ubyte`` and its three companions, gzipped or not.

  A name may begin with that of a subset, as EMNIST's do
  (``emnist-letters-train-images-idx3-ubyte.gz``), call the test split ``t10k``
  or ``test``, and have a dot for the last dash but one (``images.idx3-ubyte``).

  EMNIST is published with height and width exchanged; they are put right here,
  and its classes are named by the mapping file beside it, where there is one
  ('letters', whose labels run from 1, then has classes from 0).

  Args:
    path: The folder.
    subset: What the names begin with, if the folder holds several sets.
    num_classes: Number of classes, 0 for what the training labels say.
    class_names: Name of each class; their numbers if not given.
    seed: Unused; the test split is given.

  Returns:
    Both splits, in memory.

  Raises:
    ConfigError: A subset that the folder does not have.
    DataError: A file is missing or is not what it says it is.

  References:
    LeCun et al., `The MNIST database <http://yann.lecun.com/exdb/mnist/>`_;
    Cohen et al., `EMNIST <https://arxiv.org/abs/1702.05373>`_, 2017.
  """
  del seed
  folder = existing_folder(path)
  prefix = _prefix(folder, subset)
  files = {
    (split, kind): _find(folder, prefix, split, kind)
    for split in ('train', 'test')
    for kind in ('images', 'labels')
  }
  images, labels = {}, {}
  for split in ('train', 'test'):
    # Labels first: they are small, and tell how many images there must be.
    labels_file, file = files[split, 'labels'], files[split, 'images']
    labels[split] = source.check_labels(read(labels_file), str(labels_file))
    announced = read_shape(file)
    if announced[:1] != labels[split].shape:
      raise DataError(
        f'{file} announces {announced[0] if announced else 0} images but'
        f' {labels_file} holds {len(labels[split])} labels'
      )
    array = source.check_images(read(file), str(file))
    if prefix.startswith('emnist'):
      array = np.ascontiguousarray(array.swapaxes(1, 2))
    images[split] = array
  if not class_names and not num_classes:
    class_names = _mapping(folder, prefix, labels)
  return source.make_splits(
    (images['train'], labels['train']),
    (images['test'], labels['test']),
    where=(str(files['train', 'labels']), str(files['test', 'labels'])),
    num_classes=num_classes,
    class_names=class_names,
  )


def existing_folder(path: str) -> Path:
  """The folder at ``path``, ``~`` expanded.

  Raises:
    ConfigError: ``path`` is no text.
    DataError: There is no such folder.
  """
  if not isinstance(path, str | os.PathLike) or not str(path):
    raise ConfigError(f'data.kw.path={path!r}: the path of a folder')
  folder = Path(path).expanduser()
  if not folder.is_dir():
    cause = 'is not a folder' if folder.exists() else 'does not exist'
    raise DataError(f'{folder} {cause}')
  return folder


def read_shape(file: Path) -> tuple[int, ...]:
  """The shape that an IDX file announces.

  Raises:
    DataError: The file does not begin as an IDX file does.
  """
  with _open(file) as stream:
    return _guard(file, lambda: _header(file, stream))[1]


def read(file: Path) -> np.ndarray:
  """An IDX file as an array, in the machine's byte order.

  Memory grows with what the file holds, never with what it announces.

  Args:
    file: Path; read through gzip if the name ends in ``.gz``.

  Returns:
    An array of the announced shape and dtype.

  Raises:
    DataError: Damaged gzip, a wrong magic number, too few or too many bytes.
  """
  with _open(file) as stream:
    return _guard(file, lambda: _read(file, stream))


def _read(file: Path, stream) -> np.ndarray:
  dtype, shape = _header(file, stream)
  expected = math.prod(shape) * dtype.itemsize
  say = f'{file} announces shape {shape}, {expected} bytes of {dtype.name},'
  if file.suffix != '.gz':
    held = file.stat().st_size - 4 - 4 * len(shape)
    if held != expected:
      raise DataError(f'{say} but holds {held}')
  payload = bytearray()
  while len(payload) < expected:
    chunk = stream.read(min(_CHUNK, expected - len(payload)))
    if not chunk:
      raise DataError(f'{say} but holds {len(payload)}')
    payload += chunk
  if stream.read(1):
    raise DataError(f'{say} but holds more')
  array = np.frombuffer(payload, dtype).reshape(shape)
  return array.astype(dtype.newbyteorder('='), copy=False)


def _header(file: Path, stream) -> tuple[np.dtype, tuple[int, ...]]:
  magic = stream.read(4)
  if len(magic) < 4 or magic[:2] != b'\0\0' or magic[2] not in _DTYPES:
    raise DataError(
      f'{file} is no IDX file: it begins with {magic.hex() or "nothing"},'
      ' not with two zero bytes and a type'
    )
  if magic[3] == 0:
    raise DataError(f'{file} announces an array of rank 0')
  sizes = stream.read(4 * magic[3])
  if len(sizes) < 4 * magic[3]:
    raise DataError(f'{file} ends within its header')
  return np.dtype(_DTYPES[magic[2]]), struct.unpack(f'>{magic[3]}I', sizes)


def _open(file: Path):
  try:
    return gzip.open(file) if file.suffix == '.gz' else file.open('rb')
  except OSError as error:
    raise DataError(f'{file} cannot be read: {error.strerror}') from error


def _guard(file: Path, fun):
  """Calls ``fun``; a damaged gzip stream becomes a DataError."""
  try:
    return fun()
  except EOFError as error:
    raise DataError(f'{file} is truncated: its gzip stream ends early') from (
      error
    )
  except (OSError, zlib.error) as error:  # BadGzipFile is an OSError.
    raise DataError(f'{file} is damaged: {error}') from error


def _find(folder: Path, prefix: str, split: str, kind: str) -> Path:
  """The file of a split and kind, the unzipped one if both are there."""
  rank = {'images': 3, 'labels': 1}[kind]
  for name in _TEST if split == 'test' else ('train',):
    for dot in '-.':
      for suffix in ('', '.gz'):
        file = folder / f'{prefix}{name}-{kind}{dot}idx{rank}-ubyte{suffix}'
        if file.is_file():
          return file
  name = 't10k' if split == 'test' else 'train'
  raise DataError(
    f'{folder} has no {prefix}{name}-{kind}-idx{rank}-ubyte, gzipped or not'
  )


def _prefix(folder: Path, subset: str) -> str:
  """What the names of the chosen set begin with, its dash included."""
  if not isinstance(subset, str):
    raise ConfigError(f'data.kw.subset={subset!r}: a text')
  marks = ('train-images-idx', 'train-images.idx')
  found = set()
  for file in folder.iterdir():
    for mark in marks:
      prefix, mark_there, _ = file.name.partition(mark)
      if mark_there:
        found.add(prefix)
  if not found:
    raise DataError(f'{folder} has no train-images-idx3-ubyte, gzipped or not')
  if subset:
    for prefix in sorted(found):
      if prefix.rstrip('-') in (subset, f'emnist-{subset}'):
        return prefix
  elif '' in found:
    return ''
  elif len(found) == 1:
    return found.pop()
  known = ', '.join(sorted(p.rstrip('-') or "''" for p in found))
  raise ConfigError(f'data.kw.subset={subset!r}: {folder} holds {known}')


def _mapping(
  folder: Path, prefix: str, labels: dict[str, np.ndarray]
) -> tuple[str, ...]:
  """Class names by ``<subset>-mapping.txt``, or none if it is not there.

  A line is a label and the code points of the characters it stands for. Labels
  that do not run from 0, as those of 'letters', are made to, in ``labels``.
  """
  file = folder / f'{prefix}mapping.txt'
  if not file.is_file():
    return ()
  try:
    lines = [
      [int(word) for word in line.split()]
      for line in file.read_text('ascii').splitlines()
    ]
    names = {line[0]: chr(line[1]) for line in lines if line}
  except (ValueError, IndexError, OverflowError) as error:
    raise DataError(
      f'{file} is no mapping of labels to characters: {error}'
    ) from error
  class_ids = np.asarray(sorted(names), np.int64)
  for split, ids in labels.items():
    strange = np.setdiff1d(ids, class_ids)
    if strange.size:
      raise DataError(
        f'{file} does not name label {strange[0]}, which occurs in the'
        f' {split} split'
      )
    labels[split] = np.searchsorted(class_ids, ids)
  return tuple(names[k] for k in sorted(names))
