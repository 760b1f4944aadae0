"""Images that belong to no class, under labels of the classes.

Robust training should give up on them: no label is right. They replace some of
the training images, whichever way those are stored, and their `Truth` says so:

>>> from rrl_jax.data import abnormal, digits
>>> train = abnormal.add(digits.load().train, kind='noise', rate=0.1, seed=0)
>>> int(train.truth.abnormal.sum()) == round(0.1 * len(train))
True
"""

import dataclasses

import numpy as np

from rrl_jax.data.source import (
  Images,
  LazyImages,
  Source,
  Truth,
  check_damage,
  known_truth,
  take_images,
)  # fmt: skip
from rrl_jax.errors import ConfigError

KINDS = ('none', 'noise', 'blend', 'source')
_CHUNK = 1024  # Images put in place at once.
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601.


def add(
  train: Source,
  *,
  kind: str,
  rate: float,
  seed: int,
  other: Source | None = None,
) -> Source:
  """Replaces some training images by images of no class.

  ``round(rate * N)`` examples, chosen by ``seed`` alone, get one of:

  * ``noise``: every value of every pixel uniform and independent, over 0 to 255
    or, of floats, [0, 1);
  * ``blend``: the mean of two training images of two different classes, neither
    of them the given label where there are three classes or more; of uint8
    images rounded half up;
  * ``source``: an image of ``other``, which should show other things than the
    classes; none comes twice before all came once. Gray images get equal
    colours, coloured ones become luminance (BT.601), other sizes are resized
    (bilinear, with antialiasing), uint8 and floats turned into each other.

  An example keeps its label and its concept, but for ``source``: there the
  label is drawn anew, uniformly over the classes that have an example, with the
  concept, fine label and group of a random example of that class.

  Args:
    train: Training examples, after classes are selected and thinned.
    kind: One of `KINDS`; ``'none'`` returns ``train`` as it is.
    rate: Share of the examples to replace, in [0, 1].
    seed: Which ones, and by what. A smaller rate replaces a subset of what a
      larger one replaces, by the same images.
    other: Where ``source`` takes images from.

  Returns:
    As many examples, lazy if they were, and the truth beside them. The label
    noise of a replaced example, if it had any, is forgotten.

  Raises:
    ConfigError: A value out of range, no ``other`` or an empty one, fewer than
      two classes to blend, channels that do not turn into each other.

  References:
    Wang et al., `Emphasis Regularisation by Gradient Rescaling
    <https://arxiv.org/abs/1905.11233>`_, 2019 (semantically abnormal examples;
    they had those of a natural set, so the kinds are ours); Wang et al.,
    `Iterative Learning with Open-set Noisy Labels
    <https://arxiv.org/abs/1804.00092>`_, 2018 (``source``).
  """
  check(kind=kind, rate=rate, seed=seed)
  if kind == 'none':
    return train
  truth = known_truth(train)
  if kind == 'source' and (other is None or not len(other)):
    raise ConfigError(
      "data.abnormal.kind='source': there is no other source to take from"
    )
  rng = np.random.default_rng((seed, 0xAB40))  # Apart from other uses of seed.
  order = rng.random(len(train)).argsort(kind='stable')
  order = order[~truth.abnormal[order]]
  chosen = order[: round(rate * len(train))]
  labels, concepts = train.labels.copy(), train.concepts.copy()
  others = {}  # What else goes with the label, where it is redrawn.
  if kind == 'noise':
    images = _Noise((len(chosen), *train.image_shape), train.images.dtype, seed)
  elif kind == 'blend':
    first, second = _pairs(train.labels, chosen, rng)
    images = _Blend(
      take_images(train.images, first), take_images(train.images, second)
    )
  else:
    _check_channels(other.image_shape[-1], train.image_shape[-1])
    donors = _donors(train.labels, len(train), rng)[: len(chosen)]
    labels[chosen], concepts[chosen] = train.labels[donors], concepts[donors]
    for field in ('fine_labels', 'groups'):
      ids = getattr(train, field)
      if ids is not None:
        others[field] = ids.copy()
        others[field][chosen] = ids[donors]
    shuffled = rng.random(len(other)).argsort(kind='stable')
    images = _Converted(
      take_images(other.images, np.resize(shuffled, len(chosen))),
      (len(chosen), *train.image_shape),
      train.images.dtype,
    )
  slots = np.full(len(train), -1)
  slots[chosen] = np.arange(len(chosen))
  is_abnormal = truth.abnormal | (slots >= 0)
  return dataclasses.replace(
    train,
    images=_replace(train.images, slots, images),
    labels=labels,
    concepts=concepts,
    truth=Truth(
      np.where(is_abnormal, labels, truth.labels),
      truth.flipped & ~is_abnormal,
      is_abnormal,
    ),
    **others,
  )


