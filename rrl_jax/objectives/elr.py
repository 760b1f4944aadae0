"""Early-learning regularisation: held to what was predicted before memorising.

References:
  Liu et al., `Early-Learning Regularization Prevents Memorization of Noisy
  Labels <https://arxiv.org/abs/2007.00151>`_, 2020.
"""

import jax.numpy as jnp

from rrl_jax import losses, typing
from rrl_jax.objectives import _classification


def make(
  apply_fn: typing.ApplyFn,
  *,
  data: typing.DataSpec,
  strength: float = 3.0,
  momentum: float = 0.7,
) -> typing.Objective:
  """Returns cross entropy with ELR's pull.

  Args:
    apply_fn: The network.
    data: Sizes of the memory, one row a training example.
    strength: Weight of the pull, at least 0; the authors have 3 on CIFAR-10
      and 7 on CIFAR-100.
    momentum: Of the memory, in [0, 1]; 0.7 and 0.9.

  Raises:
    ValueError: A value is out of range.
  """
  if not 0 <= strength < float('inf'):
    raise ValueError(f'strength={strength} is not in [0, inf)')
  if not 0 <= momentum <= 1:
    raise ValueError(f'momentum={momentum} is not in [0, 1]')

  def init(params, model_state, batch, key):
    del params, model_state, batch, key
    return losses.early_learning_init(data.num_examples, len(data.class_names))

  def loss_fn(params, model_state, aux_state, batch, key, step):
    del key, step
    labels = batch['label']
    (logits, _), model_state = apply_fn(
      params, model_state, batch['image'], train=True
    )
    aux_state, targets = losses.early_learning_update(
      aux_state, logits, batch['index'], momentum=momentum
    )
    example_losses = losses.early_learning_regularization(
      logits, labels, targets, strength=strength
    )
    metrics = _classification.metrics(logits, labels)
    return jnp.mean(example_losses), (model_state, aux_state, metrics)

  def example_loss(logits, labels, index, aux_state, step):
    del step
    return losses.early_learning_regularization(
      logits, labels, aux_state.targets[index], strength=strength
    )

  return typing.Objective(loss_fn, init, example_loss=example_loss)
