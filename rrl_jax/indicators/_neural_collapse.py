"""Four measures of how far features have collapsed to class means."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rrl_jax.errors import DataError
from rrl_jax.indicators import _checks


class NeuralCollapse(NamedTuple):
  """All are 0 at full collapse.

  Attributes:
    within: NC1, variability within classes.
    equinorm: NC2, relative deviation of the means' lengths.
    equiangular: NC2, mean deviation of their cosines from -1 / (C - 1).
    self_dual: NC3, distance of the classifier from the means, or None.
    nearest_mean: NC4, share of predictions that the nearest mean does not
      make, or None.
  """

  within: float
  equinorm: float
  equiangular: float
  self_dual: float | None
  nearest_mean: float | None


def neural_collapse(
  features: ArrayLike,
  labels: ArrayLike,
  *,
  weights: ArrayLike | None = None,
  predictions: ArrayLike | None = None,
) -> NeuralCollapse:
  r"""NC1 to NC4 of features and, where given, of the classifier.

  With class means :math:`\mu_c`, their mean :math:`\mu_G`, the centred means
  M, the covariances within, :math:`S_W = \frac1N \sum_i (z_i - \mu_{y_i})
  (\cdot)^\top`, and between, :math:`S_B = \frac1C M M^\top`:

  .. math::
    \mathrm{NC1} = \mathrm{tr}(S_W S_B^+), \qquad
    \mathrm{NC2} = \frac{\mathrm{std} \|M_c\|}{\mathrm{mean} \|M_c\|}, \quad
    \mathrm{mean}_{c \ne c'} |\cos(M_c, M_{c'}) + \tfrac{1}{C-1}|, \qquad
    \mathrm{NC3} = \|W / \|W\|_F - M / \|M\|_F\|_F^2,

  NC4 the share of rows whose nearest :math:`\mu_c` is not the prediction.

  Args:
    features: Float, shape ``[N, D]``.
    labels: Classes, integers, shape ``[N]``.
    weights: Of the linear classifier, shape ``[D, C]``, columns in the order
      of the classes that occur, or None.
    predictions: Of the network, integers, shape ``[N]``, or None.

  Returns:
    `NeuralCollapse`.

  Raises:
    DataError: Input that does not fit, one class, or equal class means.

  Example:
    >>> from rrl_jax import indicators
    >>> rows = [[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]]
    >>> indicators.neural_collapse(rows, [0, 0, 1, 1])[:3]
    (0.0, 0.0, 0.0)

  References:
    Papyan, Han and Donoho, `Prevalence of neural collapse during the terminal
    phase of deep learning training <https://arxiv.org/abs/2008.08186>`_, 2020.

  .. note::
    NC1 is not divided by C, as in the authors' notebook; :math:`\mu_G` is the
    mean of the class means, which is the mean of all rows for balanced classes.
  """
  given = _checks.features('features', features)
  z = given.astype(np.float64)
  raw = _checks.integers('labels', labels, len(z))
  y = _checks.classes('labels', raw)
  names = np.unique(raw)
  sizes = np.bincount(y)
  means = np.zeros((len(sizes), z.shape[1]))
  np.add.at(means, y, z)
  means /= sizes[:, None]
  centred = means - means.mean(axis=0)
  lengths = np.linalg.norm(centred, axis=1)
  least = _checks.rounding(means.astype(given.dtype))
  if not lengths.min() > least:
    raise DataError(
      'features has a class whose mean is the mean of all classes, so that it'
      ' has no direction'
    )
  rest = z - means[y]
  # tr(S_W S_B^+) by the singular vectors of the means, without D x D.
  _, singular, directions = np.linalg.svd(
    centred / np.sqrt(len(sizes)), full_matrices=False
  )
  kept = singular > least / np.sqrt(len(sizes))
  projected = rest @ directions[kept].T / singular[kept]
  unit = centred / lengths[:, None]
  off = ~np.eye(len(sizes), dtype=bool)
  cosines = (unit @ unit.T)[off]
  self_dual = nearest_mean = None
  if weights is not None:
    w = _checks.features('weights', weights).astype(np.float64)
    if w.shape != centred.T.shape:
      raise DataError(
        f'weights has shape {w.shape}, {centred.T.shape} is needed'
      )
    norm = np.linalg.norm(w)
    if not norm > 0:
      raise DataError('weights is zero')
    gap = w / norm - centred.T / np.linalg.norm(centred)
    self_dual = float(np.sum(gap**2))
  if predictions is not None:
    predictions = _checks.integers('predictions', predictions, len(z))
    scores = z @ means.T - np.sum(means**2, axis=1) / 2
    nearest_mean = float(np.mean(names[scores.argmax(axis=1)] != predictions))
  return NeuralCollapse(
    within=float(np.sum(projected**2) / len(z)),
    equinorm=float(lengths.std() / lengths.mean()),
    equiangular=float(np.mean(np.abs(cosines + 1 / (len(sizes) - 1)))),
    self_dual=self_dual,
    nearest_mean=nearest_mean,
  )
