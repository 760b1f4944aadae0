"""What an encoder is evaluated on."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import NamedTuple
import zlib

import jax
import numpy as np

from rrl_jax.data.source import Source


class Task(NamedTuple):
  """A target task: another problem that the frozen features are to solve."""

  name: str
  train: Source
  test: Source


@dataclasses.dataclass(frozen=True)
class EvalData:
  """The source's splits and the target tasks.

  Attributes:
    train: What the encoder was trained on.
    test: Held-out examples of the same classes and concepts.
    tasks: Target tasks.
    gradient_norms: ``(logits [n, K], labels [n], index [n]) -> [n]``, how much
      each training example (``index`` is its place in ``train``) weighs: the
      L1 norm of the training loss's gradient at its logits. None where the
      loss does not say.
    learned: What the objective learned, by name.
  """

  train: Source
  test: Source
  tasks: tuple[Task, ...] = ()
  gradient_norms: Callable[..., np.ndarray] | None = None
  learned: Mapping[str, float] = dataclasses.field(default_factory=dict)


def test_images(test: Source) -> str:
  """What the examples of a test split are, for a protocol.

  Those held out of a training split with wrong labels have such labels too.
  """
  if test.truth is None:
    return 'clean test images'
  return 'held-out training images with their given, partly wrong labels'


def choose(key: jax.Array, size: int, num_examples: int) -> np.ndarray:
  """Chooses examples without replacement.

  Args:
    key: Key of the draw.
    size: Examples N there are.
    num_examples: How many to take; 0, or N and more, takes all.

  Returns:
    Sorted int64 indices ``[n]``.
  """
  if not 0 < num_examples < size:
    return np.arange(size)
  chosen = np.asarray(jax.random.permutation(key, size))[:num_examples]
  return np.sort(chosen).astype(np.int64)


def choose_training(task: Task, num_train: int) -> np.ndarray:
  """Chooses the training examples of a target task.

  The draw follows from the task's name and size alone, so that all evaluators
  with one ``num_train`` fit on the same examples, whatever the run's seed.

  Args:
    task: The target task.
    num_train: How many to take; 0, or as many as there are, takes all.

  Returns:
    Sorted int64 indices ``[n]``.
  """
  return choose(_key(task), len(task.train), num_train)


def choose_test(task: Task, num_examples: int) -> np.ndarray:
  """Chooses the test examples of a target task that are attacked.

  Again by the task's name and size alone: all attacks meet the same images,
  and a smaller choice is part of a larger one.

  Args:
    task: The target task.
    num_examples: How many to take; 0, or as many as there are, takes all.

  Returns:
    Sorted int64 indices ``[n]``.
  """
  return choose(_key(task), len(task.test), num_examples)


def _key(task):
  """A key that follows from the task's name."""
  return jax.random.key(zlib.crc32(task.name.encode()))
