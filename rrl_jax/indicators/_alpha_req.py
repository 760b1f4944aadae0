"""How fast the spectrum of features decays."""

import numpy as np
from numpy.typing import ArrayLike

from rrl_jax.errors import DataError
from rrl_jax.indicators import _checks


def alpha_req(
  features: ArrayLike, *, first: int = 4, last: int | None = None
) -> float:
  r"""The exponent of a power law of the covariance's eigenvalues.

  :math:`\lambda_j \propto j^{-\alpha}`: minus the least-squares slope of
  :math:`\log \lambda_j` on :math:`\log j`.

  Args:
    features: Float, shape ``[N, D]``.
    first: Index j from 1 of the first eigenvalue used; the largest few stray.
    last: Index of the last, included, or None for all that are more than
      rounding of the features' dtype.

  Returns:
    alpha; about 1 is reported to go with good features.

  Raises:
    DataError: NaN features, or fewer than two such eigenvalues.
    ValueError: ``first`` below 1.

  Example:
    >>> import numpy as np
    >>> from rrl_jax import indicators
    >>> rows = np.concatenate([np.eye(4), -np.eye(4)]) / np.arange(1, 5)
    >>> print(f'{indicators.alpha_req(rows, first=1):.3f}')
    2.000

  References:
    Agrawal et al., alpha-ReQ: Assessing Representation Quality in
    Self-Supervised Learning by measuring eigenspectrum decay, NeurIPS 2022.

  .. note::
    The range of indices is a choice here.
  """
  raw = _checks.features('features', features)
  z = raw.astype(np.float64)
  _checks.at_least('first', first, 1)
  singular = np.linalg.svd(z - z.mean(axis=0), compute_uv=False)
  eigenvalues = singular**2 / len(z)
  kept = eigenvalues[singular > _checks.rounding(raw)]
  stop = len(kept) if last is None else min(last, len(kept))
  if stop - first < 1:
    raise DataError(
      f'features has {len(kept)} directions, too few for a slope from the'
      f' eigenvalue number {first} on'
    )
  index = np.log(np.arange(first, stop + 1))
  index -= index.mean()
  slope = np.sum(index * np.log(kept[first - 1 : stop])) / np.sum(index**2)
  return -float(slope)
