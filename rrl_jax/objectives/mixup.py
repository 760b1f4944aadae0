"""Mixup: cross entropy on blends of images against blends of labels.

References:
  Zhang et al., `mixup: Beyond Empirical Risk Minimization
  <https://arxiv.org/abs/1710.09412>`_, 2018.
"""

import jax.numpy as jnp

from rrl_jax import losses, typing
from rrl_jax.objectives import _classification


def make(
  apply_fn: typing.ApplyFn,
  *,
  data: typing.DataSpec | None = None,
  alpha: float = 1.0,
) -> typing.Objective:
  """Returns mixup with one weight a batch, as in the authors' code.

  The accuracy that is logged is that of the blend by the label of its larger
  part.

  Args:
    apply_fn: The network.
    data: Not used; every objective takes it.
    alpha: Of the Beta law of the weight, positive.

  Raises:
    ValueError: ``alpha`` is not positive.
  """
  del data
  if not 0 < alpha < float('inf'):
    raise ValueError(f'alpha={alpha} is not positive')

  def loss_fn(params, model_state, aux_state, batch, key, step):
    del step
    images, labels = batch['image'], batch['label']
    partners, weights = losses.mixup_pairs(key, len(labels), alpha=alpha)
    (logits, _), model_state = apply_fn(
      params,
      model_state,
      losses.mixup_inputs(images, partners, weights),
      train=True,
    )
    example_losses = losses.mixup_loss(
      _classification.cross_entropy, logits, labels, partners, weights
    )
    larger = jnp.where(weights >= 0.5, labels, labels[partners])
    metrics = _classification.metrics(logits, larger)
    return jnp.mean(example_losses), (model_state, aux_state, metrics)

  return typing.Objective(loss_fn)
