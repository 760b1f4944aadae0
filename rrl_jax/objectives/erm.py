"""Empirical risk minimisation: the mean cross entropy of the batch."""

import jax
import jax.numpy as jnp
import optax

from rrl_jax import typing
from rrl_jax.objectives import _classification


def make(
  apply_fn: typing.ApplyFn,
  *,
  data: typing.DataSpec | None = None,
  label_smoothing: float = 0.0,
) -> typing.Objective:
  """Returns the ERM objective, the baseline of every other one.

  With ``data.sampling='concept_balanced'`` it is concept-balanced ERM: the
  batches are drawn uniformly over concepts and every example weighs the same.

  Args:
    apply_fn: The network.
    data: Not used; every objective takes it.
    label_smoothing: Probability spread evenly over all classes, in [0, 1).

  Raises:
    ValueError: ``label_smoothing`` is out of range.
  """
  del data
  if not 0 <= label_smoothing < 1:
    raise ValueError(f'label_smoothing={label_smoothing} is not in [0, 1)')

  def loss_fn(params, model_state, aux_state, batch, key, step):
    del key, step
    (logits, _), model_state = apply_fn(
      params, model_state, batch['image'], train=True
    )
    losses = example_loss(logits, batch['label'])
    metrics = _classification.metrics(logits, batch['label'])
    return jnp.mean(losses), (model_state, aux_state, metrics)

  def example_loss(logits, labels, *_):
    targets = optax.smooth_labels(
      jax.nn.one_hot(labels, logits.shape[-1]), label_smoothing
    )
    return optax.softmax_cross_entropy(logits, targets)  # [B]

  return typing.Objective(loss_fn, example_loss=example_loss)
