"""Evidence of labels under a Bayesian linear model on features."""

import numpy as np
from numpy.typing import ArrayLike
import scipy.optimize

from rrl_jax.indicators import _checks

_LOG_RATIOS = (-40.0, 40.0)


def log_me(features: ArrayLike, labels: ArrayLike) -> float:
  r"""Mean log evidence per example of one-hot labels, at its maximum.

  For each class y (0 or 1) with weights of prior precision a and noise of
  precision b,

  .. math::
    L = \tfrac D2 \ln a + \tfrac N2 \ln b
      - \tfrac12 \sum_j \ln(a + b \sigma_j^2)
      - \tfrac b2 \|y - F m\|^2 - \tfrac a2 \|m\|^2 - \tfrac N2 \ln 2\pi

  is maximised over a and b: for a ratio r = a / b the best b is :math:`N /
  (\|y - F m\|^2 + r \|m\|^2)`, and r is searched for between :math:`e^{-40}`
  and :math:`e^{40}` of the largest :math:`\sigma^2`; L / N is averaged over the
  classes. A factor of the features changes nothing.

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
    Learning <https://arxiv.org/abs/2102.11005>`_, 2021.

  .. note::
    The authors' fixed point has guards of 1e-5 and stops after 11 steps, short
    of the maximum and depending on the scale of the features.
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
  n = len(y)
  x2 = (left.T @ y) ** 2
  outside = max(float(np.sum(y**2) - x2.sum()), 0.0)
  # In units of the largest one, so that a factor of the features is nothing.
  unit = singular[0] if singular[0] > 0 else 1.0
  squares = (singular / unit) ** 2

  def moments(log_ratio):
    ratio = np.exp(log_ratio)
    m2 = np.sum(squares * x2 / (squares + ratio) ** 2)
    residual = np.sum(x2 * (ratio / (squares + ratio)) ** 2) + outside
    return residual + ratio * m2

  def minus_evidence(log_ratio):
    """At the best b of a ratio a / b, which is n over the moments."""
    log_determinant = np.sum(np.log(squares + np.exp(log_ratio)))
    value = len(squares) * log_ratio - log_determinant
    value -= n * np.log(max(moments(log_ratio), 1e-300))
    return -(value + n * (np.log(n) - 1 - np.log(2 * np.pi))) / 2

  grid = np.linspace(*_LOG_RATIOS, 241)
  at = int(np.argmin([minus_evidence(x) for x in grid]))
  found = scipy.optimize.minimize_scalar(
    minus_evidence,
    bounds=(grid[max(at - 1, 0)], grid[min(at + 1, len(grid) - 1)]),
    method='bounded',
    options={'xatol': 1e-9},
  )
  b = n / max(moments(found.x), 1e-300)
  return -float(found.fun), float(np.exp(found.x) * b * unit**2), float(b)
