"""How far the features of predicted classes lie apart."""

import numpy as np
from numpy.typing import ArrayLike

from rrl_jax.errors import DataError
from rrl_jax.indicators import _checks


def dispersion(features: ArrayLike, predictions: ArrayLike) -> float:
  r"""Log of the variance between the means of predicted classes.

  .. math:: \log \frac{1}{K - 1} \sum_k n_k \|\mu_k - \mu\|^2

  over the K classes that are predicted at all.

  Args:
    features: On the shifted data, float, shape ``[N, D]``, not normalised.
    predictions: Of the network, integers, shape ``[N]``.

  Returns:
    The score; higher means a higher accuracy. It grows with log N: compare sets
    of one size.

  Raises:
    DataError: NaN features, predictions of another length, one predicted class,
      or equal means.

  Example:
    >>> from rrl_jax import indicators
    >>> print(f'{indicators.dispersion([[0.0], [1.0]], [0, 1]):.3f}')
    -0.693

  References:
    Xie et al., `On the Importance of Feature Separability in Predicting
    Out-Of-Distribution Error <https://arxiv.org/abs/2303.15488>`_, 2023.
  """
  raw = _checks.features('features', features)
  z = raw.astype(np.float64)
  groups = _checks.integers('predictions', predictions, len(z))
  groups = _checks.classes('predictions', groups)
  sizes = np.bincount(groups)
  means = np.zeros((len(sizes), z.shape[1]))
  np.add.at(means, groups, z)
  means /= sizes[:, None]
  between = np.sum(sizes[:, None] * (means - z.mean(axis=0)) ** 2)
  if _checks.is_rounding(between, raw):
    raise DataError('features has the same mean in every predicted class')
  return float(np.log(between / (len(sizes) - 1)))
