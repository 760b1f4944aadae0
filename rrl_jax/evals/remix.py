"""Concept-level shift: accuracy had the concepts come in another mix.

Accuracy under any mix q of concepts is the sum of q_k a_k with a_k the
accuracy on concept k, so no image is drawn again: the counts of each concept
give it exactly, with an interval.
"""

from collections.abc import Iterator

import jax
import numpy as np
from numpy.typing import ArrayLike

from rrl_jax.evals import accuracy, measurement, rules
from rrl_jax.evals.encoder import Encoder
from rrl_jax.evals.measurement import Measurement
from rrl_jax.evals.task import EvalData

RULES = {'total_variation': (lambda v: 0 <= v <= 1, 'in [0, 1]')}


def evaluate(
  encoder: Encoder,
  data: EvalData,
  *,
  key: jax.Array,
  total_variation: float = 0.25,
) -> Iterator[tuple[str, Measurement]]:
  """Accuracy under other mixes of the concepts.

  Concepts without a test example are left out of every mix, which is then
  scaled to sum 1.

  Args:
    encoder: What is evaluated.
    data: ``train`` gives the mix that was trained on, ``test`` the accuracies.
    key: Not used: nothing is drawn.
    total_variation: Radius of the ball of mixes around the training mix, in
      [0, 1]: the share of examples that may change their concept.

  Yields:
    ``test/train_mix_accuracy``, ``test/balanced_concept_accuracy``,
    ``test/reversed_mix_accuracy`` and ``test/worst_mix_accuracy``.

  Raises:
    ConfigError: ``total_variation`` is out of range.
  """
  del key
  rules.check('remix', RULES, {'total_variation': total_variation})
  correct, total = accuracy.concept_counts(encoder, data.test)
  there = total > 0
  correct, total = correct[there], total[there]
  train_counts = np.asarray(data.train.concept_counts)[there]
  train_mix = train_counts / max(train_counts.sum(), 1)
  yield (
    'test/train_mix_accuracy',
    measurement.weighted_mean(
      correct, total, train_mix, 'test concepts weighted as in training, exact'
    ),
  )
  uniform = np.full(len(total), 1 / len(total))
  yield (
    'test/balanced_concept_accuracy',
    measurement.weighted_mean(
      correct, total, uniform, 'test concepts weighted equally, exact'
    ),
  )
  yield (
    'test/reversed_mix_accuracy',
    measurement.weighted_mean(
      correct,
      total,
      reversed_mix(train_mix),
      'test concepts weighted by the reversed training mix (the rarest '
      "training concept gets the commonest one's share), exact",
    ),
  )
  low, high = measurement.simultaneous_intervals(correct, total)
  values = [
    float(worst_mix(a, train_mix, total_variation) @ a)
    for a in (correct / total, low, high)
  ]
  yield (
    'test/worst_mix_accuracy',
    Measurement(
      *values,
      'Test concepts in the worst mix within total variation '
      f'{total_variation:g} of the training mix, exact; n={int(total.sum())} '
      f'in {len(total)} concepts, 95% simultaneous (Bonferroni) '
      'Clopper-Pearson interval.',
    ),
  )


def reversed_mix(mix: ArrayLike) -> np.ndarray:
  """Hands the largest share to the smallest concept, and so on.

  Concepts of equal share get the mean of the shares due to them, so the
  result does not depend on the concepts' order.

  Args:
    mix: Shares, shape ``[K]``, sum 1.

  Returns:
    Shares, shape ``[K]``, sum 1.

  Example:
    >>> reversed_mix([0.5, 0.25, 0.25]).tolist()
    [0.25, 0.375, 0.375]
  """
  mix = np.asarray(mix, np.float64)
  due = np.empty_like(mix)
  due[np.argsort(mix, kind='stable')] = np.sort(mix)[::-1]
  return np.array([due[mix == share].mean() for share in mix])


def worst_mix(
  accuracies: ArrayLike, mix: ArrayLike, total_variation: float
) -> np.ndarray:
  """Mix of least accuracy in a total-variation ball, in closed form.

  All mass that may move goes to the concept of least accuracy, taken from the
  most accurate concepts first.

  Args:
    accuracies: Of each concept, shape ``[K]``.
    mix: Centre of the ball, shape ``[K]``, sum 1.
    total_variation: Its radius, half the L1 distance, in [0, 1].

  Returns:
    The mix, shape ``[K]``.
  """
  accuracies, mix = np.asarray(accuracies), np.array(mix, np.float64)
  worst = int(np.argmin(accuracies))
  left = float(total_variation)
  moved = 0.0
  for k in np.argsort(-accuracies, kind='stable'):
    if k != worst:
      taken = min(left, mix[k])
      mix[k] -= taken
      left -= taken
      moved += taken
  mix[worst] += moved
  return mix
