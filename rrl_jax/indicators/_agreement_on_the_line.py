"""Accuracies on shifted data by how far models agree with each other."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
import scipy.special

from rrl_jax.errors import DataError
from rrl_jax.indicators import _checks


class AgreementOnTheLine(NamedTuple):
  """Estimates for M models.

  Attributes:
    simple: Accuracy of each on the shifted data by the line alone (ALine-S),
      float64 ``[M]``.
    pairwise: The same by the agreements of its pairs (ALine-D), ``[M]``.
    slope: Of the line, on the probit scale.
    bias: Of the line.
    correlation: Pearson's, of the pairs' agreements on the probit scale: where
      it is low, the estimates mean nothing.
    num_pairs: Pairs that the line is fitted to.
  """

  simple: np.ndarray
  pairwise: np.ndarray
  slope: float
  bias: float
  correlation: float
  num_pairs: int


def agreement_on_the_line(
  source_predictions: ArrayLike,
  source_labels: ArrayLike,
  target_predictions: ArrayLike,
  *,
  low: float = 0.05,
  high: float = 0.98,
) -> AgreementOnTheLine:
  r"""Carries the line of agreements over to accuracies.

  With probit :math:`\Phi^{-1}`, the pairs' agreements follow
  :math:`\Phi^{-1}(G_T) = a \Phi^{-1}(G_S) + b`, and accuracies the same line:
  ALine-S is :math:`\Phi(a \Phi^{-1}(A_S) + b)`. ALine-D solves by least squares

  .. math::
    \frac{w_i + w_j}{2} = \Phi^{-1}(G_T^{ij}) + a \Big( \frac{
    \Phi^{-1}(A_S^i) + \Phi^{-1}(A_S^j)}{2} - \Phi^{-1}(G_S^{ij}) \Big)

  and gives :math:`\Phi(w_i)`.

  Args:
    source_predictions: Of M models on labelled data, integers ``[M, N]``, M at
      least 3.
    source_labels: Shape ``[N]``.
    target_predictions: Of the models on the shifted data, ``[M, N']``.
    low: Pairs that agree less than this on either set are left out.
    high: Pairs that agree more than this are left out.

  Returns:
    `AgreementOnTheLine`.

  Raises:
    DataError: Shapes that do not fit, fewer than three models, or fewer than
      two pairs of different agreement to fit a line to.

  Example:
    >>> import numpy as np
    >>> from rrl_jax import indicators
    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(0, 2, size=500)
    >>> spoil = lambda p: np.where(rng.random(500) < p, 1 - y, y)
    >>> models = np.stack([spoil(p) for p in (0.1, 0.2, 0.3)])
    >>> same = indicators.agreement_on_the_line(models, y, models)
    >>> bool(np.allclose(same.simple, (models == y).mean(axis=1)))
    True

  References:
    Baek et al., `Agreement-on-the-Line: Predicting the Performance of Neural
    Networks under Distribution Shift <https://arxiv.org/abs/2206.13089>`_,
    2022.

  .. note::
    Shares of 0 and 1 count as half an example, so that their probits are
    finite.
  """
  source = _predictions('source_predictions', source_predictions)
  target = _predictions('target_predictions', target_predictions)
  labels = np.asarray(source_labels)
  labels = _checks.integers('source_labels', labels)
  if labels.shape != source.shape[1:]:
    raise DataError(
      f'source_labels has {len(labels)} entries, source_predictions has'
      f' {source.shape[1]} columns'
    )
  if len(source) != len(target) or len(source) < 3:
    raise DataError(
      f'source_predictions has {len(source)} models, target_predictions has'
      f' {len(target)}; both need the same, three at least'
    )
  i, j = np.triu_indices(len(source), 1)
  agree_source = np.mean(source[i] == source[j], axis=1)
  agree_target = np.mean(target[i] == target[j], axis=1)
  kept = np.minimum(agree_source, agree_target) >= low
  kept &= np.maximum(agree_source, agree_target) <= high
  i, j = i[kept], j[kept]
  x = _probit(agree_source[kept], source.shape[1])
  y = _probit(agree_target[kept], target.shape[1])
  if len(x) < 2 or np.ptp(x) < 1e-12:
    raise DataError(
      f'source_predictions has {len(x)} pairs of models with an agreement in'
      f' [{low}, {high}], too few for a line'
    )
  dx, dy = x - x.mean(), y - y.mean()
  slope = float(np.sum(dx * dy) / np.sum(dx**2))
  bias = float(y.mean() - slope * x.mean())
  spread = np.sqrt(np.sum(dx**2) * np.sum(dy**2))
  accuracy = _probit(np.mean(source == labels, axis=1), source.shape[1])
  rows = np.zeros((len(x), len(source)))
  index = np.arange(len(x))
  rows[index, i] = rows[index, j] = 0.5
  wanted = y + slope * ((accuracy[i] + accuracy[j]) / 2 - x)
  simple = slope * accuracy + bias
  # What the pairs leave open, as without an odd cycle of models, is the line's.
  solved = simple + np.linalg.lstsq(rows, wanted - rows @ simple, rcond=None)[0]
  return AgreementOnTheLine(
    simple=scipy.special.ndtr(simple),
    pairwise=scipy.special.ndtr(solved),
    slope=slope,
    bias=bias,
    correlation=float(np.sum(dx * dy) / spread) if spread > 0 else 0.0,
    num_pairs=len(x),
  )


def _predictions(name, x):
  """Checked predictions, integers [M, N]."""
  x = np.asarray(x)
  if x.ndim != 2 or 0 in x.shape or x.dtype.kind not in 'iu':
    raise DataError(
      f'{name} must be integers [models, examples], got {x.dtype} {x.shape}'
    )
  return x


def _probit(share, total):
  """Normal quantile of a share, kept half an example off 0 and 1."""
  return scipy.special.ndtri(np.clip(share, 0.5 / total, 1 - 0.5 / total))
