"""Fashion-MNIST: 60,000 + 10,000 articles of clothing, 28x28, 10 classes."""

from pathlib import Path

import numpy as np

from rrl_jax.data import idx, source, tfds
from rrl_jax.errors import DataError

_DEBIAN = '/usr/share/datasets/fashion-mnist'
_NAMES = (
  'T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat',
  'Sandal', 'Shirt', 'Sneaker', 'Bag', 'Ankle boot',
)  # fmt: skip


def load(*, path: str = '', seed: int = 0) -> source.Splits:
  """Reads the published files, or a prepared tfds set.

  Looked for, in this order: ``path``, if given; where the Debian package
  ``dataset-fashion-mnist`` puts them; ``fashion_mnist`` among the prepared
  sets of tensorflow-datasets.

  Args:
    path: Folder of the four IDX files, gzipped or not; '' to look around.
    seed: Unused; the test split is given.

  Raises:
    DataError: Found nowhere, or damaged.

  References:
    Xiao et al., `Fashion-MNIST <https://arxiv.org/abs/1708.07747>`_, 2017.
  """
  if path or Path(_DEBIAN).is_dir():
    return idx.load(path=path or _DEBIAN, class_names=_NAMES, seed=seed)
  if tfds.find('fashion_mnist') is not None:
    return tfds.load(data_set='fashion_mnist', seed=seed)
  raise DataError(
    f'Fashion-MNIST is neither in {_DEBIAN} nor prepared in {tfds.folder()};'
    ' `apt-get install dataset-fashion-mnist` brings it,'
    ' or data.kw.path=FOLDER with its four IDX files'
  )


def declare(*, path: str = '') -> source.Splits:
  """Classes and shapes, without the files: all images are black."""
  del path
  images = lambda count: source.blank(count, (28, 28, 1))
  labels = lambda count: np.arange(count) % len(_NAMES)
  return source.make_splits(
    (images(60_000), labels(60_000)),
    (images(10_000), labels(10_000)),
    where=('declared train', 'declared test'),
    class_names=_NAMES,
  )
