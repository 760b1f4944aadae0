"""Any image classification set of tensorflow-datasets, without TensorFlow."""

import dataclasses
import difflib
import functools
import os
import socket
import threading
from typing import Any
import urllib.parse
import urllib.request

import numpy as np

from rrl_jax.data import decode, source
from rrl_jax.errors import ConfigError, DataError

_COARSE = 'coarse_label'  # The hierarchy, where a set has one.
_TIMEOUT = 4.0  # Seconds to reach the host that a set is downloaded from.
_CHUNK = 512  # Records read at once; ImageNet's have 110 kB.
# Examples in the training and the test split, of sets that are not prepared.
_SIZES = {
  'celeb_a': (162_770, 19_962), 'cifar10': (50_000, 10_000),
  'cifar100': (50_000, 10_000), 'fashion_mnist': (60_000, 10_000),
  'imagenet2012': (1_281_167, 50_000), 'mnist': (60_000, 10_000),
}  # fmt: skip
_USUAL_SIZE = (100_000, 10_000)


def load(
  *,
  data_set: str,
  data_dir: str = '',
  train_split: str = 'train',
  test_split: str = '',
  image_size: int = 0,
  image_key: str = '',
  label_key: str = '',
  attribute_key: str = '',
  in_memory: bool | None = None,
  seed: int = 0,
) -> source.Splits:
  """Reads a set prepared as array_record; prepares it if it can be fetched.

  Concepts are the set's ``coarse_label`` where it has one (``cifar100``), and
  the classes otherwise.

  Args:
    data_set: Name, as ``cifar10`` or ``cifar10_corrupted/fog_3:1.0.0``.
    data_dir: Folder of prepared sets; '' for ``$TFDS_DATA_DIR`` or
      ``~/tensorflow_datasets``.
    train_split: As tfds spells splits: ``train``, ``train[:90%]``, ...
    test_split: The same; '' for ``test``, or ``validation`` without it.
    image_size: Resize the shorter side to this and cut out the middle square;
      0 for sets whose images all have one size.
    image_key: Feature with the image; '' for ``image`` or the only one.
    label_key: Feature with the class; '' for ``label`` or the only one. One
      inside another is spelled ``attributes/Blond_Hair`` (``celeb_a``); a truth
      value makes two classes, ``not_Blond_Hair`` and ``Blond_Hair``.
    attribute_key: Feature with the attribute that `groups` crosses with the
      class, spelled alike; '' for none.
    in_memory: Whether to decode everything now; None for sets of at most
      512 MiB.
    seed: Unused; the test split is given.

  Returns:
    Both splits, uint8.

  Raises:
    ConfigError: A set, split or feature that does not exist; images that vary
      in size and ``image_size`` 0.
    DataError: Not prepared and out of reach, prepared in another format,
      damaged, without labels.

  .. note::
    Classes and thinning need all labels, so opening a set reads its records
    once, though it decodes no image for that: of 70 kB images some thousands
    a second. Prepare a set before several processes want it at once.
  """
  del seed
  for key, text in (
    ('data_set', data_set),
    ('data_dir', data_dir),
    ('train_split', train_split),
    ('test_split', test_split),
    ('image_key', image_key),
    ('label_key', label_key),
    ('attribute_key', attribute_key),
  ):
    if not isinstance(text, str | os.PathLike):
      raise ConfigError(f'data.kw.{key}={text!r}: a text')
  if not data_set:
    raise ConfigError("data.kw.data_set='': the name of a set, as cifar10")
  image_size = source.whole('image_size', image_size, least=0)
  builder = find(data_set, data_dir) or _prepare(data_set, data_dir)
  where = f'{data_set} in {builder.data_path}'
  _check_format(builder, where)
  splits = list(builder.info.splits)
  if not test_split:
    test_split = next((s for s in ('test', 'validation') if s in splits), '')
    if not test_split:
      raise ConfigError(
        f"data.kw.test_split='': {data_set} has the splits {', '.join(splits)}"
      )
  features = builder.info.features
  image_key, label_key = _keys(features, image_key, label_key)
  known = _labels(features, with_bools=True)
  _check_attribute(attribute_key, known)
  keys = [label_key] + [_COARSE] * (_COARSE in _labels(features))
  keys += [attribute_key] * bool(attribute_key)
  pairs = [
    _read(builder, split, key, image_key, keys, image_size, where)
    for key, split in (('train_split', train_split), ('test_split', test_split))
  ]
  (train, train_ids), (test, test_ids) = pairs
  made = source.make_splits(
    (source.settle(train, in_memory), train_ids[label_key]),
    (source.settle(test, in_memory), test_ids[label_key]),
    where=(f'{where}: {train_split}', f'{where}: {test_split}'),
    class_names=_names(known[label_key], label_key),
    num_classes=getattr(known[label_key], 'num_classes', 0) or 0,
  )
  if attribute_key:
    made = source.with_attributes(
      made,
      (train_ids[attribute_key], test_ids[attribute_key]),
      _names(known[attribute_key], attribute_key),
      where=(f'{where}: {attribute_key}',) * 2,
    )
  if _COARSE not in train_ids:
    return made
  names = tuple(features[_COARSE].names)
  return source.Splits(
    *(
      dataclasses.replace(split, concepts=ids[_COARSE], concept_names=names)
      for split, ids in zip(made, (train_ids, test_ids), strict=True)
    )
  )


