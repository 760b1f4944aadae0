"""Random images of any shape, for tests and compile checks."""

from collections.abc import Sequence

import numpy as np

from rrl_jax.data import source
from rrl_jax.errors import ConfigError


def load(
  *,
  num_examples: int = 512,
  num_test: int = 128,
  image_shape: Sequence[int] = (8, 8, 1),
  num_classes: int = 10,
  seed: int = 0,
) -> source.Splits:
  """Noise around one random image a class, so that there is something to learn.

  Args:
    num_examples: Training images; labels go round the classes.
    num_test: Test images.
    image_shape: Height, width, channels.
    num_classes: Number of classes.
    seed: Seeds class means and noise.

  Returns:
    uint8 images whose mean is half the class's image plus 64.

  Raises:
    ConfigError: A number that is not positive.
  """
  num_classes = source.whole('num_classes', num_classes, least=1)
  shape = _shape(image_shape)
  rng = np.random.default_rng(seed)
  means = rng.integers(0, 128, (num_classes, *shape), np.uint8)

  def split(n: int) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.permutation(np.arange(n) % num_classes)
    noise = rng.integers(0, 128, (n, *shape), np.uint8)
    return means[labels] + noise, labels

  return source.make_splits(
    split(source.whole('num_examples', num_examples, least=1)),
    split(source.whole('num_test', num_test, least=1)),
    where=('mock train', 'mock test'),
    num_classes=num_classes,
  )


def declare(
  *,
  num_examples: int = 512,
  num_test: int = 128,
  image_shape: Sequence[int] = (8, 8, 1),
  num_classes: int = 10,
) -> source.Splits:
  """The same shapes and classes with black images, which take no memory."""
  num_classes = source.whole('num_classes', num_classes, least=1)
  shape = _shape(image_shape)

  def split(field: str, num: int) -> tuple[source.Images, np.ndarray]:
    num = source.whole(field, num, least=1)
    return source.blank(num, shape), np.arange(num) % num_classes

  return source.make_splits(
    split('num_examples', num_examples),
    split('num_test', num_test),
    where=('mock train', 'mock test'),
    num_classes=num_classes,
  )


def _shape(image_shape: Sequence[int]) -> tuple[int, ...]:
  """Height, width and channels, checked."""
  try:
    shape = tuple(image_shape)
  except TypeError:
    shape = ()
  if len(shape) != 3:
    raise ConfigError(
      f'data.kw.image_shape={image_shape!r}: height, width, channels'
    )
  return tuple(source.whole('image_shape', size, least=1) for size in shape)
