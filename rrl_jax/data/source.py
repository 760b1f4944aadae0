"""What a set of labelled images is, wherever it comes from."""

import abc
from collections.abc import Sequence
import dataclasses
import hashlib
import logging
import numbers
from typing import NamedTuple, Protocol, Self

import numpy as np

from rrl_jax.errors import ConfigError, DataError

_IN_MEMORY_BYTES = 512 * 2**20  # Larger sets are read as they are needed.
_CHUNK = 4096  # Examples checked or read at once.
_SAMPLED = 256  # Images of a lazy set by which it is known.
_ROUNDING = 1e-6  # Of floats in [0, 1]: more than this outside is no rounding.
_LOG = logging.getLogger(__name__)
_NAMED = {  # Fields that may be None, and the names of their values.
  'fine_labels': 'fine_names',
  'groups': 'group_names',
  'inferred_groups': 'inferred_names',
}


class Images(Protocol):
  """Images in memory (an array is one) or read when they are indexed."""

  shape: tuple[int, ...]  # (N, H, W, C)
  dtype: np.dtype  # uint8, or float32 in [0, 1]

  def __len__(self) -> int:
    """Number of images N."""

  def __getitem__(self, indices: np.ndarray) -> np.ndarray:
    """Images at integer ``indices`` [n], as an array ``[n, H, W, C]``."""


