"""Labels predicted from the classes of another classifier."""

import numpy as np
from numpy.typing import ArrayLike

from rrl_jax.indicators import _checks


def leep(probabilities: ArrayLike, labels: ArrayLike) -> float:
  r"""Mean log probability of labels given the source classifier's classes.

  With the source probabilities :math:`\theta(x)_z` and the joint
  :math:`P(y, z) = \frac1N \sum_i \theta(x_i)_z [y_i = y]`,

  .. math:: \frac1N \sum_i \log \sum_z P(y_i | z) \, \theta(x_i)_z.

  Args:
    probabilities: Softmax over the source classes, shape ``[N, K]``.
    labels: Target classes, integers, shape ``[N]``.

  Returns:
    At most 0; higher means that the source classes tell more.

  Raises:
    DataError: Rows that are no probabilities, or labels of another length.

  Example:
    >>> from rrl_jax import indicators
    >>> print(indicators.leep([[1.0, 0.0], [0.0, 1.0]], [1, 0]))
    0.0

  References:
    Nguyen et al., `LEEP <https://arxiv.org/abs/2002.12462>`_, 2020.
  """
  labels = _checks.integers('labels', labels)
  theta = _checks.probabilities('probabilities', probabilities, len(labels))
  labels = _checks.classes('labels', labels, least=1)
  joint = np.zeros((labels.max() + 1, theta.shape[1]))
  np.add.at(joint, labels, theta)
  totals = joint.sum(axis=0)
  conditional = joint / np.where(totals > 0, totals, 1)
  likelihood = np.einsum('nk,nk->n', conditional[labels], theta)
  return float(np.mean(np.log(likelihood)))
