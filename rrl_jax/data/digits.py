"""The 1,797 real 8x8 digits that come with scikit-learn; nothing to fetch."""

import numpy as np

from rrl_jax.data import source


def load(*, seed: int = 0) -> source.Splits:
  """Digits, 10 classes, uint8 ``[N, 8, 8, 1]``.

  The set has no test split: a fifth of each class is held out.

  Args:
    seed: Which fifth.

  References:
    Alpaydin and Kaynak, `Optical Recognition of Handwritten Digits
    <https://doi.org/10.24432/C50P49>`_, 1998; the test part, as in
    ``sklearn.datasets.load_digits``.

  .. note::
    Gray values of 0 to 16 become ``round(255 x / 16)``.
  """
  from sklearn import datasets  # Slow to import, not needed by other sources.

  digits = datasets.load_digits()
  images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
  labels = digits.target
  train, test = source.holdout(labels, seed=seed, where='digits')
  return source.make_splits(
    (images[train], labels[train]),
    (images[test], labels[test]),
    where=('digits', 'digits'),
    class_names=[str(name) for name in digits.target_names],
  )
