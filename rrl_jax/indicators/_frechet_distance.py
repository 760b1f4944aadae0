"""Distance of two sets of features as normal distributions."""

import numpy as np
from numpy.typing import ArrayLike

from rrl_jax.errors import DataError
from rrl_jax.indicators import _checks


def frechet_distance(features: ArrayLike, shifted: ArrayLike) -> float:
  r"""Squared Fréchet distance of the normals of equal moments.

  .. math::
    \|\mu_1 - \mu_2\|^2
    + \mathrm{tr}\big(S_1 + S_2 - 2 (S_1 S_2)^{1/2}\big)

  The last trace is the nuclear norm of the product of the two centred,
  scaled feature matrices, so that no root of a singular matrix is taken.

  Args:
    features: On the source, float, shape ``[N, D]``, N at least 2.
    shifted: On the shifted data, float, shape ``[M, D]``, M at least 2.

  Returns:
    At least 0, in squared units of the features. Covariances divide by N - 1.

  Raises:
    DataError: NaN features, other numbers of columns, or one row.

  Example:
    >>> from rrl_jax import indicators
    >>> rows = [[0.0], [2.0]]
    >>> print(f'{indicators.frechet_distance(rows, [[3.0], [5.0]]):.3f}')
    9.000

  References:
    Deng and Zheng, `Are Labels Always Necessary for Classifier Accuracy
    Evaluation? <https://arxiv.org/abs/2007.02915>`_, 2021; Dowson and Landau,
    The Fréchet distance between multivariate normal distributions, 1982.
  """
  first = _checks.features('features', features).astype(np.float64)
  second = _checks.features('shifted', shifted).astype(np.float64)
  if first.shape[1] != second.shape[1]:
    raise DataError(
      f'shifted has {second.shape[1]} columns, features has {first.shape[1]}'
    )
  for name, x in (('features', first), ('shifted', second)):
    if len(x) < 2:
      raise DataError(f'{name} has 1 row, two are needed for a covariance')
  gap = np.sum((first.mean(axis=0) - second.mean(axis=0)) ** 2)
  # With S = R^T R: tr (S1 S2)^(1/2) = sum of singular values of R1 R2^T.
  roots = [_root(x) for x in (first, second)]
  traces = sum(np.sum(root**2) for root in roots)
  common = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
  return float(max(gap + traces - 2 * common, 0.0))


def _root(x):
  """R with R^T R the covariance, at most D rows."""
  centred = (x - x.mean(axis=0)) / np.sqrt(len(x) - 1)
  return np.linalg.qr(centred, mode='r')