@dataclasses.dataclass(frozen=True, eq=False)
class Truth:
  """What evaluation may know of damaged labels and images, and training not.

  Attributes:
    labels: Class of each image before noise, int32 ``[N]``; for an abnormal
      image, which has none, the given label.
    flipped: Whether the given label differs from it, bool ``[N]``.
    abnormal: Whether the image belongs to no class at all, bool ``[N]``.
  """

  labels: np.ndarray
  flipped: np.ndarray
  abnormal: np.ndarray

  def __post_init__(self):
    put = lambda name, value: object.__setattr__(self, name, value)
    put('labels', np.asarray(self.labels, np.int32))
    put('flipped', np.asarray(self.flipped, bool))
    put('abnormal', np.asarray(self.abnormal, bool))

  def take(self, indices: np.ndarray) -> Self:
    """The truth of the examples at integer ``indices`` [n]."""
    return Truth(
      self.labels[indices], self.flipped[indices], self.abnormal[indices]
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
  """One split of labelled images, with the concept each belongs to.

  Attributes:
    images: uint8 or float32 in [0, 1], ``[N, H, W, C]``.
    labels: Class of each image, int32 ``[N]``.
    class_names: Name of each class; classes without an image count too.
    concepts: Concept of each image, int32 ``[N]``; its class if not given.
    concept_names: Name of each concept; the classes' if not given.
    truth: What the labels were before `noise` and which images `abnormal`
      replaced; None if nothing was done to them. No batch is made of it.
    fine_labels: Class of each image before `coarse` merged classes, int32
      ``[N]``; None without a coarse map. No batch is made of it.
    fine_names: Name of each fine class.
    groups: Group of each image by which it may be judged, for one its class
      and a spurious attribute, int32 ``[N]``; None where there are none.
    group_names: Name of each group; some may be empty.
    inferred_groups: Guesses of groups, which training reads in place of the
      true ones, int32 ``[N]``; None where nothing was inferred.
    inferred_names: Name of each guessed group.

  Raises:
    DataError: The parts do not fit each other.
  """

  images: Images
  labels: np.ndarray
  class_names: tuple[str, ...]
  concepts: np.ndarray | None = None
  concept_names: tuple[str, ...] | None = None
  truth: Truth | None = None
  fine_labels: np.ndarray | None = None
  fine_names: tuple[str, ...] | None = None
  groups: np.ndarray | None = None
  group_names: tuple[str, ...] | None = None
  inferred_groups: np.ndarray | None = None
  inferred_names: tuple[str, ...] | None = None

  def __post_init__(self):
    # `object.__setattr__` is the way to complete a frozen dataclass.
    put = lambda name, value: object.__setattr__(self, name, value)
    put('labels', np.asarray(self.labels, np.int32))
    put('class_names', tuple(self.class_names))
    if self.concepts is None:
      put('concepts', self.labels)
      put('concept_names', self.class_names)
    put('concepts', np.asarray(self.concepts, np.int32))
    put('concept_names', tuple(self.concept_names))
    if len(self.images.shape) != 4:
      raise DataError(f'images have shape {self.images.shape}, not [N,H,W,C]')
    if len(set(self.class_names)) < len(self.class_names):
      raise DataError(f'two classes have one name: {self.class_names}')
    for field, names in _NAMED.items():
      if getattr(self, field) is not None:
        put(field, np.asarray(getattr(self, field), np.int32))
        put(names, tuple(getattr(self, names)))
    for what, ids, names in (
      ('labels', self.labels, self.class_names),
      ('concepts', self.concepts, self.concept_names),
      *(
        (field, getattr(self, field), getattr(self, names))
        for field, names in _NAMED.items()
      ),
    ):
      if ids is None:
        continue
      if ids.shape != (len(self.images),):
        raise DataError(
          f'{len(self.images)} images but {what} of shape {ids.shape}'
        )
      if ids.size and not 0 <= ids.min() <= ids.max() < len(names):
        raise DataError(
          f'{what} run from {ids.min()} to {ids.max()}'
          f' but there are {len(names)} names'
        )
    if self.truth is not None:
      self._check_truth(self.truth)

  def _check_truth(self, truth: Truth) -> None:
    for field in dataclasses.fields(truth):
      shape = getattr(truth, field.name).shape
      if shape != self.labels.shape:
        raise DataError(
          f'{len(self)} images but truth.{field.name} of shape {shape}'
        )
    differs = truth.labels != self.labels
    if (truth.flipped != differs).any() or (truth.abnormal & differs).any():
      raise DataError(
        'truth.flipped must say where truth.labels differ from the labels,'
        ' which they do for no abnormal image'
      )
    if len(self) and not (
      0 <= truth.labels.min() <= truth.labels.max() < self.num_classes
    ):
      raise DataError(
        f'truth.labels run from {truth.labels.min()} to {truth.labels.max()}'
        f' but there are {self.num_classes} classes'
      )

  def __len__(self) -> int:
    return len(self.labels)

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Height, width and channels of every image."""
    return tuple(int(size) for size in self.images.shape[1:])

  @property
  def num_classes(self) -> int:
    """Number of classes, those without an image included."""
    return len(self.class_names)

  @property
  def num_concepts(self) -> int:
    """Number of concepts K."""
    return len(self.concept_names)

  @property
  def concept_counts(self) -> np.ndarray:
    """Images of each concept, int64 ``[K]``."""
    return np.bincount(self.concepts, minlength=self.num_concepts)

  @property
  def num_groups(self) -> int:
    """Number of groups, empty ones included; 0 where there are none."""
    return 0 if self.groups is None else len(self.group_names)

  @property
  def group_counts(self) -> np.ndarray:
    """Images of each group, int64 ``[G]``.

    Raises:
      ValueError: There are no groups.
    """
    if self.groups is None:
      raise ValueError('this source has no groups')
    return np.bincount(self.groups, minlength=self.num_groups)

  @property
  def batch_groups(self) -> np.ndarray | None:
    """Groups that batches hold: the inferred ones if there are any, ``[N]``."""
    return self.groups if self.inferred_groups is None else self.inferred_groups

  @property
  def batch_group_names(self) -> tuple[str, ...]:
    """Name of each group that a batch may hold; none without groups."""
    inferred = self.inferred_groups is not None
    return (self.inferred_names if inferred else self.group_names) or ()

  @property
  def has_hierarchy(self) -> bool:
    """Whether the concepts are something else than the classes."""
    return self.concept_names != self.class_names

  def take(self, indices: np.ndarray) -> Self:
    """The examples at ``indices`` [n], in that order, as a source.

    Images in memory are copied, images that are read when needed stay so.
    """
    indices = np.asarray(indices)
    if indices.dtype == bool:
      raise TypeError('indices must be integers, not a mask')
    indices = indices.astype(np.int64)
    return dataclasses.replace(
      self,
      images=take_images(self.images, indices),
      labels=self.labels[indices],
      concepts=self.concepts[indices],
      truth=None if self.truth is None else self.truth.take(indices),
      **{
        field: getattr(self, field)[indices]
        for field in _NAMED
        if getattr(self, field) is not None
      },
    )


def known_truth(source: Source) -> Truth:
  """The truth of a source: that all labels are right, if it has none."""
  nothing = np.zeros(len(source), bool)
  return source.truth or Truth(source.labels, nothing, nothing)


class Splits(NamedTuple):
  """The two splits of a set; classes and concepts are the same in both."""

  train: Source
  test: Source


class LazyImages(abc.ABC):
  """Images that are read when they are indexed, by the rules of an array."""

  shape: tuple[int, ...]  # (N, H, W, C)
  dtype: np.dtype

  @abc.abstractmethod
  def read(self, indices: np.ndarray) -> np.ndarray:
    """Images at ``indices`` [n], int64 in [0, N), as ``[n, H, W, C]``."""

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, indices: np.ndarray | slice) -> np.ndarray:
    """Images at integers ``indices`` [n] or in a slice.

    Raises:
      IndexError: An index out of range, or none that an image set takes.
    """
    n = len(self)
    if isinstance(indices, slice):
      return self.read(np.arange(n)[indices])
    indices = np.asarray(indices)
    if indices.ndim != 1 or (indices.size and indices.dtype.kind not in 'iu'):
      raise IndexError('images are indexed by integers [n] or a slice')
    indices = indices.astype(np.int64)
    if indices.size and not -n <= indices.min() <= indices.max() < n:
      raise IndexError(f'index out of range for {n} images')
    return self.read(np.where(indices < 0, indices + n, indices))


@dataclasses.dataclass(frozen=True, eq=False)
class _Subset(LazyImages):
  """Some of the images of a lazy set."""

  images: Images
  indices: np.ndarray

  @property
  def shape(self) -> tuple[int, ...]:
    return (len(self.indices), *self.images.shape[1:])

  @property
  def dtype(self) -> np.dtype:
    return self.images.dtype

  def read(self, indices: np.ndarray) -> np.ndarray:
    return self.images[self.indices[indices]]


def take_images(images: Images, indices: np.ndarray) -> Images:
  """Images at ``indices`` [n], themselves lazy if ``images`` are."""
  if isinstance(images, np.ndarray):
    return images[indices]
  if isinstance(images, _Subset):
    return _Subset(images.images, images.indices[indices])
  return _Subset(images, np.arange(len(images))[indices])


@dataclasses.dataclass(frozen=True, eq=False)
class _Blank(LazyImages):
  """Black images."""

  shape: tuple[int, ...]
  dtype = np.dtype(np.uint8)

  def read(self, indices: np.ndarray) -> np.ndarray:
    return np.zeros((len(indices), *self.shape[1:]), np.uint8)


def blank(num: int, image_shape: Sequence[int], in_memory=None) -> Images:
  """Black images that take no memory, for where shapes alone matter.

  Args:
    num: How many.
    image_shape: Height, width, channels.
    in_memory: As for `settle`: whether they pass for an array.

  Returns:
    uint8 ``[num, H, W, C]``.
  """
  shape = (num, *image_shape)
  if in_memory is None:
    in_memory = np.prod(shape, dtype=float) <= _IN_MEMORY_BYTES
  if in_memory:
    return np.broadcast_to(np.zeros((), np.uint8), shape)
  return _Blank(shape)


def settle(images: Images, in_memory: bool | None) -> Images:
  """Reads lazy images into memory, if asked to or, for None, if they fit.

  Args:
    images: Images of any kind; an array is returned as it is.
    in_memory: True, False, or None for sets of at most 512 MiB.

  Returns:
    An array, or ``images``.
  """
  if in_memory is None:
    size = np.prod(images.shape, dtype=float) * np.dtype(images.dtype).itemsize
    in_memory = size <= _IN_MEMORY_BYTES
  if not in_memory or isinstance(images, np.ndarray):
    return images
  array = np.empty(images.shape, images.dtype)
  for i in range(0, len(array), _CHUNK):
    rows = np.arange(i, min(i + _CHUNK, len(array)))
    array[rows] = images[rows]
  return array


def holdout(
  labels: np.ndarray, *, seed: int, where: str
) -> tuple[np.ndarray, np.ndarray]:
  """Indices of a training and a test split: a fifth of each class is held out.

  Args:
    labels: Integers ``[N]``.
    seed: Which fifth.
    where: The file or folder, for the error.

  Returns:
    Sorted indices of both splits. Each class keeps an example to train on.

  Raises:
    DataError: Every class is too small to hold an example out.
  """
  rng = np.random.default_rng(seed)
  held_out = np.zeros(len(labels), bool)
  for label in np.unique(labels):
    members = rng.permutation(np.flatnonzero(labels == label))
    held_out[members[: round(len(members) / 5)]] = True
  if not held_out.any():
    raise DataError(
      f'{where}: no test split, and too few examples of each class'
      f' ({len(labels)} in all) to hold a fifth of them out'
    )
  return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def check_images(images: np.ndarray, where: str) -> np.ndarray:
  """Images as ``[N, H, W, C]`` uint8, or float32 in [0, 1].

  Args:
    images: Any array; ``[N, H, W]`` gets a channel, floats become float32.
    where: The file and the array in it, for the errors.

  Returns:
    The images.

  Raises:
    DataError: Wrong rank, order of axes or dtype, an empty set, values outside
      [0, 1], bytes that are all 0 or 1.
  """
  if images.ndim not in (3, 4):
    raise DataError(
      f'{where} has shape {images.shape}; images are [N,H,W] or [N,H,W,C]'
    )
  if images.shape[0] == 0:
    raise DataError(f'{where} is empty: 0 images')
  if 0 in images.shape:
    raise DataError(f'{where} has shape {images.shape}: images without a pixel')
  _check_axes(images.shape, where)
  if images.dtype.kind == 'f':
    low, high = _ends(images, where)
    if low < -_ROUNDING or high > 1 + _ROUNDING:
      raise DataError(
        f'{where} holds values from {low:.9g} to {high:.9g};'
        ' floats must lie in [0, 1] (or use uint8 in 0..255)'
      )
    images = images.astype(np.float32, copy=False)
    if low < 0 or high > 1:
      _LOG.warning(
        '%s holds values from %.9g to %.9g, which are cut to [0, 1]',
        where,
        low,
        high,
      )
      images = np.clip(images, 0, 1)
  elif images.dtype != np.uint8:
    raise DataError(
      f'{where} is {images.dtype}; images are uint8, or floats in [0, 1]'
    )
  elif _ends(images, where)[1] == 1:
    raise DataError(
      f'{where} is uint8 and holds only 0 and 1, where white is 255; multiply'
      ' by 255, or give floats'
    )
  return images[..., None] if images.ndim == 3 else images


def _check_axes(shape: tuple[int, ...], where: str) -> None:
  """Raises DataError for images with the channels first, as in torch."""
  channels = (1, 3, 4)
  if len(shape) == 4 and shape[1] in channels and shape[3] not in channels:
    n, c, h, w = shape
    raise DataError(
      f'{where} has shape {shape}, which has the channels first; images are'
      f' [N,H,W,C], here [{n},{h},{w},{c}]: numpy.moveaxis(images, 1, -1)'
    )


def _ends(images: np.ndarray, where: str) -> tuple[float, float]:
  """Least and greatest value, in pieces: the set may fill half the memory."""
  pieces = [images[i : i + _CHUNK] for i in range(0, len(images), _CHUNK)]
  low = min(float(piece.min()) for piece in pieces)
  high = max(float(piece.max()) for piece in pieces)
  if any(np.isnan(piece).any() for piece in pieces if piece.dtype.kind == 'f'):
    raise DataError(f'{where} holds NaN')
  return low, high


def seen_in_training(train: Source, test: Source) -> np.ndarray | None:
  """Which test images are, bit for bit, training images.

  Args:
    train: Training examples.
    test: Test examples.

  Returns:
    Booleans ``[N]`` of the test images; None where images are not in memory.
  """
  if not all(isinstance(s.images, np.ndarray) for s in (train, test)):
    return None
  if 0 in train.images.strides[:1]:  # Blank images stand for shapes.
    return None
  digest = lambda image: hashlib.blake2b(
    np.ascontiguousarray(image).tobytes(), digest_size=16
  ).digest()
  known = set(map(digest, train.images))
  return np.array([digest(image) in known for image in test.images])


def digest(source: Source) -> str:
  """A short fingerprint of images and labels, to know a set again.

  Args:
    source: One split.

  Returns:
    Hexadecimal digits, of all labels and of all images in memory, or of
    256 evenly spaced ones of a set that is read when needed.
  """
  found = hashlib.sha256(np.ascontiguousarray(source.labels).tobytes())
  images = source.images
  if not isinstance(images, np.ndarray):
    places = np.linspace(0, len(images) - 1, min(_SAMPLED, len(images)))
    images = np.asarray(images[places.astype(np.int64)])
  found.update(f'{images.shape}{images.dtype}'.encode())
  for start in range(0, len(images), _CHUNK):
    found.update(np.ascontiguousarray(images[start : start + _CHUNK]).tobytes())
  return found.hexdigest()[:16]


def check_labels(labels: np.ndarray, where: str) -> np.ndarray:
  """Labels as int64 ``[N]``, checked to be whole and not negative.

  Args:
    labels: Any array.
    where: The file and the array in it, for the errors.

  Raises:
    DataError: Wrong rank or dtype, an empty set, a fraction, a negative label.
  """
  if labels.ndim != 1:
    raise DataError(f'{where} has shape {labels.shape}; labels are [N]')
  if labels.size == 0:
    raise DataError(f'{where} is empty: 0 labels')
  if labels.dtype.kind not in 'iu':
    raise DataError(f'{where} is {labels.dtype}; labels are integers')
  if labels.min() < 0:
    raise DataError(f'{where} holds the negative label {labels.min()}')
  if labels.max() > np.iinfo(np.int64).max:
    raise DataError(f'{where} holds the label {labels.max()}')
  return labels.astype(np.int64)


def make_splits(
  train: tuple[Images, np.ndarray],
  test: tuple[Images, np.ndarray],
  *,
  where: tuple[str, str],
  num_classes: int = 0,
  class_names: Sequence[str] = (),
) -> Splits:
  """Both splits of a set with one meaning of classes, checked together.

  The classes are the given names; or ``num_classes`` numbered ones; or, with
  neither, the labels that occur in the training split, ascending, each named
  by its number. Labels become positions among them.

  Args:
    train: Images, checked, and labels, any array, of the training split.
    test: The same of the test split.
    where: What holds the labels of each split, for the errors.
    num_classes: Number of classes, 0 for what the names or labels say.
    class_names: Name of each class; may be empty.

  Returns:
    The splits, one concept a class.

  Raises:
    DataError: Labels that are no labels, or outside the classes; images and
      labels that differ in number; splits that differ in image shape; a single
      class.
    ConfigError: ``num_classes`` that is no positive integer.
  """
  num_classes = whole('num_classes', num_classes, least=0)
  labels = [
    check_labels(np.asarray(split[1]), where_)
    for split, where_ in zip((train, test), where, strict=True)
  ]
  for (images, _), split_labels, where_ in zip(
    (train, test), labels, where, strict=True
  ):
    if len(images) != len(split_labels):
      raise DataError(
        f'{where_} holds {len(split_labels)} labels for {len(images)} images'
      )
  shapes = train[0].shape[1:], test[0].shape[1:]
  if shapes[0] != shapes[1]:
    raise DataError(
      f'{where[1]}: test images have shape {shapes[1]},'
      f' training images {shapes[0]}'
    )
  if train[0].dtype != test[0].dtype:
    raise DataError(
      f'{where[1]}: test images are {test[0].dtype},'
      f' training images {train[0].dtype}'
    )
  if num_classes and class_names and num_classes != len(class_names):
    raise ConfigError(
      f'data.kw.num_classes={num_classes}: there are {len(class_names)}'
      ' class names'
    )
  if num_classes and not class_names:
    class_names = [str(k) for k in range(num_classes)]
  elif not class_names:
    class_ids = np.unique(labels[0])
    class_names = [str(k) for k in class_ids]
    for i, where_ in enumerate(where):
      strange = np.setdiff1d(labels[i], class_ids)
      if strange.size:
        raise DataError(
          f'{where_} holds label {strange[0]}, which the training split does'
          ' not have (num_classes=N would declare classes 0 to N-1)'
        )
      labels[i] = np.searchsorted(class_ids, labels[i])
  for split_labels, where_ in zip(labels, where, strict=True):
    if split_labels.max() >= len(class_names):
      raise DataError(
        f'{where_} holds label {split_labels.max()},'
        f' outside the {len(class_names)} classes'
      )
  if len(class_names) < 2:
    raise DataError(
      f'{where[0]} has one class, {class_names[0]!r}: there is nothing to tell'
      ' apart'
    )
  splits = Splits(
    Source(train[0], labels[0], tuple(class_names)),
    Source(test[0], labels[1], tuple(class_names)),
  )
  seen = seen_in_training(*splits)
  if seen is not None and seen.any():
    _LOG.warning(
      '%s: %d of %d test images are, bit for bit, training images (duplicates)',
      where[1],
      seen.sum(),
      len(seen),
    )
  return splits


def with_attributes(
  splits: Splits,
  ids: tuple[np.ndarray, np.ndarray],
  names: Sequence[str],
  *,
  where: tuple[str, str],
) -> Splits:
  """Both splits with an attribute that their source brings, as their groups.

  Args:
    splits: A set without groups.
    ids: Attribute of each example of both splits, any arrays.
    names: Name of each attribute.
    where: What holds them, for the errors.

  Raises:
    DataError: A negative attribute, or one without a name.
  """
  checked = [
    check_labels(np.asarray(values), what)
    for values, what in zip(ids, where, strict=True)
  ]
  return Splits(
    *(
      dataclasses.replace(split, groups=values, group_names=tuple(names))
      for split, values in zip(splits, checked, strict=True)
    )
  )


def whole(key: str, value: object, *, least: int) -> int:
  """An integer setting, checked.

  Raises:
    ConfigError: ``value`` is no integer, or less than ``least``.
  """
  if (
    isinstance(value, bool)
    or not isinstance(value, int | np.integer)
    or value < least
  ):
    raise ConfigError(
      f'data.kw.{key}={value!r}: an integer of at least {least}'
    )
  return int(value)


def check_damage(
  group: str, kinds: tuple[str, ...], *, kind: str, rate: float, seed: int
) -> None:
  """Checks the three fields that label noise and abnormal images have.

  Args:
    group: ``'noise'`` or ``'abnormal'``.
    kinds: Known kinds.
    kind: One of them.
    rate: A number in [0, 1].
    seed: An integer of at least 0.

  Raises:
    ConfigError: One is something else.
  """
  if not isinstance(kind, str) or kind not in kinds:
    raise ConfigError(
      f'data.{group}.kind={kind!r}: known are {", ".join(kinds)}'
    )
  number = isinstance(rate, numbers.Real) and not isinstance(rate, bool)
  if not number or not 0 <= rate <= 1:
    raise ConfigError(f'data.{group}.rate={rate!r}: a number in [0, 1]')
  whole = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
  if not whole or seed < 0:
    raise ConfigError(f'data.{group}.seed={seed!r}: an integer of at least 0')
