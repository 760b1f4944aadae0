"""The standard linear probe as a linear head on an encoder's own features."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rrl_jax.errors import ConfigError
from rrl_jax.evals import linear_probe
from rrl_jax.evals.encoder import Encoder
from rrl_jax.evals.task import Task, choose_training


class LinearHead(NamedTuple):
  """Logits ``features @ w + b``, and how they were fitted.

  Attributes:
    w: Weights, float32 ``[D, K]``.
    b: Biases, float32 ``[K]``.
    how: How it was fitted, in words, for a protocol.
    mean: Of the features it was fitted on, ``[D]``.
    scale: One over their standard deviation, ``[D]``.
  """

  w: np.ndarray
  b: np.ndarray
  how: str
  mean: np.ndarray
  scale: np.ndarray


def fit(
  features: np.ndarray,
  labels: np.ndarray,
  num_classes: int,
  l2: float,
  tol: float,
) -> LinearHead:
  """Fits the probe of standardised features as weights of the features.

  Args:
    features: As the encoder gives them, ``[N, D]``.
    labels: Integers ``[N]``.
    num_classes: Number of classes K.
    l2: Penalty, see `linear_probe.fit`.
    tol: Gradient tolerance, see `linear_probe.fit`.

  Returns:
    The head; mean and standard deviation are folded into its weights.
  """
  mean = np.mean(features, axis=0, dtype=np.float64)
  # One above the mean is one over the standard deviation.
  standardised, scale = linear_probe.standardise(features, mean[None] + 1)
  w, b, how = logistic_regression(standardised, labels, num_classes, l2, tol)
  w, b = fold(w, b, mean, scale[0])
  return LinearHead(w, b, how, mean, scale[0])


def fold(
  w: np.ndarray, b: np.ndarray, mean: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """A head of standardised features as one of the features as they are.

  Args:
    w: Weights of ``(features - mean) * scale``, ``[D, K]``.
    b: Biases, ``[K]``.
    mean: ``[D]``.
    scale: ``[D]``.

  Returns:
    ``(w [D, K], b [K])``, float32.
  """
  w = np.asarray(w, np.float64) * scale[:, None]
  b = np.asarray(b, np.float64) - mean @ w
  return w.astype(np.float32), b.astype(np.float32)


def unfold(
  w: np.ndarray, b: np.ndarray, mean: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """The inverse of `fold`."""
  b = np.asarray(b, np.float64) + mean @ np.asarray(w, np.float64)
  return (w / scale[:, None]).astype(np.float32), b.astype(np.float32)


def classifier(encoder: Encoder) -> Encoder:
  """The encoder with a linear head of its features instead of its own logits.

  Args:
    encoder: Gives the features; its batches and devices are kept.

  Returns:
    A classifier whose variables are ``(variables of the encoder, w [D, K],
    b [K])``; give it some by `Encoder.with_variables`.
  """
  encode = encoder.apply

  def apply(variables, images):
    network, w, b = variables
    features = encode(network, images)[1]
    return linear(features, w, b), features

  made = Encoder(apply, None, batch_size=encoder.batch_size, mesh=encoder.mesh)
  return encoder.remembered('linear head', made, {'size': encoder.batch_size})


def linear(features: jax.Array, w: jax.Array, b: jax.Array) -> jax.Array:
  """Logits ``[B, K]`` of features ``[B, D]``, in the dtype of the weights."""
  features = features.astype(w.dtype)
  return jnp.matmul(features, w, precision='highest') + b[None]


def logistic_regression(
  train: np.ndarray, labels: np.ndarray, num_classes: int, l2: float, tol: float
) -> tuple[jax.Array, jax.Array, str]:
  """Fits the linear probe, see `linear_probe.fit`.

  Returns:
    ``(w [D, K], b [K], how)``, the last in words, for a protocol.
  """
  w, b, iterations = linear_probe.fit(
    train, labels, num_classes=num_classes, l2=l2, tol=tol
  )
  how = f'logistic regression by L-BFGS, l2={l2:g}, gradient tolerance {tol:g}'
  if iterations >= linear_probe.MAX_ITERATIONS:
    how += f' (not reached in {iterations} iterations)'
  return w, b, how


def training_examples(
  evaluator: str, tasks: Sequence[Task], num_train: int
) -> list[np.ndarray]:
  """The examples of each task on which its head is fitted.

  Args:
    evaluator: Name of the evaluator.
    tasks: The target tasks.
    num_train: How many of each, see `choose_training`; 0 for all.

  Returns:
    Sorted int64 indices of each task, ``[n]``.

  Raises:
    ConfigError: The examples of a task are all of one class: a head has
      nothing to tell apart.
  """
  fitted = [choose_training(task, num_train) for task in tasks]
  for task, chosen in zip(tasks, fitted, strict=True):
    found = np.unique(task.train.labels[chosen])
    if found.size == 1:
      raise ConfigError(
        f'evals.{evaluator}: the {len(chosen)} training examples of task '
        f'{task.name} are all of class {task.train.class_names[found[0]]}; a '
        'classifier needs two classes'
      )
  return fitted
