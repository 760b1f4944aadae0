"""Folders of PNG or JPEG files, one folder a class."""

from concurrent import futures
import dataclasses
from pathlib import Path

import numpy as np

from rrl_jax.data import decode, idx, source
from rrl_jax.errors import ConfigError, DataError

_SUFFIXES = ('.png', '.jpg', '.jpeg')
_TEST = ('test', 'val', 'validation')


def load(
  *,
  path: str,
  image_size: int = 0,
  in_memory: bool | None = None,
  seed: int = 0,
) -> source.Splits:
  """Reads ``path/{train,test}/<class>/*.png`` or ``path/<class>/*.png``.

  The test split may also be called ``val`` or ``validation``. Without split
  folders a fifth of each class is held out. Classes are the folders of the
  training split, in alphabetical order; files may lie deeper. Hidden files and
  other endings than .png, .jpg, .jpeg are passed over. Images are gray if all
  are, and RGB otherwise.

  Every header is read at once, so that what is no image is told before any
  work; the pixels of sets that do not stay in memory are read when needed.

  Args:
    path: The folder.
    image_size: Resize the shorter side to this and cut out the middle square;
      0 for images that all have one size.
    in_memory: Whether to decode everything now; None for sets of at most
      512 MiB.
    seed: Seeds what is held out.

  Returns:
    Both splits, uint8 ``[N, H, W, 1 or 3]``.

  Raises:
    ConfigError: Images differ in size and ``image_size`` is 0.
    DataError: No class, no image, a file that cannot be decoded, a class that
      only the test split has.
  """
  image_size = source.whole('image_size', image_size, least=0)
  root = idx.existing_folder(path)
  if (root / 'train').is_dir():
    test_root = next((root / t for t in _TEST if (root / t).is_dir()), None)
    if test_root is None:
      raise DataError(f'{root} has train but none of {", ".join(_TEST)}')
    names = _class_names(root / 'train')
    strange = sorted(set(_class_names(test_root)) - set(names))
    if strange:
      raise DataError(
        f'{test_root / strange[0]} is a class that {root / "train"} has not'
      )
    files, labels = _files(root / 'train', names, every_class=True)
    test_files, test_labels = _files(test_root, names, every_class=False)
    images = _images(files + test_files, image_size)
    train, test = np.split(np.arange(len(images)), [len(files)])
    labels = np.concatenate([labels, test_labels])
    where = str(root / 'train'), str(test_root)
  else:
    names = _class_names(root)
    files, labels = _files(root, names, every_class=True)
    images = _images(files, image_size)
    train, test = source.holdout(labels, seed=seed, where=str(root))
    where = str(root), str(root)
  images = source.settle(images, in_memory)
  take = lambda rows: (source.take_images(images, rows), labels[rows])
  return source.make_splits(
    take(train), take(test), where=where, class_names=names
  )


@dataclasses.dataclass(frozen=True, eq=False)
class _FolderImages(source.LazyImages):
  """Images that are decoded when they are indexed."""

  files: tuple[Path, ...]
  shape: tuple[int, int, int, int]
  image_size: int
  dtype = np.dtype(np.uint8)

  def read(self, indices: np.ndarray) -> np.ndarray:
    images = np.empty((len(indices), *self.shape[1:]), np.uint8)
    for row, i in enumerate(indices):
      file = self.files[i]
      images[row] = decode.decode(
        file,
        channels=self.shape[-1],
        image_size=self.image_size,
        where=str(file),
      )
    return images


def _images(files: list[Path], image_size: int) -> _FolderImages:
  with futures.ThreadPoolExecutor(8) as pool:
    headers = list(pool.map(decode.read_header, files, chunksize=64))
  first = headers[0]
  if not image_size:
    for file, header in zip(files, headers, strict=True):
      if header[:2] != first[:2]:
        raise ConfigError(
          'data.kw.image_size=0: the images differ in size,'
          f' {files[0]} has {first.height}x{first.width},'
          f' {file} {header.height}x{header.width}; give the size to resize to'
        )
  height, width = (image_size,) * 2 if image_size else first[:2]
  channels = max(header.channels for header in headers)
  return _FolderImages(
    tuple(files), (len(files), height, width, channels), image_size
  )


def _class_names(root: Path) -> list[str]:
  names = sorted(
    entry.name
    for entry in root.iterdir()
    if entry.is_dir() and not entry.name.startswith('.')
  )
  if not names:
    raise DataError(f'{root} has no folder, so no class')
  return names


def _files(
  root: Path, names: list[str], *, every_class: bool
) -> tuple[list[Path], np.ndarray]:
  """Image files and labels, by class and name."""
  files, labels = [], []
  for label, name in enumerate(names):
    found = sorted(
      file
      for file in (root / name).rglob('*')
      if file.suffix.lower() in _SUFFIXES
      and not file.name.startswith('.')
      and file.is_file()
    )
    if not found and every_class:
      raise DataError(f'{root / name} holds no {", ".join(_SUFFIXES)} file')
    files += found
    labels += [label] * len(found)
  if not files:
    raise DataError(f'{root} holds no {", ".join(_SUFFIXES)} file')
  return files, np.asarray(labels)
