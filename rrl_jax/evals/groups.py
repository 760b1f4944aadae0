"""Accuracy of each true group, of the worst, and of all together."""

from collections.abc import Iterator

import jax
import numpy as np

from rrl_jax.data.source import Source
from rrl_jax.errors import ConfigError
from rrl_jax.evals import accuracy, measurement
from rrl_jax.evals.encoder import Encoder
from rrl_jax.evals.measurement import Measurement
from rrl_jax.evals.task import EvalData, test_images

RULES = {}
SELECTED = 'selected by: no group label, it is the last step that is evaluated'
REQUIRES = ('groups', 'groups: set data.groups.kind')


def evaluate(
  encoder: Encoder, data: EvalData, *, key: jax.Array
) -> Iterator[tuple[str, Measurement | np.ndarray]]:
  """Counts right predictions in the true groups of the test split.

  A group without a test example has no accuracy: it is left out and the
  protocols name it; one without a training example is judged like the others
  and has no weight in the re-weighted mean. With ``data.validation`` the same
  holds for what is held out, from which a rare group may be missing.

  Groups only judge here, which the protocol says: the last step is what is
  evaluated, and nothing selects among steps. What may select settings without
  a group label is ``groups/inferred_worst_accuracy`` of `infer_groups`; a
  study that selects by something names it in ``study.select``.

  Args:
    encoder: What is evaluated.
    data: ``test``, with groups, and the sizes of those of ``train``.
    key: Unused; every evaluator takes it.

  Yields:
    ``groups/worst_accuracy``, with an interval that pays for having looked for
    the worst; ``groups/accuracy/<group>``; ``groups/average_accuracy`` of the
    test images as they are; ``groups/reweighted_accuracy``, groups weighing as
    in training; and the groups' names and sizes as figures.

  Raises:
    ConfigError: There are no groups.

  References:
    Sagawa et al., `Distributionally Robust Neural Networks for Group Shifts
    <https://arxiv.org/abs/1911.08731>`_, 2020 (the average accuracy re-weighted
    by training frequency, where the test split has another mix).
  """
  del key
  check('groups', data)
  right = accuracy.predictions(encoder, data.test) == data.test.labels
  yield from measure(
    right, data.test, data.train, f'{test_images(data.test)}, top-1'
  )
  yield 'figure/group_names', np.array(data.test.group_names)
  yield 'figure/group_train_counts', data.train.group_counts
  yield 'figure/group_test_counts', data.test.group_counts


def check(evaluator: str, data: EvalData) -> None:
  """Raises ConfigError where there are no groups.

  Args:
    evaluator: Who asks.
    data: What is evaluated on.
  """
  if data.train.groups is None or data.test.groups is None:
    raise ConfigError(f'evals.{evaluator} needs {REQUIRES[1]}')


def measure(
  right: np.ndarray,
  test: Source,
  train: Source,
  said: str,
  *,
  prefix: str = '',
  selected: str = SELECTED,
) -> Iterator[tuple[str, Measurement]]:
  """What `evaluate` yields, of any predictions.

  Args:
    right: Whether each test example is predicted right, bool ``[N]``.
    test: Test examples with groups.
    train: Training examples, for the sizes of their groups.
    said: What was predicted how, for the protocols.
    prefix: Goes before the names, after ``groups/``.
    selected: What group labels had to do with the choice of the classifier, for
      the protocol of the worst group.
  """
  names, total = test.group_names, test.group_counts
  correct = np.bincount(test.groups[right], minlength=len(names))
  there = np.flatnonzero(total)
  missing = [names[k] for k in np.flatnonzero(total == 0)]
  left_out = ''
  if missing:
    listed = ', '.join(missing[:10]) + (', ...' if missing[10:] else '')
    left_out = f', left out without a test example: {listed}'
  worst = there[np.argmin(correct[there] / total[there])]
  yield (
    f'groups/{prefix}worst_accuracy',
    measurement.minimum(
      correct[there],
      total[there],
      f'{said}, true group {names[worst]} with {int(total[worst])} test and'
      f' {int(train.group_counts[worst])} training images{left_out};'
      f' {selected}',
    ),
  )
  for k in there:
    yield (
      f'groups/{prefix}accuracy/{measurement.key_part(names[k])}',
      measurement.proportion(
        correct[k],
        total[k],
        f'{said}, true group {names[k]},'
        f' {int(train.group_counts[k])} training images',
      ),
    )
  yield (
    f'groups/{prefix}average_accuracy',
    measurement.proportion(
      correct.sum(), total.sum(), f'{said}, groups as common as in the test set'
    ),
  )
  counts = train.group_counts[there]
  if counts.sum():
    yield (
      f'groups/{prefix}reweighted_accuracy',
      measurement.weighted_mean(
        correct[there],
        total[there],
        counts / counts.sum(),
        f'{said}, groups as common as in training{left_out}',
      ),
    )
