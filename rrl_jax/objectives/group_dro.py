"""Group DRO: the worst mix of true groups, learned while training."""

import jax.numpy as jnp

from rrl_jax import losses, typing
from rrl_jax.objectives import _classification


def make(
  apply_fn: typing.ApplyFn,
  *,
  data: typing.DataSpec,
  step_size: float = 0.01,
  adjustment: float = 0.0,
  normalize: bool = False,
) -> typing.Objective:
  """Returns online group DRO on the groups of ``data.groups``.

  The one objective here that reads the group of a training example; it is the
  bound from above for those that may not. The authors draw groups uniformly:
  ``data.concepts='group'`` with ``data.sampling='concept_balanced'``.

  Args:
    apply_fn: The network.
    data: Names and sizes of the groups.
    step_size: Of the adversary's step on the weights of groups.
    adjustment: C of the generalisation adjustment C / sqrt(n_g).
    normalize: Whether losses of groups are divided by their sum first.

  Raises:
    ValueError: There are no groups, or a value is out of range.

  References:
    Sagawa et al., `Distributionally Robust Neural Networks for Group Shifts
    <https://arxiv.org/abs/1911.08731>`_, 2020, Algorithm 1.
  """
  if not data.group_names:
    raise ValueError('group_dro needs groups: set data.groups.kind')
  if not 0 < step_size < float('inf'):
    raise ValueError(f'step_size={step_size} is not in (0, inf)')
  if not 0 <= adjustment < float('inf'):
    raise ValueError(f'adjustment={adjustment} is not in [0, inf)')

  def init(params, model_state, batch, key):
    del params, model_state, batch, key
    return losses.group_dro_init(len(data.group_names))

  def loss_fn(params, model_state, aux_state, batch, key, step):
    del key, step
    labels, groups = batch['label'], batch['group']
    (logits, _), model_state = apply_fn(
      params, model_state, batch['image'], train=True
    )
    example_losses = _classification.cross_entropy(logits, labels)
    aux_state = losses.group_dro_update(
      aux_state,
      example_losses,
      groups,
      step_size=step_size,
      adjustment=adjustment,
      group_counts=data.group_counts,
      normalize=normalize,
    )
    weighted = losses.group_dro(example_losses, groups, aux_state)
    metrics = _classification.metrics(logits, labels) | {
      f'group_weight/{name}': weight
      for name, weight in zip(data.group_names, aux_state.probs, strict=True)
    }
    return jnp.mean(weighted), (model_state, aux_state, metrics)

  return typing.Objective(loss_fn, init, whole_batch=True)
