"""Evidence of labels under a Bayesian linear model on features."""

import numpy as np
from numpy.typing import ArrayLike

from rrl_jax.indicators import _checks


def log_me(features: ArrayLike, labels: ArrayLike) -> float:
  r"""Mean log evidence per example of one-hot labels, at its maximum.

  For each class y (0 or 1) with weights of prior precision a and noise of
  precision b,

  .. math::
    L = \tfrac D2 \ln a + \tfrac N2 \ln b
      - \tfrac12 \sum_j \ln(a + b \sigma_j^2)
      - \tfrac b2 \|y - F m\|^2 - \tfrac a2 \|m\|^2 - \tfrac N2 \ln 2\pi

  is maximised over a and b by the fixed point :math:`\gamma = \sum_j
  \sigma_j^2 / (\sigma_j^2 + a/b)`, :math:`a = \gamma / \|m\|^2`, :math:`b = (N
  - \gamma) / \|y - F m\|^2`; L / N is averaged over the classes.

  Args:
    features: Float, shape ``[N, D]``.
    labels: Classes, integers, shape ``[N]``.

  Returns:
    The score; higher means that a linear model explains the labels better.

  Raises:
    DataError: NaN features, labels of another length, or one class.

  Example:
    >>> from rrl_jax import indicators
    >>> good = indicators.log_me([[1.0], [0.9], [-1.0], [-0.9]], [0, 0, 1, 1])
    >>> bad = indicators.log_me([[1.0], [-0.9], [-1.0], [0.9]], [0, 0, 1, 1])
    >>> good > bad
    True

  References:
    You et al., `LogME: Practical Assessment of Pre-trained Models for Transfer
    Learning <https://arxiv.org/abs/2102.11005>`_, 2021, and the fixed
    point of its 2022 extension.

  .. note::
    The evidence is that of the last a and b, with m recomputed; directions
    without variance count in the sum where D > N.
  """
  z = _checks.features('features', features).astype(np.float64)
  labels = _checks.integers('labels', labels, len(z))
  labels = _checks.classes('labels', labels)
  left, singular, _ = np.linalg.svd(z, full_matrices=False)
  scores = [
    evidence(left, singular, z.shape[1], (labels == c).astype(np.float64))[0]
    for c in range(labels.max() + 1)
  ]
  return float(np.mean(scores) / len(z))


def evidence(
  left: np.ndarray, singular: np.ndarray, dim: int, y: np.ndarray
) -> tuple[float, float, float]:
  """Largest log evidence of one target, and its a and b.

  Args:
    left: Left singular vectors of the features, ``[N, R]``.
    singular: Singular values, ``[R]``.
    dim: D.
    y: Target, ``[N]``.
  """
  n, squares = len(y), singular**2
  x2 = (left.T @ y) ** 2
  outside = max(float(np.sum(y**2) - x2.sum()), 0.0)

  def moments(ratio):
    gamma = np.sum(squares / (squares + ratio))
    m2 = np.sum(squares * x2 / (squares + ratio) ** 2)
    residual = np.sum(x2 * (ratio / (squares + ratio)) ** 2) + outside
    return gamma, m2, residual

  a = b = 1.0
  for _ in range(11):
    ratio = a / b
    gamma, m2, residual = moments(ratio)
    a, b = gamma / (m2 + 1e-5), max(n - gamma, 1e-5) / (residual + 1e-5)
    a = max(a, 1e-12)
    if abs(a / b - ratio) <= 1e-3 * ratio:
      break
  _, m2, residual = moments(a / b)
  flat = dim - len(squares)
  log_determinant = np.sum(np.log(a + b * squares)) + flat * np.log(a)
  value = (
    dim * np.log(a)
    + n * np.log(b)
    - log_determinant
    - b * residual
    - a * m2
    - n * np.log(2 * np.pi)
  ) / 2
  return float(value), float(a), float(b)
