"""Momentum SGD on the training images of a target task."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import optax

from rrl_jax.data.source import Source
from rrl_jax.evals import pgd, rules
from rrl_jax.evals.encoder import Encoder

RULES = {
  'epochs': rules.POSITIVE_COUNT,
  'batch_size': rules.POSITIVE_COUNT,
  'lr': rules.POSITIVE,
  'momentum': (lambda v: 0 <= v < 1, 'in [0, 1)'),
  'weight_decay': rules.AT_LEAST_ZERO,
  'decays': (
    lambda v: not isinstance(v, str) and all(0 < part < 1 for part in v),
    'a list of parts of the run, each in (0, 1)',
  ),
  'train_steps': rules.POSITIVE_COUNT,
  'train_step_size': pgd.RULES['step_size'],
}


def optimizer(
  momentum: float, weight_decay: float
) -> optax.GradientTransformation:
  """Momentum SGD without its learning rate, as in torch.

  Args:
    momentum: Decay of the accumulated gradient.
    weight_decay: Added to the gradient, times the weights, of arrays with two
      or more axes.

  Returns:
    What gives the direction to subtract, see `descend`.
  """
  kernels = lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)
  return optax.chain(
    optax.add_decayed_weights(weight_decay, kernels), optax.trace(momentum)
  )


def descend(params: Any, direction: Any, lr: jax.Array) -> Any:
  """Parameters after a step of length ``lr``, each leaf in its dtype."""
  return jax.tree.map(
    lambda leaf, d: (leaf - lr * d).astype(leaf.dtype), params, direction
  )


def train(
  encoder: Encoder,
  step: Callable[..., Any],
  state: Any,
  source: Source,
  chosen: np.ndarray,
  *,
  key: jax.Array,
  epochs: int,
  batch_size: int,
  lr: float,
  decays: Sequence[float],
) -> Any:
  """Runs all steps on batches in an order that follows from the key.

  Args:
    encoder: Says on which devices; keeps what is compiled.
    step: ``(state, images, labels, ids [B], lr, key) -> state``, pure.
    state: Before the first step; a pytree of arrays.
    source: Images to choose from.
    chosen: The training examples, ``[N]``; their numbers are their ids.
    key: Of the order and of the steps.
    epochs: Passes over the examples.
    batch_size: Examples in a batch; at most N.
    lr: Learning rate.
    decays: Parts of the run after which the learning rate is a tenth.

  Returns:
    The state after the last step.
  """
  order_key, step_key = jax.random.split(key)
  size = min(batch_size, len(chosen))
  total = num_steps(len(chosen), epochs, size)
  if encoder.mesh is not None:
    # As it comes back, so that one program serves all steps.
    state = jax.device_put(state, NamedSharding(encoder.mesh, PartitionSpec()))
  else:
    state = jax.tree.map(jnp.asarray, state)
  run = encoder.compiled(step)
  for number, places in enumerate(
    _batches(order_key, len(chosen), size, total)
  ):
    ids = chosen[places]
    rate = lr * 0.1 ** sum(number >= part * total for part in decays)
    state = run(
      state,
      encoder.take(source.images, ids),
      encoder.take(source.labels, ids),
      encoder.take(ids, np.arange(len(ids))),
      np.float32(rate),
      jax.random.fold_in(step_key, number),
    )
  return state


def num_steps(num_train: int, epochs: int, batch_size: int) -> int:
  """Steps of full batches, which run on over the ends of epochs; at least 1."""
  return max(epochs * num_train // batch_size, 1)


def _batches(
  key: jax.Array, size: int, batch_size: int, total: int
) -> Iterator[np.ndarray]:
  """Places ``[batch_size]`` of each step: one shuffle after the other."""
  ready, epoch = np.empty(0, np.int64), 0
  for _ in range(total):
    while len(ready) < batch_size:
      shuffled = jax.random.permutation(jax.random.fold_in(key, epoch), size)
      ready, epoch = np.concatenate([ready, np.asarray(shuffled)]), epoch + 1
    yield ready[:batch_size]
    ready = ready[batch_size:]


def words(
  num_train: int,
  *,
  epochs: int,
  batch_size: int,
  lr: float,
  momentum: float,
  weight_decay: float,
  decays: Sequence[float],
) -> str:
  """The training in words, for a protocol."""
  size = min(batch_size, num_train)
  tenths = ''
  if decays:
    parts = ' and '.join(f'{part:.3g}' for part in decays)
    tenths = f', a tenth of it from {parts} of the run on'
  return (
    f'{epochs} epochs ({num_steps(num_train, epochs, size)} steps) of SGD on '
    f'{num_train} training images, batch {size}, momentum {momentum:g}, weight '
    f'decay {weight_decay:g}, learning rate {lr:g}{tenths}; no augmentation, '
    'the last state is taken'
  )


def divergence(trained: Any) -> str:
  """Words for a protocol where a number of what was trained is not finite."""
  leaves = jax.tree.leaves(jax.device_get(trained))
  if all(np.all(np.isfinite(np.asarray(x, np.float32))) for x in leaves):
    return ''
  return '; the training diverged'
