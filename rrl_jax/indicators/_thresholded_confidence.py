"""Accuracy on shifted data by a threshold on the confidence."""

import numpy as np
from numpy.typing import ArrayLike

from rrl_jax.indicators import _checks


def average_thresholded_confidence(
  source_probabilities: ArrayLike,
  source_labels: ArrayLike,
  target_probabilities: ArrayLike,
  *,
  score: str = 'entropy',
) -> float:
  r"""Share of target examples whose score reaches a threshold (ATC).

  The threshold t is chosen on labelled data of the source so that as many of
  its examples score below t as are wrong. Scores are :math:`\max_c p_c` or
  :math:`\sum_c p_c \log p_c`.

  Args:
    source_probabilities: Softmax on held-out data, shape ``[N, K]``.
    source_labels: Their classes, integers, shape ``[N]``.
    target_probabilities: Softmax on the shifted data, shape ``[M, K]``.
    score: ``'entropy'`` (negative) or ``'confidence'``.

  Returns:
    Estimated accuracy on the shifted data, in [0, 1].

  Raises:
    DataError: Rows that are no probabilities, or labels of another length.
    ValueError: Another score.

  Example:
    >>> from rrl_jax import indicators
    >>> source = [[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]]
    >>> indicators.average_thresholded_confidence(
    ...     source, [0, 0, 1], [[0.7, 0.3], [0.95, 0.05]])
    0.5

  References:
    Garg et al., `Leveraging Unlabeled Data to Predict Out-of-Distribution
    Performance <https://arxiv.org/abs/2201.04234>`_, 2022.
  """
  labels = _checks.integers('source_labels', source_labels)
  source = _checks.probabilities(
    'source_probabilities', source_probabilities, len(labels)
  )
  target = _checks.probabilities('target_probabilities', target_probabilities)
  _checks.one_of('score', score, ('entropy', 'confidence'))
  scores = np.sort(_score(source, score))
  wrong = int(np.sum(source.argmax(axis=1) != labels))
  threshold = scores[wrong] if wrong < len(scores) else np.inf
  return float(np.mean(_score(target, score) >= threshold))


def _score(p, score):
  """Score of each row of probabilities."""
  if score == 'confidence':
    return p.max(axis=1)
  return np.sum(p * np.log(np.where(p > 0, p, 1)), axis=1)
