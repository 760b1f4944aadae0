"""Groups by which a classifier is judged, and shortcuts planted to part them.

A spurious attribute goes with the class in most of the training split and with
none in the test split: a network that reads it instead of the object fails on
the groups, pairs of a class and an attribute, that are rare in training. The
attribute is planted here into any images, or the source brings it:

>>> from rrl_jax import data
>>> groups = {'kind': 'patch', 'strength': 0.9}
>>> train, test = data.load('digits', coarse='source', groups=groups)
>>> train.group_names
('0-4:patch_0', '0-4:patch_1', '5-9:patch_0', '5-9:patch_1')
>>> [round(float(n) / len(train), 2) for n in train.group_counts]
[0.45, 0.05, 0.05, 0.45]
"""

import colorsys
import dataclasses
import numbers

import numpy as np

from rrl_jax.data import npz
from rrl_jax.data.source import (
  Images,
  LazyImages,
  Source,
  Splits,
  known_truth,
)  # fmt: skip
from rrl_jax.errors import ConfigError, DataError

PLANTED = {'patch': 'patch', 'colour': 'hue', 'background': 'level'}
KINDS = ('none', *PLANTED, 'attribute', 'fine')
_CHUNK = 1024  # Images planted at once.
_DARK = 0.1  # Pixels with a smaller mean over channels are background.
_BRIGHTEST = 0.5  # Level of the brightest background.


def apply(
  splits: Splits,
  *,
  kind: str,
  strength: float = 0.95,
  test_strength: float | None = None,
  num_attributes: int | None = None,
  seed: int = 0,
) -> Splits:
  """Gives both splits groups, and to their images what tells them apart.

  * ``patch``: a white square with a side of an eighth of the image, at least
    two pixels, at one of the places of a square grid that reaches the borders;
  * ``colour``: a tint, :math:`x (1 + c) / 2` of each channel with c the pure
    colour of one of A equally spaced hues; gray images become RGB;
  * ``background``: dark pixels, whose channels have a mean below 0.1, take one
    of A levels, equally spaced from 0 to 0.5;
  * ``attribute``: what the source brings (tfds, folder); images stay;
  * ``fine``: groups are the fine classes of a coarse map; images stay.

  Of a planted kind each class has an attribute of its own, as far as they go
  round, by ``seed``. In training, ``round(strength * n)`` of a class's n images
  have it and the others are spread evenly over the other attributes. In the
  test split attributes are spread evenly over every class, the same way for any
  seed, or as ``test_strength`` says.

  Args:
    splits: Both splits; groups that they have are the attributes of the source.
    kind: One of `KINDS`; with ``'none'``, groups that they have go.
    strength: Share of each class's training images that have its attribute, in
      [0, 1]; of planted kinds, as are the next three.
    test_strength: The same of the test split; None for independence.
    num_attributes: Their number A, at least 2; None for that of the classes.
    seed: Which class has which attribute, which images have another.

  Returns:
    The splits; group ids are ``class * A + attribute``, the class being the
    true one, and names ``<class>:<attribute>``. A group may be empty.

  Raises:
    ConfigError: A value out of range; images that do not take the attribute; no
      attributes or fine classes to make groups of.
  """
  check(
    kind=kind,
    strength=strength,
    test_strength=test_strength,
    num_attributes=num_attributes,
    seed=seed,
  )
  if kind == 'none':
    return Splits(*(_without(split) for split in splits))
  if kind == 'fine':
    return Splits(*(_fine(split) for split in splits))
  if kind == 'attribute':
    if splits.train.groups is None:
      raise ConfigError(
        "data.groups.kind='attribute': the source brings none; of tfds and"
        ' folder data.kw.attribute_key says what it is'
      )
    return Splits(
      *(_pairs(split, split.groups, split.group_names) for split in splits)
    )
  num_classes = splits.train.num_classes
  num = num_classes if num_attributes is None else num_attributes
  if num < 2:
    raise ConfigError(
      'data.groups.num_attributes: one class, so give at least 2'
    )
  plant = _planter(kind, num, splits.train.image_shape)
  order = np.random.default_rng((seed, 0x6709, 2)).permutation(num_classes)
  own = np.empty(num_classes, np.int64)
  own[order] = np.arange(num_classes) % num
  names = tuple(f'{PLANTED[kind]}_{k}' for k in range(num))

  def make(split: Source, share: float | None, seeds) -> Source:
    rng = np.random.default_rng(seeds)
    labels = known_truth(split).labels
    attributes = np.empty(len(split), np.int64)
    for label in range(num_classes):
      members = rng.permutation(np.flatnonzero(labels == label))
      attributes[members] = _spread(len(members), num, own[label], share, rng)
    split = dataclasses.replace(
      split, images=_planted(split.images, attributes, plant)
    )
    return _pairs(split, attributes, names)

  return Splits(
    make(splits.train, strength, (seed, 0x6709, 0)),
    make(
      splits.test,
      test_strength,
      (0x6709, 1) if test_strength is None else (seed, 0x6709, 1),
    ),
  )


