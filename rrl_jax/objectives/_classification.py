"""What every objective with labels computes alike."""

import jax
import jax.numpy as jnp
import optax

from rrl_jax import typing


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Cross entropy of each example in nats, ``[B]``."""
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def metrics(logits: jax.Array, labels: jax.Array) -> typing.Metrics:
  """What is logged of a batch's predictions.

  Args:
    logits: ``[..., B, K]``; leading axes are networks.
    labels: ``[B]``.

  Returns:
    ``accuracy``, a fraction by the given labels, and ``collapse``: by how much
    the largest class is larger among the predictions than among the labels,
    near 1 - 1/K when the network predicts one class for everything.
  """
  num_classes = logits.shape[-1]
  predictions = jnp.argmax(logits, axis=-1)
  largest = lambda classes: jnp.max(
    jnp.mean(jax.nn.one_hot(classes, num_classes), axis=-2), axis=-1
  )
  correct = predictions == jnp.broadcast_to(labels, predictions.shape)
  return {
    'accuracy': jnp.mean(correct.astype(jnp.float32)),
    'collapse': jnp.max(largest(predictions)) - largest(labels),
  }