def declare(
  *,
  data_set: str,
  data_dir: str = '',
  train_split: str = 'train',
  test_split: str = '',
  image_size: int = 0,
  image_key: str = '',
  label_key: str = '',
  attribute_key: str = '',
  in_memory: bool | None = None,
) -> source.Splits:
  """Classes and shapes of a set, prepared or not; all its images are black.

  Labels go round the classes. A prepared set says how many examples it has;
  of another the size is known for the usual ones, and 100,000 and 10,000
  stand for the rest. Arguments and errors are those of `load`.
  """
  del train_split, test_split
  image_size = source.whole('image_size', image_size, least=0)
  builder = find(data_set, data_dir)
  sizes = _SIZES.get(data_set.partition(':')[0].partition('/')[0], _USUAL_SIZE)
  if builder is None:
    builder = _known(data_set, data_dir)(data_dir=folder(data_dir))
  elif 'train' in builder.info.splits:
    counts = {n: s.num_examples for n, s in builder.info.splits.items()}
    test = counts.get('test') or counts.get('validation') or sizes[1]
    sizes = (counts['train'] or sizes[0], test)
  features = builder.info.features
  image_key, label_key = _keys(features, image_key, label_key)
  known = _labels(features, with_bools=True)
  _check_attribute(attribute_key, known)
  shape = _image_shape(features[image_key], image_key, image_size, data_set)
  names = _names(known[label_key], label_key)
  num_classes = len(names) or known[label_key].num_classes or 1
  label = lambda num: np.arange(num) % num_classes
  made = source.make_splits(
    *((source.blank(num, shape, in_memory), label(num)) for num in sizes),
    where=('declared train', 'declared test'),
    class_names=names,
    num_classes=num_classes,
  )
  if attribute_key:
    values = _names(known[attribute_key], attribute_key)
    made = source.with_attributes(
      made,
      tuple(np.arange(num) // num_classes % len(values) for num in sizes),
      values,
      where=(f'declared {attribute_key}',) * 2,
    )
  if _COARSE not in known:
    return made
  coarse = tuple(features[_COARSE].names)
  return source.Splits(
    *(
      dataclasses.replace(
        split,
        concepts=split.labels * len(coarse) // num_classes,
        concept_names=coarse,
      )
      for split in made
    )
  )


def folder(data_dir: str = '') -> str:
  """Where prepared sets are looked for."""
  return os.path.expanduser(
    data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  )


def find(data_set: str, data_dir: str = '') -> Any | None:
  """The tfds builder of a set that is prepared, or None. Never downloads.

  Args:
    data_set: Name, with config and version if wanted.
    data_dir: Folder of prepared sets, see `folder`.

  Raises:
    DataError: The set is there but its description cannot be read.
  """
  from tensorflow_datasets.core import naming, read_only_builder, registered

  try:
    naming.parse_builder_name_kwargs(data_set)
  except ValueError as error:
    raise ConfigError(
      f'data.kw.data_set={data_set!r}: {_line(error)}'
    ) from error
  try:
    return read_only_builder.builder_from_files(
      data_set, data_dir=folder(data_dir)
    )
  except registered.DatasetNotFoundError:
    return None
  except Exception as error:  # noqa: BLE001 - damaged JSON or protobuf.
    raise DataError(
      f'{data_set} in {folder(data_dir)} cannot be read: {_line(error)}'
    ) from error


def _known(data_set: str, data_dir: str) -> type:
  """The builder's class of a set that tfds knows."""
  import tensorflow_datasets as tfds

  where = folder(data_dir)
  try:
    return tfds.builder_cls(data_set)
  except (tfds.core.DatasetNotFoundError, ValueError) as error:
    name = data_set.partition(':')[0].partition('/')[0]
    known = tfds.list_builders(with_community_datasets=False)
    close = difflib.get_close_matches(name, known, n=3)
    raise ConfigError(
      f'data.kw.data_set={data_set!r}: neither prepared in {where} nor known'
      ' to tensorflow-datasets'
      + (f'; close names: {", ".join(close)}' if close else '')
    ) from error


def _prepare(data_set: str, data_dir: str) -> Any:
  """Downloads and prepares a set, or says at once why not."""
  import tensorflow_datasets as tfds

  where = folder(data_dir)
  cls = _known(data_set, data_dir)
  command = (
    'python -c "import tensorflow_datasets as tfds;'
    f' tfds.data_source({data_set!r}, data_dir={where!r})"'
  )
  say = f'{data_set} is not prepared as array_record in {where}'
  if manual := cls.MANUAL_DOWNLOAD_INSTRUCTIONS:
    raise DataError(
      f'{say}, and its files must be fetched by hand into'
      f' {where}/downloads/manual ({_line(manual)}); then: {command}'
    )
  host, port = _host(cls)
  if not _reachable(host, port):
    raise DataError(
      f'{say}, and {host} cannot be reached to download it;'
      f' where it can be: {command}'
    )
  try:
    builder = tfds.builder(data_set, data_dir=where, file_format='array_record')
    builder.download_and_prepare()
  except Exception as error:  # noqa: BLE001 - network, disk, checksums, ...
    raise DataError(
      f'{say}, and preparing it failed: {_line(error)}'
    ) from error
  return builder


def _host(cls) -> tuple[str, int]:
  """Host and port that a download goes to first: a proxy or the server."""
  try:
    url = next(iter(cls.url_infos or ()), '')
  except Exception:  # noqa: BLE001 - no list of downloads; ask tfds' own host.
    url = ''
  url = urllib.parse.urlsplit(url or 'https://storage.googleapis.com')
  proxy = urllib.request.getproxies().get(url.scheme)
  if proxy and not urllib.request.proxy_bypass(url.hostname or ''):
    url = urllib.parse.urlsplit(proxy if '//' in proxy else f'//{proxy}')
  default = {'http': 80, 'ftp': 21}.get(url.scheme, 443)
  return url.hostname or '', url.port or default


def _reachable(host: str, port: int) -> bool:
  """Whether a connection opens in time; resolving names counts."""
  opened = threading.Event()

  def connect():
    try:
      socket.create_connection((host, port), timeout=_TIMEOUT).close()
    except OSError:
      return
    opened.set()

  # Name resolution knows no timeout of its own, hence the thread.
  thread = threading.Thread(target=connect, daemon=True)
  thread.start()
  thread.join(_TIMEOUT)
  return opened.is_set()


def _check_format(builder, where: str) -> None:
  from tensorflow_datasets.core import file_adapters

  known = {f.value for f in file_adapters.FileFormat.with_random_access()}
  there = {f.value for f in builder.info.available_file_formats()}
  if not there & known:
    raise DataError(
      f'{where} is prepared as {", ".join(sorted(there)) or "nothing known"};'
      ' reading without TensorFlow needs array_record: prepare it in another'
      " data_dir with tfds.builder(..., file_format='array_record')"
    )


def _keys(features, image_key: str, label_key: str) -> tuple[str, str]:
  """Names of the image and the label feature."""
  import tensorflow_datasets as tfds

  def choose(kw: str, given: str, usual: str, fits) -> str:
    fitting = [key for key in features if fits(features[key])]
    if given in fitting:
      return given
    if not given and usual in fitting:
      return usual
    if not given and len(fitting) == 1:
      return fitting[0]
    raise ConfigError(
      f'data.kw.{kw}={given!r}: features that would do are'
      f' {", ".join(sorted(fitting)) or "none"}'
      f' (of {", ".join(sorted(features))})'
    )

  is_image = lambda feature: (
    isinstance(feature, tfds.features.Image)
    or (
      type(feature) is tfds.features.Tensor
      and len(feature.shape) == 3
      and feature.np_dtype == np.uint8
    )
  )
  chosen = choose('image_key', image_key, 'image', is_image)
  if label_key in _labels(features, with_bools=True):
    return chosen, label_key
  return chosen, choose(
    'label_key',
    label_key,
    'label',
    lambda feature: isinstance(feature, tfds.features.ClassLabel),
  )


def _labels(
  features, *, with_bools: bool = False, prefix: str = ''
) -> dict[str, Any]:
  """Features that name a class, those inside others as ``outer/inner``."""
  import tensorflow_datasets as tfds

  found = {}
  for key, feature in features.items():
    if isinstance(feature, tfds.features.FeaturesDict):
      inner = f'{prefix}{key}/'
      found |= _labels(feature, with_bools=with_bools, prefix=inner)
    elif isinstance(feature, tfds.features.ClassLabel) or (
      with_bools
      and isinstance(feature, tfds.features.Tensor)
      and feature.shape == ()
      and feature.np_dtype == np.bool_
    ):
      found[prefix + key] = feature
  return found


def _check_attribute(attribute_key: str, known: dict[str, Any]) -> None:
  """Raises unless the set has that attribute, or none is asked for."""
  if attribute_key and attribute_key not in known:
    raise ConfigError(
      f'data.kw.attribute_key={attribute_key!r}: features that would do are'
      f' {", ".join(sorted(known)) or "none"}'
    )


def _names(feature, key: str) -> tuple[str, ...]:
  """Names of the classes of a feature, as far as it has any."""
  if not hasattr(feature, 'names'):  # A truth value.
    leaf = key.rpartition('/')[2]
    return f'not_{leaf}', leaf
  return tuple(feature.names or ())


@dataclasses.dataclass(frozen=True, eq=False)
class _TfdsImages(source.LazyImages):
  """Images that are read and decoded when they are indexed."""

  data_source: Any
  key: str
  shape: tuple[int, int, int, int]
  image_size: int
  where: str
  dtype = np.dtype(np.uint8)

  def read(self, indices: np.ndarray) -> np.ndarray:
    images = np.empty((len(indices), *self.shape[1:]), np.uint8)
    for start in range(0, len(indices), _CHUNK):
      chunk = [int(i) for i in indices[start : start + _CHUNK]]
      records = _records(self.data_source, chunk, self.where)
      for row, (i, record) in enumerate(zip(chunk, records, strict=True)):
        image = self._image(record[self.key], f'{self.where}: image {i}')
        if image.shape != self.shape[1:]:
          raise DataError(
            f'{self.where}: image {i} has shape {image.shape},'
            f' not {self.shape[1:]}'
          )
        images[start + row] = image
    return images

  def _image(self, value: bytes | np.ndarray, where: str) -> np.ndarray:
    if isinstance(value, np.ndarray):
      return value
    return decode.decode(
      value,
      channels=self.shape[-1],
      image_size=self.image_size,
      where=where,
    )


def _read(
  builder,
  split: str,
  split_key: str,
  image_key: str,
  keys: list[str],
  image_size: int,
  where: str,
) -> tuple[_TfdsImages, dict[str, np.ndarray]]:
  """Lazy images of a split, and its labels by feature."""
  import tensorflow_datasets as tfds

  feature = builder.info.features[image_key]
  encoded = isinstance(feature, tfds.features.Image)
  shape = _image_shape(feature, image_key, image_size, where)
  skip = tfds.decode.SkipDecoding()
  try:
    data_source = builder.as_data_source(
      split, decoders={image_key: skip} if encoded else None
    )
    num = len(data_source)
  except Exception as error:  # noqa: BLE001 - unknown split, missing shard.
    known = ', '.join(builder.info.splits)
    if split.partition('[')[0] not in builder.info.splits:
      raise ConfigError(
        f'data.kw.{split_key}={split!r}: {where} has the splits {known}'
      ) from error
    raise DataError(
      f'{where}: split {split!r} cannot be read: {_line(error)}'
    ) from error
  if not num:
    raise DataError(f'{where}: split {split!r} is empty')
  ids = {key: np.empty(num, np.int64) for key in keys}
  for start in range(0, num, _CHUNK):
    chunk = list(range(start, min(start + _CHUNK, num)))
    for i, record in zip(
      chunk, _records(data_source, chunk, f'{where}: {split}'), strict=True
    ):
      for key in keys:
        ids[key][i] = functools.reduce(
          lambda inner, part: inner[part], key.split('/'), record
        )
  images = _TfdsImages(
    data_source,
    image_key,
    (num, *shape),
    image_size,
    f'{where}: {split}',
  )
  return images, ids


def _image_shape(
  feature, image_key: str, image_size: int, where: str
) -> tuple[int, int, int]:
  """Height, width and channels of all images, once resized."""
  import tensorflow_datasets as tfds

  if feature.np_dtype != np.uint8:
    raise DataError(f'{where}: {image_key} is {feature.np_dtype}, not uint8')
  height, width, channels = feature.shape
  if channels is None:
    channels = 3
  if image_size and isinstance(feature, tfds.features.Image):
    height = width = image_size
  elif image_size and (height, width) != (image_size, image_size):
    raise ConfigError(
      f'data.kw.image_size={image_size}: {image_key} is a plain array of'
      f' {height}x{width}'
    )
  if height is None or width is None:
    raise ConfigError(
      f'data.kw.image_size=0: images of {where} vary in size;'
      ' give the size to resize to'
    )
  return height, width, channels


def _records(data_source, indices: list[int], where: str) -> list[dict]:
  try:
    return data_source.__getitems__(indices)
  except Exception as error:  # noqa: BLE001 - array_record and protobuf.
    raise DataError(f'{where} cannot be read: {_line(error)}') from error


def _line(error: object) -> str:
  """One line, not too long."""
  text = ' '.join(str(error).split()) or type(error).__name__
  return text if len(text) <= 300 else f'{text[:300]}...'
