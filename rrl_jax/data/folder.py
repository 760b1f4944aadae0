"""Folders of PNG or JPEG files: one folder a class, or a table of them."""

from collections.abc import Sequence
from concurrent import futures
import contextlib
import csv
import dataclasses
import logging
from pathlib import Path

import numpy as np

from rrl_jax.data import decode, idx, source
from rrl_jax.errors import ConfigError, DataError

_LOG = logging.getLogger(__name__)
_SUFFIXES = ('.png', '.jpg', '.jpeg')
# Names of the folders of splits, in any case; of several the first is taken.
_TRAIN = ('train', 'training', 'seg_train')
_TEST = (
  'test', 'testing', 'seg_test', 'val', 'valid', 'validation', 'seg_val',
)  # fmt: skip
_HIDDEN = ('.', '@', '__MACOSX', '$')  # How a folder begins that is no class.
# Splits as tables spell them; the numbers are those of Waterbirds and CelebA.
_SPLITS = {
  '0': 'train', '1': 'validation', '2': 'test', 'train': 'train',
  'training': 'train', 'val': 'validation', 'valid': 'validation',
  'validation': 'validation', 'test': 'test',
}  # fmt: skip


def load(
  *,
  path: str,
  image_size: int = 0,
  attribute_key: str = '',
  metadata: str = '',
  image_key: str = '',
  label_key: str = '',
  class_names: Sequence[str] = (),
  attribute_names: Sequence[str] = (),
  test_split: str = '',
  in_memory: bool | None = None,
  seed: int = 0,
) -> source.Splits:
  """Reads ``path/{train,test}/<class>/*.png`` or ``path/<class>/*.png``.

  The folders of splits may be spelled ``Train``, ``training``, ``seg_train``
  and ``testing``, ``seg_test``, ``val``, ``valid``, ``validation``, in any
  case. Without them a fifth of each class is held out. Classes are the folders
  of the training split, in alphabetical order; files may lie deeper. Hidden
  files and folders (``.ipynb_checkpoints``, ``@eaDir``, ``__MACOSX``) and other
  endings than .png, .jpg, .jpeg are passed over, and counted in one line.
  Images are gray if all are, and RGB otherwise; they are turned as their EXIF
  data say, and what is transparent lies on white.

  With ``metadata`` a table says it all, as ``metadata.csv`` of Waterbirds does:
  a CSV file with a header and a line an image, whose columns are its file, its
  class, ``split`` (0 or train, 1 or validation, 2 or test) and perhaps an
  attribute. Classes and attributes are the values of their columns, in the
  order of numbers where all are; any text will do, -1 too. With
  ``class_names`` or ``attribute_names`` the values are numbers from 0, and
  these are what they stand for.

  Every header is read at once, so that what is no image is told before any
  work; the pixels of sets that do not stay in memory are read when needed.

  Args:
    path: The folder.
    image_size: Resize the shorter side to this and cut out the middle square;
      0 for images that all have one size.
    attribute_key: What `groups` crosses with the class: a column of the table,
      or, without one, ``'folder'`` for ``<class>/<attribute>/*.png``; '' for
      nothing.
    metadata: The table, by its name in the folder; '' for none.
    image_key: Its column with the file, relative to the folder; '' for
      ``filename``.
    label_key: Its column with the class; '' for ``label``.
    class_names: What the numbers 0, 1, ... of that column mean; empty for the
      values themselves.
    attribute_names: The same of the attribute's column; empty for the column's
      name and the values, as in ``place_0``.
    test_split: Which of its splits to test on, ``'test'`` or ``'validation'``;
      '' for the first of them that is there. The other is left out.
    in_memory: Whether to decode everything now; None for sets of at most
      512 MiB.
    seed: Seeds what is held out.

  Returns:
    Both splits, uint8 ``[N, H, W, 1 or 3]``.

  Raises:
    ConfigError: Images differ in size and ``image_size`` is 0; names that are
      no texts, are double, or have no table or column.
    DataError: No class or a single one, no image, a file that cannot be
      decoded, a class that only the test split has, a value of the table
      without a name, an empty class or attribute, a file in both splits.
  """
  image_size = source.whole('image_size', image_size, least=0)
  root = idx.existing_folder(path)
  for key, text in (
    ('attribute_key', attribute_key),
    ('metadata', metadata),
    ('image_key', image_key),
    ('label_key', label_key),
    ('test_split', test_split),
  ):
    if not isinstance(text, str):
      raise ConfigError(f'data.kw.{key}={text!r}: a text')
    if text and not metadata and (key, text) != ('attribute_key', 'folder'):
      raise ConfigError(
        f'data.kw.{key}={text!r}: data.kw.metadata names no table with columns'
        + (" (or say 'folder')" if key == 'attribute_key' else '')
      )
  class_names = _given('class_names', class_names, metadata)
  attribute_names = _given(
    'attribute_names', attribute_names, metadata and attribute_key
  )
  if metadata:
    return _from_table(
      root,
      root / metadata,
      image_key or 'filename',
      label_key or 'label',
      attribute_key,
      class_names,
      attribute_names,
      test_split,
      image_size,
      in_memory,
    )
  train_root = _split_root(root, _TRAIN)
  if train_root is not None:
    test_root = _split_root(root, _TEST)
    if test_root is None:
      raise DataError(
        f'{root} has {train_root.name} but none of {", ".join(_TEST)}'
      )
    names = _class_names(train_root)
    strange = sorted(set(_class_names(test_root)) - set(names))
    if strange:
      raise DataError(
        f'{test_root / strange[0]} is a class that {train_root} has not'
      )
    files, labels = _files(train_root, names, every_class=True)
    test_files, test_labels = _files(test_root, names, every_class=False)
    images = _images(files + test_files, image_size)
    train, test = np.split(np.arange(len(images)), [len(files)])
    labels = np.concatenate([labels, test_labels])
    where = str(train_root), str(test_root)
    files = files + test_files
    class_roots = [train_root] * len(train) + [test_root] * len(test)
  else:
    names = _class_names(root)
    files, labels = _files(root, names, every_class=True)
    images = _images(files, image_size)
    train, test = source.holdout(labels, seed=seed, where=str(root))
    where = str(root), str(root)
    class_roots = [root] * len(files)
  images = source.settle(images, in_memory)
  take = lambda rows: (source.take_images(images, rows), labels[rows])
  made = source.make_splits(
    take(train), take(test), where=where, class_names=names
  )
  if not attribute_key:
    return made
  found = [_below(*pair) for pair in zip(files, class_roots, strict=True)]
  attribute_names, attributes = np.unique(found, return_inverse=True)
  return source.with_attributes(
    made,
    (attributes[train], attributes[test]),
    [str(name) for name in attribute_names],
    where=where,
  )


