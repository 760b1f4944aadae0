"""Losses of two views of each image: what self-supervision minimises."""

from collections.abc import Callable
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from rrl_jax import losses, target, typing
from rrl_jax.objectives import _classification, _teacher

BASES = ('simclr', 'byol', 'supcon', 'cross_entropy')


class Base(NamedTuple):
  """A loss that keeps features apart, with what it has to remember.

  Attributes:
    loss_fn: ``(params, model_state, aux_state, images [2 B, H, W, C], labels
      [B]) -> (loss, logits, out, (model_state, aux_state, metrics))``.
    init: ``aux_state`` before the first step, as of `typing.Objective`.
  """

  loss_fn: Callable[..., tuple]
  init: Callable[..., typing.AuxState]


def two_views(batch: typing.Batch) -> jax.Array:
  """Both views of each image, ``[2 B, H, W, C]``, as `join` orders them."""
  views = batch['views']
  return join(views[:, 0], views[:, 1])


def join(*views: jax.Array) -> jax.Array:
  """Rows of several views, ``[V B, ...]``: first all first views.

  On a mesh that is so on each device, with the rows that it has: none moves.

  Args:
    *views: Each ``[B, ...]``, the same images in the same order.
  """
  blocks = _num_blocks()
  if blocks == 1:
    return jnp.concatenate(views)
  shape = views[0].shape[1:]
  cut = [view.reshape(blocks, -1, *shape) for view in views]
  return jnp.concatenate(cut, axis=1).reshape(-1, *shape)


def split(rows: jax.Array, num_views: int = 2) -> list[jax.Array]:
  """The views ``[B, ...]`` that `join` put together."""
  blocks = _num_blocks()
  if blocks == 1:
    return jnp.split(rows, num_views)
  cut = rows.reshape(blocks, num_views, -1, *rows.shape[1:])
  return [
    cut[:, view].reshape(-1, *rows.shape[1:]) for view in range(num_views)
  ]


def compare(loss_fn: Callable[..., jax.Array], *rows: jax.Array) -> jax.Array:
  """A loss that compares each row with all others, one value a row.

  On a mesh each device keeps its rows, and those of the others pass by.

  Args:
    loss_fn: ``(*rows, axis_name=None) -> [N]``, as those of `losses`.
    *rows: Embeddings, labels and the like, each with N rows.
  """
  mesh = target.mesh()
  if _num_blocks() == 1:
    return loss_fn(*rows)
  return jax.shard_map(
    functools.partial(loss_fn, axis_name='data'),
    mesh=mesh,
    in_specs=PartitionSpec('data'),
    out_specs=PartitionSpec('data'),
  )(*rows)


def _num_blocks():
  """Over how many devices the rows are split."""
  mesh = target.mesh()
  return 1 if mesh is None else mesh.shape['data']


def base(
  name: str,
  apply_fn: typing.ApplyFn,
  *,
  temperature: float = 0.5,
  momentum: float = 0.99,
) -> Base:
  """The loss that keeps features apart.

  Args:
    name: 'simclr' (InfoNCE of the embeddings, labels unseen), 'byol' (the
      embedding of one view is predicted from the other's, labels unseen),
      'supcon' (supervised contrastive), 'cross_entropy' of both views.
    apply_fn: The network; of 'byol' it needs ``model.kw.predictor``.
    temperature: Of 'simclr' and 'supcon', positive.
    momentum: Of the teacher of 'byol', in [0, 1).

  Raises:
    ValueError: An unknown name, or a value out of range.
  """
  if name not in BASES:
    raise ValueError(f'base={name!r}; known: {", ".join(BASES)}')
  if not 0 < temperature < float('inf'):
    raise ValueError(f'temperature={temperature} is not positive')
  if not 0 <= momentum < 1:
    raise ValueError(f'momentum={momentum} is not in [0, 1)')

  def loss_fn(params, model_state, aux_state, images, labels):
    (logits, out), model_state = apply_fn(
      params, model_state, images, train=True
    )
    if name == 'cross_entropy':
      labels = join(labels, labels)
      loss = jnp.mean(_classification.cross_entropy(logits, labels))
      metrics = _classification.metrics(logits, labels)
    else:
      embeddings = losses.l2_normalize(out['embedding'])
      metrics = geometry(embeddings)
      if name == 'simclr':
        loss = infonce(embeddings, temperature)
      elif name == 'supcon':
        supervised = functools.partial(
          losses.supervised_contrastive, temperature=temperature
        )
        both = join(labels, labels)
        ids = instance_ids(embeddings)
        loss = jnp.mean(compare(supervised, embeddings, both, ids))
      else:
        (_, followed), teacher = _teacher.forward(
          apply_fn, aux_state['teacher'], images, train=True
        )
        loss = prediction_error(out, followed)
        aux_state = aux_state | {
          'teacher': _teacher.follow(teacher, params, momentum)
        }
    return loss, logits, out, (model_state, aux_state, metrics)

  def init(params, model_state, batch, key):
    del key
    if name != 'byol':
      return {}
    forward = functools.partial(apply_fn, train=False)
    (_, out), _ = jax.eval_shape(forward, params, model_state, batch['image'])
    if 'prediction' not in out:
      raise ValueError("base='byol' needs model.kw.predictor=True")
    return {'teacher': _teacher.init(params, model_state)}

  return Base(loss_fn, init)


def instance_ids(embeddings: jax.Array, num_views: int = 2) -> jax.Array:
  """The image of each row, ``[V B]``, where `join` put the views together."""
  ids = jnp.arange(len(embeddings) // num_views)
  return join(*[ids] * num_views)


def infonce(
  embeddings: jax.Array, temperature: float, num_views: int = 2
) -> jax.Array:
  """Mean InfoNCE of unit rows ``[V B, D]``, as `join` orders them."""
  return jnp.mean(anchor_infonce(embeddings, temperature, num_views))


def anchor_infonce(
  embeddings: jax.Array, temperature: float, num_views: int = 2
) -> jax.Array:
  """The same of each row, ``[V B]``."""
  loss_fn = functools.partial(losses.infonce, temperature=temperature)
  return compare(loss_fn, embeddings, instance_ids(embeddings, num_views))


def prediction_error(out, followed) -> jax.Array:
  """``2 - 2 cos`` between each embedding of the teacher and its prediction.

  The prediction is made from the other view; the mean is over both views.
  """
  predicted = losses.l2_normalize(out['prediction'])
  first, second = split(losses.l2_normalize(followed['embedding']))
  expected = join(second, first)
  return jnp.mean(2 - 2 * jnp.sum(predicted * expected, axis=-1))


def geometry(embeddings: jax.Array) -> typing.Metrics:
  """Mean cosine of the two views of an image, and of any two rows.

  They are equal when everything has collapsed to one point.
  """
  embeddings = jax.lax.stop_gradient(embeddings)
  first, second = split(embeddings)
  return {
    'view_cosine': jnp.mean(jnp.sum(first * second, axis=-1)),
    'mean_cosine': jnp.sum(jnp.square(jnp.mean(embeddings, axis=0))),
  }