def check(*, kind: str, rate: float, seed: int) -> None:
  """Checks what can be checked without the data.

  Args:
    kind: As for `add`, as are the others.
    rate: A number.
    seed: An integer.

  Raises:
    ConfigError: A value out of range.
  """
  check_damage('abnormal', KINDS, kind=kind, rate=rate, seed=seed)


def describe(source: Source, kind: str) -> str:
  """How many of the images are of no class, for the protocol.

  Args:
    source: What `add` returned.
    kind: The kind it was asked for.
  """
  if kind == 'none' or source.truth is None:
    return 'no abnormal images'
  count = int(source.truth.abnormal.sum())
  what = {
    'noise': 'uniform noise under the label that was there',
    'blend': 'the mean of two images of other classes',
    'source': 'an image of another source under a uniformly drawn label',
  }[kind]
  return f'{count} of {len(source)} training images replaced by {what}'


def _pairs(
  labels: np.ndarray, chosen: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
  """Examples [n], [n] of two classes to blend for each of the chosen [n]."""
  classes, counts = np.unique(labels, return_counts=True)
  num = len(classes)
  if num < 2:
    raise ConfigError(
      "data.abnormal.kind='blend': fewer than two classes have an example"
    )
  draws = rng.random((len(labels), 4))[: len(chosen)]
  given = np.searchsorted(classes, labels[chosen])
  # Classes counted round from the given one, without it if two others remain.
  others = num - 1 if num > 2 else num
  first = (draws[:, 0] * others).astype(np.int64)
  second = (draws[:, 1] * (others - 1)).astype(np.int64)
  second += second >= first
  members = labels.argsort(kind='stable')
  starts = np.cumsum(counts) - counts

  def example(offsets: np.ndarray, draws: np.ndarray) -> np.ndarray:
    group = (given + offsets + num - others) % num
    return members[starts[group] + (draws * counts[group]).astype(np.int64)]

  return example(first, draws[:, 2]), example(second, draws[:, 3])


def _donors(labels: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
  """Examples [n], each random among those of a random class that has any."""
  classes, counts = np.unique(labels, return_counts=True)
  draws = rng.random((n, 2))
  group = (draws[:, 0] * len(classes)).astype(np.int64)
  members = labels.argsort(kind='stable')
  offsets = (draws[:, 1] * counts[group]).astype(np.int64)
  return members[np.cumsum(counts)[group] - counts[group] + offsets]


def _replace(images: Images, slots: np.ndarray, substitutes: Images) -> Images:
  """Images, in memory if they were, with substitutes [M] in their slots [N]."""
  if not isinstance(images, np.ndarray):
    return _Replaced(images, slots, substitutes)
  replaced = images.copy()
  rows = np.flatnonzero(slots >= 0)
  for i in range(0, len(rows), _CHUNK):
    now = rows[i : i + _CHUNK]
    replaced[now] = substitutes[slots[now]]
  return replaced


@dataclasses.dataclass(frozen=True, eq=False)
class _Replaced(LazyImages):
  """Lazy images, some of them replaced."""

  images: Images
  slots: np.ndarray  # Position among the substitutes, -1 for none.
  substitutes: Images

  @property
  def shape(self) -> tuple[int, ...]:
    return tuple(self.images.shape)

  @property
  def dtype(self) -> np.dtype:
    return self.images.dtype

  def read(self, indices: np.ndarray) -> np.ndarray:
    slots = self.slots[indices]
    found = np.empty((len(indices), *self.shape[1:]), self.dtype)
    for here, images, rows in (
      (slots < 0, self.images, indices),
      (slots >= 0, self.substitutes, slots),
    ):
      if here.any():
        found[here] = images[rows[here]]
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class _Noise(LazyImages):
  """Uniform noise, each image by a seed of its own."""

  shape: tuple[int, ...]
  dtype: np.dtype
  seed: int

  def read(self, indices: np.ndarray) -> np.ndarray:
    found = np.empty((len(indices), *self.shape[1:]), self.dtype)
    for row, index in enumerate(indices):
      rng = np.random.default_rng((self.seed, 0x4015E, int(index)))
      values = rng.random(self.shape[1:], np.float32)
      found[row] = values * 256 if self.dtype == np.uint8 else values
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class _Blend(LazyImages):
  """The means of pairs of images."""

  first: Images
  second: Images

  @property
  def shape(self) -> tuple[int, ...]:
    return tuple(self.first.shape)

  @property
  def dtype(self) -> np.dtype:
    return self.first.dtype

  def read(self, indices: np.ndarray) -> np.ndarray:
    first, second = self.first[indices], self.second[indices]
    if self.dtype == np.uint8:
      return ((first.astype(np.uint16) + second + 1) // 2).astype(np.uint8)
    return (first + second) / 2


@dataclasses.dataclass(frozen=True, eq=False)
class _Converted(LazyImages):
  """Images of one source in the form of another's."""

  images: Images
  shape: tuple[int, ...]
  dtype: np.dtype

  def read(self, indices: np.ndarray) -> np.ndarray:
    images = self.images[indices]
    images = _channels(images, self.shape[3])
    images = _resize(images, self.shape[1], self.shape[2])
    if images.dtype == self.dtype:
      return images
    if self.dtype == np.uint8:
      return _round(images * 255)
    return images.astype(np.float32) / np.float32(255)


def _check_channels(given: int, wanted: int) -> None:
  if given != wanted and not {given, wanted} <= {1, 3, 4}:
    raise ConfigError(
      f"data.abnormal.kind='source': images of {given} channels do not turn"
      f' into images of {wanted}'
    )


def _channels(images: np.ndarray, wanted: int) -> np.ndarray:
  """Images [n,H,W,C] as gray (1), colours (3), or these and opaque (4)."""
  given = images.shape[-1]
  if given == wanted:
    return images
  if wanted == 1:
    gray = images[..., :3].astype(np.float32) @ _LUMINANCE
    gray = gray[..., None]
    return _round(gray) if images.dtype == np.uint8 else np.clip(gray, 0, 1)
  colours = np.repeat(images, 3, axis=-1) if given == 1 else images[..., :3]
  if wanted == 3:
    return colours
  opaque = np.full_like(
    colours[..., :1], 255 if images.dtype == np.uint8 else 1
  )
  return np.concatenate([colours, opaque], axis=-1)


def _resize(images: np.ndarray, height: int, width: int) -> np.ndarray:
  """Images [n,H,W,C] in another size, by Pillow, channel by channel."""
  if images.shape[1:3] == (height, width):
    return images
  from PIL import Image

  found = np.empty((len(images), height, width, images.shape[3]), images.dtype)
  for i in np.ndindex(len(images), images.shape[3]):
    channel = np.ascontiguousarray(images[i[0], ..., i[1]])
    resized = Image.fromarray(channel).resize(
      (width, height), Image.Resampling.BILINEAR
    )
    found[i[0], ..., i[1]] = np.asarray(resized)
  return found if found.dtype == np.uint8 else np.clip(found, 0, 1)


def _round(values: np.ndarray) -> np.ndarray:
  return np.clip(np.round(values), 0, 255).astype(np.uint8)
