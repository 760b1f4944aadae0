"""Losses of two views of each image: what self-supervision minimises."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from rrl_jax import losses, typing
from rrl_jax.objectives import _classification

BASES = ('simclr', 'supcon', 'cross_entropy')

Base = Callable[
  [jax.Array, dict[str, jax.Array], jax.Array], tuple[jax.Array, typing.Metrics]
]


def two_views(batch: typing.Batch) -> jax.Array:
  """Both views of each image, ``[2 B, H, W, C]``, first all first views."""
  views = batch['views']
  return jnp.concatenate([views[:, 0], views[:, 1]])


def base(name: str, *, temperature: float) -> Base:
  """The loss that keeps features apart.

  Args:
    name: 'simclr' (InfoNCE of the embeddings, labels unseen), 'supcon'
      (supervised contrastive), 'cross_entropy' of both views.
    temperature: Of the first two, positive.

  Returns:
    ``(logits [2 B, K], out, labels [B]) -> (loss, metrics)``.

  Raises:
    ValueError: An unknown name or a temperature that is not positive.
  """
  if name not in BASES:
    raise ValueError(f'base={name!r}; known: {", ".join(BASES)}')
  if not 0 < temperature < float('inf'):
    raise ValueError(f'temperature={temperature} is not positive')

  def loss_fn(logits, out, labels):
    labels = jnp.concatenate([labels, labels])
    ids = jnp.arange(len(labels)) % (len(labels) // 2)
    if name == 'cross_entropy':
      example_losses = _classification.cross_entropy(logits, labels)
      return jnp.mean(example_losses), _classification.metrics(logits, labels)
    embeddings = losses.l2_normalize(out['embedding'])
    if name == 'simclr':
      anchor_losses = losses.infonce(embeddings, ids, temperature=temperature)
    else:
      anchor_losses = losses.supervised_contrastive(
        embeddings, labels, ids, temperature=temperature
      )
    first, second = jnp.split(jax.lax.stop_gradient(embeddings), 2)
    mean = jnp.mean(jax.lax.stop_gradient(embeddings), axis=0)
    return jnp.mean(anchor_losses), {
      # Mean cosine of the two views of an image, and of any two images: equal
      # when everything has collapsed to one point.
      'view_cosine': jnp.mean(jnp.sum(first * second, axis=-1)),
      'mean_cosine': jnp.sum(jnp.square(mean)),
    }

  return loss_fn