def check(
  *,
  kind: str,
  strength: float,
  test_strength: float | None,
  num_attributes: int | None,
  seed: int,
) -> None:
  """Checks what can be checked without the data.

  Args:
    kind: As for `apply`, as are the others.
    strength: A number.
    test_strength: A number or None.
    num_attributes: An integer or None.
    seed: An integer.

  Raises:
    ConfigError: A value out of range.
  """
  if not isinstance(kind, str) or kind not in KINDS:
    raise ConfigError(
      f'data.groups.kind={kind!r}: known are {", ".join(KINDS)}'
    )
  for name, share in (('strength', strength), ('test_strength', test_strength)):
    number = isinstance(share, numbers.Real) and not isinstance(share, bool)
    if share is None and name == 'test_strength':
      continue
    if not number or not 0 <= share <= 1:
      raise ConfigError(f'data.groups.{name}={share!r}: a number in [0, 1]')
  for name, number, least in (
    ('num_attributes', 2 if num_attributes is None else num_attributes, 2),
    ('seed', seed, 0),
  ):
    whole = isinstance(number, int | np.integer)
    if not whole or isinstance(number, bool) or number < least:
      raise ConfigError(
        f'data.groups.{name}={number!r}: an integer of at least {least}'
      )


def with_inferred(train: Source, path: str) -> Source:
  """The training split with groups that an earlier run inferred.

  Batches hold these; evaluations go on judging by the true ones.

  Args:
    train: Training examples, as that run had them, in the same order.
    path: The run's ``figures.npz``, written by the evaluator ``infer_groups``.

  Raises:
    DataError: The file cannot be read, holds none, or those of other data.
  """
  arrays = npz.read(path)
  names = [f'figure/inferred_{part}' for part in ('groups', 'labels', 'names')]
  for name in names:
    if name not in arrays:
      raise DataError(
        f'{path} has no array {name!r}; a run with evals.infer_groups writes it'
      )
  ids, labels, group_names = (arrays[name] for name in names)
  if not np.array_equal(labels, train.labels):
    raise DataError(
      f'{path}: its groups are of other training data ({len(labels)} labels'
      f' against {len(train)}, or in another order)'
    )
  if ids.shape != labels.shape or ids.dtype.kind not in 'iu':
    raise DataError(f'{path}: {names[0]!r} is no group for each example')
  return dataclasses.replace(
    train,
    inferred_groups=ids,
    inferred_names=tuple(str(name) for name in group_names),
  )


def by_group(splits: Splits) -> Splits:
  """The splits with their groups as concepts.

  Raises:
    ConfigError: There are none.
  """
  if splits.train.groups is None:
    raise ConfigError(
      "data.concepts='group': there are no groups; data.groups.kind asks for"
      f' them: {", ".join(KINDS[1:])}'
    )
  return Splits(
    *(
      dataclasses.replace(
        split, concepts=split.groups, concept_names=split.group_names
      )
      for split in splits
    )
  )


def _without(split: Source) -> Source:
  if split.groups is None:
    return split
  return dataclasses.replace(split, groups=None, group_names=None)