def _split_root(root: Path, names: Sequence[str]) -> Path | None:
  """The folder of a split by the first of its names that is there."""
  folders = {
    entry.name.lower(): entry for entry in _folders(root) if entry.is_dir()
  }
  found = next((folders[name] for name in names if name in folders), None)
  if found is None:
    return None
  inner = _folders(found)
  # As in seg_train/seg_train/<class>.
  if len(inner) == 1 and inner[0].name.lower() == found.name.lower():
    return inner[0]
  return found


def _folders(root: Path) -> list[Path]:
  """Folders in a folder but the hidden ones, by name."""
  return sorted(
    entry
    for entry in root.iterdir()
    if entry.is_dir() and not entry.name.startswith(_HIDDEN)
  )


def _given(key: str, names: Sequence[str], column: str) -> tuple[str, ...]:
  """Names of the values of a column, checked."""
  names = tuple(names) if isinstance(names, list | tuple) else (names,)
  texts = all(isinstance(name, str) and name for name in names)
  if not texts or len(set(names)) < len(names):
    raise ConfigError(f'data.kw.{key}={names!r}: texts, each once')
  if names and not column:
    raise ConfigError(
      f'data.kw.{key}={names!r}: there is no column with such numbers;'
      ' data.kw.metadata and attribute_key name them'
    )
  return names


def _below(file: Path, root: Path) -> str:
  """The folder between that of a file's class and the file."""
  parts = file.relative_to(root).parts
  if len(parts) < 3:
    raise DataError(
      f'{file} lies in no folder of an attribute; data.kw.attribute_key='
      "'folder' asks for <class>/<attribute>/<file>"
    )
  return parts[1]


def _from_table(
  root: Path,
  table: Path,
  image_key: str,
  label_key: str,
  attribute_key: str,
  class_names: tuple[str, ...],
  attribute_names: tuple[str, ...],
  test_split: str,
  image_size: int,
  in_memory: bool | None,
) -> source.Splits:
  """Both splits of a folder whose files a CSV table lists."""
  if test_split not in ('', 'test', 'validation'):
    raise ConfigError(
      f'data.kw.test_split={test_split!r}: known are test, validation'
    )
  rows = _rows(table, [image_key, label_key, 'split', attribute_key])
  splits = []
  for number, row in enumerate(rows, 2):
    split = _SPLITS.get(row['split'].strip().lower())
    if split is None:
      raise DataError(
        f'{table}, line {number}: split {row["split"]!r}; known are'
        f' {", ".join(_SPLITS)}'
      )
    splits.append(split)
  test_split = test_split or ('test' if 'test' in splits else 'validation')
  used = {
    split: np.flatnonzero(np.asarray(splits) == split)
    for split in ('train', test_split)
  }
  for split, members in used.items():
    if not len(members):
      raise DataError(f'{table}: no line of the {split} split')
  order = np.concatenate(list(used.values()))
  size = len(used['train'])
  files = [root / rows[i][image_key] for i in order]
  names, labels = _numbered(rows, order, label_key, class_names, table)
  train, test = np.split(np.arange(len(order)), [size])
  unseen = np.setdiff1d(labels[test], labels[train])
  if unseen.size:
    raise DataError(
      f'{table}: class {names[unseen[0]]!r} of the {test_split} split is not in'
      ' the training split'
    )
  both = sorted(set(files[:size]) & set(files[size:]))
  if both:
    raise DataError(
      f'{table}: {both[0]} is in the training and in the {test_split} split'
      + (f', and so are {len(both) - 1} others' if len(both) > 1 else '')
    )
  images = source.settle(_images(files, image_size), in_memory)
  take = lambda part: (source.take_images(images, part), labels[part])
  made = source.make_splits(
    take(train), take(test), where=(str(table),) * 2, class_names=names
  )
  if not attribute_key:
    return made
  names, attributes = _numbered(
    rows, order, attribute_key, attribute_names, table
  )
  if not attribute_names:
    names = [f'{attribute_key}_{name}' for name in names]
  return source.with_attributes(
    made,
    (attributes[train], attributes[test]),
    names,
    where=(str(table),) * 2,
  )


