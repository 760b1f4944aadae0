"""Which images a classifier has right before and after an attack."""

from collections.abc import Iterator
import dataclasses
from typing import NamedTuple

import jax
import numpy as np
import optax

from rrl_jax import attacks, typing
from rrl_jax.data import augment
from rrl_jax.data.source import Source
from rrl_jax.evals import auto_attack, measurement, pgd, rules
from rrl_jax.evals.encoder import Encoder
from rrl_jax.evals.measurement import Measurement
from rrl_jax.evals.prediction import predicted
from rrl_jax.evals.task import Task, choose_test

_OF_PGD = ('epsilon', 'step_size', 'norm', 'num_steps', 'num_examples')
RULES = {
  **{name: pgd.RULES[name] for name in _OF_PGD},
  'auto_attack_examples': rules.COUNT,
}


@dataclasses.dataclass(frozen=True, eq=False)
class PGD:
  """Projected gradient ascent, by default on the cross-entropy.

  Attributes:
    key: Of the random starts, which belong to an example, not to its batch.
    epsilon: Radius of the ball, in units of images in [0, 1].
    step_size: Of each step; None takes 2.5 epsilon / num_steps (Madry et al.,
      2018).
    num_steps: Gradient steps.
    norm: linf, l2 or l1.
  """

  key: jax.Array
  epsilon: float
  step_size: float | None
  num_steps: int
  norm: str

  def __str__(self) -> str:
    """The attack in words, for a protocol."""
    return (
      f'PGD, {self.norm} radius {self.epsilon:.6g} on images in [0, 1], '
      f'{self.num_steps} steps of {self._size:.6g}, one random start'
    )

  @property
  def _size(self):
    if self.step_size is None:
      return 2.5 * self.epsilon / self.num_steps
    return self.step_size

  @property
  def _settings(self):
    return {
      'epsilon': self.epsilon,
      'step_size': self._size,
      'num_steps': self.num_steps,
      'norm': self.norm,
    }

  def ascend(
    self,
    loss_fn: typing.LossFn,
    key: jax.Array,
    images: jax.Array,
    ids: jax.Array,
  ) -> jax.Array:
    """Attacked images; with a key of its own, as in training.

    Args:
      loss_fn: What is raised.
      key: Of the random starts.
      images: ``[B, H, W, C]`` in [0, 1].
      ids: Of the examples, ``[B]``.

    Returns:
      Images within the ball, ``[B, H, W, C]``.
    """
    return attacks.pgd(
      loss_fn,
      key,
      images,
      epsilon=self.epsilon,
      step_size=self._size,
      num_steps=self.num_steps,
      norm=self.norm,
      example_ids=ids,
    )

  def measure(
    self, classifier: Encoder, source: Source, ids: np.ndarray, on: str
  ) -> Measurement:
    """Accuracy on attacked images; networks of one shape share a program.

    Args:
      classifier: Gives the logits.
      source: Images to choose from.
      ids: Those that are attacked, ``[n]``; they key the random starts.
      on: What classifies which images, for the protocol.

    Returns:
      The share that is right before and after the attack.
    """
    attacked = classifier.remembered(
      'attacked', self._right(classifier.apply), self._settings, self.key
    )
    chosen = source.take(ids)
    (before, by_entropy), (_, by_margin) = (
      classifier.map_batches(
        attacked,
        chosen.images,
        chosen.labels,
        ids,
        np.full(len(ids), margin),
        batch_size=min(classifier.batch_size, len(ids)),
      )
      for margin in (False, True)
    )
    right = before & by_entropy & by_margin
    return measurement.proportion(
      right.sum(),
      right.size,
      f'{on}; attacked end to end by {self}, once on cross-entropy and once on '
      'margin of logits divided by their spread, right before and after both '
      f'attacks (clean accuracy of the same images {before.mean():.4f})',
    )

  def _right(self, apply):
    def right(variables, images, labels, ids, margin):
      images = augment.to_float(images)
      logits_fn = lambda x: apply(variables, x)[0]
      logits = logits_fn(images)
      loss_fn = pgd.scale_free_loss(logits_fn, labels, logits, margin)
      adv = self.ascend(loss_fn, self.key, images, ids)
      return is_right(logits, labels), is_right(logits_fn(adv), labels)

    return right


class Found(NamedTuple):
  """One accuracy of a classifier of a target task.

  Attributes:
    suffix: Of its name: ``_accuracy``, ``_pgd<k>_accuracy`` or
      ``_auto_attack_accuracy``.
    images: Which images, in words.
    measured: The accuracy.
  """

  suffix: str
  images: str
  measured: Measurement


def accuracies(
  classifier: Encoder,
  task: Task,
  on: str,
  attack: PGD,
  *,
  num_examples: int,
  auto_attack_examples: int,
) -> Iterator[Found]:
  """Accuracies on the test images of a task, clean and attacked.

  Args:
    classifier: Gives the logits.
    task: Its test images are classified.
    on: Their task and what classifies them, for the protocol.
    attack: The attack.
    num_examples: Test examples attacked by it, see `choose_test`; 0 for all.
    auto_attack_examples: Test examples attacked by AutoAttack in the same
      ball; 0 for no AutoAttack.

  Yields:
    Clean accuracy, that under the attack, and that under AutoAttack.
  """
  yield Found(
    '_accuracy',
    'test images',
    clean(classifier, task.test, on),
  )
  ids = choose_test(task, num_examples)
  yield Found(
    f'_pgd{attack.num_steps}_accuracy',
    f'test images attacked end to end by {attack}, right before and after',
    attack.measure(classifier, task.test, ids, on),
  )
  if auto_attack_examples:
    yield Found(
      '_auto_attack_accuracy',
      f'test images attacked end to end by AutoAttack standard, {attack.norm} '
      f'radius {attack.epsilon:.6g} on images in [0, 1]',
      auto_attack.measure(
        classifier,
        task.test,
        choose_test(task, auto_attack_examples),
        attack.key,
        on,
        epsilon=attack.epsilon,
        norm=attack.norm,
      ),
    )


def clean(classifier: Encoder, source: Source, on: str) -> Measurement:
  """Accuracy on all clean images of a source.

  Args:
    classifier: Gives the logits.
    source: The images.
    on: What classifies which images, for the protocol.

  Returns:
    The share that is right.
  """
  logits, _ = classifier.predict(source.images)
  right = np.asarray(is_right(logits, source.labels))
  return measurement.proportion(right.sum(), right.size, on)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Cross-entropy of each example, ``[B]``."""
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def is_right(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Whether the label has the highest logit, ``[B]``; never with a NaN."""
  return predicted(logits) == labels
