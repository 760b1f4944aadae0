"""Accuracy on shifted data by the loss of confidence."""

from numpy.typing import ArrayLike

from rrl_jax.indicators import _checks


def difference_of_confidences(
  source_probabilities: ArrayLike,
  source_labels: ArrayLike,
  target_probabilities: ArrayLike,
) -> float:
  r"""Source accuracy plus the change in mean confidence (DoC).

  .. math:: A_S + E_T[\max_c p_c] - E_S[\max_c p_c]

  Args:
    source_probabilities: Softmax on held-out data, shape ``[N, K]``.
    source_labels: Their classes, integers, shape ``[N]``.
    target_probabilities: Softmax on the shifted data, shape ``[M, K]``.

  Returns:
    Estimated accuracy on the shifted data, cut to [0, 1].

  Raises:
    DataError: Rows that are no probabilities, or labels of another length.

  Example:
    >>> from rrl_jax import indicators
    >>> estimate = indicators.difference_of_confidences(
    ...     [[0.9, 0.1], [0.9, 0.1]], [0, 0], [[0.7, 0.3]])
    >>> print(f'{estimate:.1f}')
    0.8

  References:
    Guillory et al., `Predicting with Confidence on Unseen Distributions
    <https://arxiv.org/abs/2107.03315>`_, 2021.
  """
  labels = _checks.integers('source_labels', source_labels)
  source = _checks.probabilities(
    'source_probabilities', source_probabilities, len(labels)
  )
  target = _checks.probabilities('target_probabilities', target_probabilities)
  accuracy = (source.argmax(axis=1) == labels).mean()
  change = target.max(axis=1).mean() - source.max(axis=1).mean()
  return float(min(max(accuracy + change, 0.0), 1.0))