def _rows(table: Path, columns: list[str]) -> list[dict[str, str]]:
  """Lines of a CSV table that has these columns, '' for none."""
  try:
    with table.open(newline='', encoding='utf-8-sig') as file:
      reader = csv.DictReader(file)
      rows, header = list(reader), reader.fieldnames or []
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise DataError(f'{table} cannot be read: {error}') from error
  for column in filter(None, columns):
    if header.count(column) > 1:
      raise ConfigError(
        f'{table} has {header.count(column)} columns {column!r}'
      )
    if column not in header:
      raise ConfigError(
        f'{table} has no column {column!r} (data.kw.image_key, label_key,'
        f' attribute_key, and split); it has {", ".join(header) or "none"}'
      )
  for number, row in enumerate(rows, 2):
    if any(row[column] is None for column in filter(None, columns)):
      raise DataError(f'{table}, line {number}: a column is missing')
  return rows


def _numbered(
  rows: list[dict[str, str]],
  order: np.ndarray,
  column: str,
  given: tuple[str, ...],
  table: Path,
) -> tuple[list[str], np.ndarray]:
  """Names of a column's values, and the number of each line's.

  Without given names these are the distinct texts, ordered as numbers are where
  all are.
  """
  values = [rows[i][column].strip() for i in order]
  if '' in values:
    line = order[values.index('')] + 2
    raise DataError(f'{table}, line {line}: {column} is empty')
  if given:
    place = {str(k): k for k in range(len(given))}
    for i, value in zip(order, values, strict=True):
      if value not in place:
        raise DataError(
          f'{table}, line {i + 2}: {column}={value!r}; the names'
          f' {", ".join(given)} are of the numbers 0 to {len(given) - 1}'
        )
    return list(given), np.array([place[value] for value in values])
  names = sorted(set(values))
  with contextlib.suppress(ValueError):
    names = sorted(names, key=int)
  place = {name: k for k, name in enumerate(names)}
  return names, np.array([place[value] for value in values])


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
  transparent = sum(header.transparent for header in headers)
  if transparent:
    _LOG.warning(
      '%d of %d images have transparent parts, which lie on white here; the'
      ' first is %s',
      transparent,
      len(files),
      next(f for f, h in zip(files, headers, strict=True) if h.transparent),
    )
  height, width = (image_size,) * 2 if image_size else first[:2]
  channels = max(header.channels for header in headers)
  return _FolderImages(
    tuple(files), (len(files), height, width, channels), image_size
  )


def _class_names(root: Path) -> list[str]:
  folders = _folders(root)
  if not folders:
    raise DataError(f'{root} has no folder, so no class')
  if len(folders) == 1:
    deeper = _folders(folders[0])
    asked = f'; is the path {folders[0]} meant?' if len(deeper) > 1 else ''
    raise DataError(
      f'{root} has one folder, {folders[0].name}, so one class: there is'
      f' nothing to tell apart{asked}'
    )
  return [folder.name for folder in folders]


def _files(
  root: Path, names: list[str], *, every_class: bool
) -> tuple[list[Path], np.ndarray]:
  """Image files and labels, by class and name."""
  files, labels, left_out = [], [], []
  for label, name in enumerate(names):
    found = []
    for file in sorted((root / name).rglob('*')):
      if not file.is_file():
        continue
      parts = file.relative_to(root).parts
      hidden = any(part.startswith(_HIDDEN) for part in parts)
      right = file.suffix.lower() in _SUFFIXES and not hidden
      (found if right else left_out).append(file)
    if not found and every_class:
      raise DataError(f'{root / name} holds no {", ".join(_SUFFIXES)} file')
    files += found
    labels += [label] * len(found)
  if not files:
    raise DataError(f'{root} holds no {", ".join(_SUFFIXES)} file')
  if left_out:
    _LOG.warning(
      '%s: %d files are passed over, hidden or of another ending; the first is'
      ' %s',
      root,
      len(left_out),
      left_out[0],
    )
  return files, np.asarray(labels)
