"""k nearest neighbours by cosine similarity, in chunks, on the device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from rrl_jax.evals.prediction import NONE


def predict(
  train: np.ndarray,
  labels: np.ndarray,
  queries: np.ndarray,
  *,
  num_classes: int,
  k: int,
  chunk_size: int = 256,
) -> np.ndarray:
  """Classifies by a vote of the k most similar training rows.

  Each neighbour has one vote; of classes with equal votes the first wins. A
  query that is not finite is near nothing.

  Args:
    train: Features, finite, ``[N, D]``.
    labels: Their classes, integers in ``[0, num_classes)``, ``[N]``.
    queries: Features to classify, ``[M, D]``.
    num_classes: Number of classes.
    k: Neighbours; at most N are used.
    chunk_size: Queries compared with all of ``train`` at once.

  Returns:
    Predicted classes, int64 ``[M]``; -1 of a query that is not finite.
  """
  k = min(k, len(train))
  bank = _unit(jnp.asarray(train))
  labels = jnp.asarray(labels)
  found = []
  for start in range(0, len(queries), chunk_size):
    chunk = queries[start : start + chunk_size]
    padded = np.pad(chunk, ((0, chunk_size - len(chunk)), (0, 0)))
    votes = _vote(bank, labels, padded, num_classes=num_classes, k=k)
    found.append(np.asarray(votes)[: len(chunk)])
  known = np.isfinite(queries).all(axis=1)
  return np.where(known, np.concatenate(found), NONE).astype(np.int64)


@functools.partial(jax.jit, static_argnames=('num_classes', 'k'))
def _vote(bank, labels, queries, *, num_classes, k):
  """Compiled part of `predict`."""
  similarity = jnp.matmul(_unit(queries), bank.T, precision='highest')
  _, nearest = jax.lax.top_k(similarity, k)  # [M, k]
  votes = jax.nn.one_hot(labels[nearest], num_classes).sum(axis=1)
  return jnp.argmax(votes, axis=-1)


def _unit(x):
  """Rows of length one; a row of zeros stays zero."""
  norm = jnp.linalg.norm(x, axis=-1, keepdims=True)
  return x / jnp.where(norm > 0, norm, 1)