def _fine(split: Source) -> Source:
  if split.fine_labels is None:
    raise ConfigError(
      "data.groups.kind='fine': there are no coarse labels; data.coarse asks"
      ' for them'
    )
  return dataclasses.replace(
    split, groups=split.fine_labels, group_names=split.fine_names
  )


def _pairs(
  split: Source, attributes: np.ndarray, names: tuple[str, ...]
) -> Source:
  """The split with a group for each pair of a true class and an attribute."""
  return dataclasses.replace(
    split,
    groups=known_truth(split).labels * len(names) + attributes,
    group_names=tuple(f'{c}:{a}' for c in split.class_names for a in names),
  )


def _spread(
  size: int, num: int, own: int, share: float | None, rng: np.random.Generator
) -> np.ndarray:
  """Attributes [size]: ``share`` of them their own, the others evenly."""
  start = int(rng.integers(num * (num - 1)))  # Who is first where none fits.
  if share is None:
    return (start + np.arange(size)) % num
  count = round(share * size)
  others = (start + np.arange(size - count)) % (num - 1)
  return np.concatenate([np.full(count, own), (own + 1 + others) % num])


def _planter(kind: str, num: int, shape: tuple[int, int, int]):
  """``(images [n, H, W, C] in [0, 1], attributes [n]) -> images``."""
  if kind == 'patch':
    return _patch(num, shape)
  if kind == 'background':
    levels = np.linspace(0, _BRIGHTEST, num, dtype=np.float32)

    def background(images, attributes):
      dark = images.mean(axis=-1, keepdims=True) < _DARK
      return np.where(dark, levels[attributes][:, None, None, None], images)

    return background
  if shape[-1] not in (1, 3):
    raise ConfigError(
      f"data.groups.kind='colour': images of {shape[-1]} channels, not 1 or 3"
    )
  hues = [colorsys.hsv_to_rgb(k / num, 1, 1) for k in range(num)]
  factors = (1 + np.asarray(hues, np.float32)) / 2

  def colour(images, attributes):
    return images * factors[attributes][:, None, None]

  return colour


def _patch(num: int, shape: tuple[int, int, int]):
  """Plants a white square; its place says which attribute it is."""
  height, width, _ = shape
  side = max(round(min(height, width) / 8), 2)
  grid = int(np.ceil(np.sqrt(num)))
  if side * grid > min(height, width):
    raise ConfigError(
      f"data.groups.kind='patch': images of {height}x{width} have no room for"
      f' {num} places of {side}x{side}; data.groups.num_attributes asks for'
      ' fewer'
    )
  steps = np.arange(grid) / max(grid - 1, 1)
  tops, lefts = (
    np.round(steps * (height - side)).astype(int),
    np.round(steps * (width - side)).astype(int),
  )
  masks = np.zeros((num, height, width, 1), bool)
  for k in range(num):
    top, left = tops[k // grid], lefts[k % grid]
    masks[k, top : top + side, left : left + side] = True

  def patch(images, attributes):
    return np.where(masks[attributes], np.float32(1), images)

  return patch


def _planted(images: Images, attributes: np.ndarray, plant) -> Images:
  """Images with their attributes, in memory if they were."""
  probe = plant(np.zeros((1, *images.shape[1:]), np.float32), attributes[:1])
  lazy = _Planted(
    images, attributes, plant, (len(images), *probe.shape[1:]), images.dtype
  )
  if not isinstance(images, np.ndarray):
    return lazy
  found = np.empty(lazy.shape, lazy.dtype)
  for i in range(0, len(images), _CHUNK):
    rows = np.arange(i, min(i + _CHUNK, len(images)))
    found[rows] = lazy.read(rows)
  return found


@dataclasses.dataclass(frozen=True, eq=False)
class _Planted(LazyImages):
  """Images that get their attribute when they are read."""

  images: Images
  attributes: np.ndarray
  plant: object
  shape: tuple[int, ...]
  dtype: np.dtype

  def read(self, indices: np.ndarray) -> np.ndarray:
    images = self.images[indices]
    attributes = self.attributes[indices]
    if self.dtype != np.uint8:
      return self.plant(images, attributes).astype(self.dtype)
    found = self.plant(images.astype(np.float32) / 255, attributes)
    return np.round(found * 255).astype(np.uint8)
